"""The retry policy decides when a failed step is attempted again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.domain.automation import RetryPolicy
from upshot.errors import Ambiguous, Blocked, Refused, Unreachable
from upshot.execution.retry import MAX_RETRY_AFTER_SECONDS, wait_before_next

POLICY = RetryPolicy(max_attempts=4, first_seconds=2.0, cap_seconds=5.0)


@pytest.mark.parametrize(
    ("failures", "chance", "wait"),
    [
        pytest.param(1, 1.0, 2.0, id="starts with the first wait"),
        pytest.param(1, 0.0, 1.0, id="half of the wait is random"),
        pytest.param(2, 1.0, 4.0, id="the wait doubles"),
        pytest.param(3, 1.0, 5.0, id="the wait stops at the cap"),
        pytest.param(4, 1.0, None, id="gives up after the last attempt"),
    ],
)
def test_waits_double_up_to_the_cap(failures, chance, wait):
    """The waits follow the policy."""
    assert wait_before_next(POLICY, failures=failures, error=Unreachable("down"), chance=chance) == wait


@pytest.mark.parametrize("error", [Refused("no"), Blocked("not allowed")])
def test_an_error_that_a_retry_cannot_fix_is_final(error):
    """The step gives up after the first attempt."""
    assert wait_before_next(POLICY, failures=1, error=error, chance=0.5) is None


def test_an_ambiguous_attempt_is_retried():
    """The receiver can drop the second request, because both have the same delivery id."""
    assert wait_before_next(POLICY, failures=1, error=Ambiguous("no answer"), chance=1.0) == 2.0


def test_a_receiver_may_ask_for_a_longer_wait_than_the_cap():
    """`Retry-After` is honoured beyond the cap."""
    error = Unreachable("429", retry_after_seconds=60.0)
    assert wait_before_next(POLICY, failures=1, error=error, chance=1.0) == 60.0


@given(
    failures=st.integers(1, 10_000),
    chance=st.floats(0, 1),
    retry_after=st.none() | st.floats(0, 1e12),
    attempts=st.integers(2, 20_000),
)
def test_a_wait_is_neither_shorter_than_requested_nor_endless(failures, chance, retry_after, attempts):
    """A wait is at least `Retry-After` (a day at most), and at most the larger one of `Retry-After` and the cap."""
    policy = RetryPolicy(max_attempts=attempts, first_seconds=1.0, cap_seconds=3600.0)
    error = Unreachable("down", retry_after_seconds=retry_after)
    wait = wait_before_next(policy, failures=failures, error=error, chance=chance)
    if failures >= attempts:
        assert wait is None
    else:
        assert wait is not None
        requested = min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS)
        assert max(0.5, requested) <= wait <= max(3600.0, requested)
