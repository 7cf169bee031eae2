"""When to try again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.domain.automation import RetryPolicy
from upshot.errors import Ambiguous, Blocked, Refused, Unreachable
from upshot.execution.retry import LONGEST_WISH_SECONDS, wait_before_next

POLICY = RetryPolicy(attempts=4, first_seconds=2.0, cap_seconds=5.0)


@pytest.mark.parametrize(
    ("failures", "chance", "wait"),
    [
        pytest.param(1, 1.0, 2.0, id="begins with the first wait"),
        pytest.param(1, 0.0, 1.0, id="half of it is left to chance"),
        pytest.param(2, 1.0, 4.0, id="doubles"),
        pytest.param(3, 1.0, 5.0, id="stops at the cap"),
        pytest.param(4, 1.0, None, id="gives up after the last attempt"),
    ],
)
def test_waits_double_up_to_the_cap(failures, chance, wait):
    """The waits are those of the policy."""
    assert wait_before_next(POLICY, failures=failures, error=Unreachable("down"), chance=chance) == wait


@pytest.mark.parametrize("error", [Refused("no"), Blocked("not allowed")])
def test_what_trying_again_cannot_help_is_given_up_at_once(error):
    """A refusal is final at the first attempt."""
    assert wait_before_next(POLICY, failures=1, error=error, chance=0.5) is None


def test_an_ambiguous_attempt_is_tried_again():
    """Sent without an answer is sent again: the delivery id lets the receiver drop the second."""
    assert wait_before_next(POLICY, failures=1, error=Ambiguous("no answer"), chance=1.0) == 2.0


def test_a_receiver_may_ask_for_more_than_our_cap():
    """Retry-After is obeyed beyond the cap."""
    error = Unreachable("429", retry_after_seconds=60.0)
    assert wait_before_next(POLICY, failures=1, error=error, chance=1.0) == 60.0


@given(
    failures=st.integers(1, 10_000),
    chance=st.floats(0, 1),
    wish=st.none() | st.floats(0, 1e12),
    attempts=st.integers(2, 20_000),
)
def test_a_wait_is_never_shorter_than_asked_nor_endless(failures, chance, wish, attempts):
    """Whatever the numbers, a wait lies between the receiver's wish (a day at most) and the larger of wish and cap."""
    policy = RetryPolicy(attempts=attempts, first_seconds=1.0, cap_seconds=3600.0)
    error = Unreachable("down", retry_after_seconds=wish)
    wait = wait_before_next(policy, failures=failures, error=error, chance=chance)
    if failures >= attempts:
        assert wait is None
    else:
        assert wait is not None
        asked = min(wish or 0.0, LONGEST_WISH_SECONDS)
        assert max(0.5, asked) <= wait <= max(3600.0, asked)
