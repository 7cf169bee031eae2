"""When to try again: a pure decision."""

from __future__ import annotations

from upshot.domain.automation import RetryPolicy
from upshot.errors import ActionError

LONGEST_WISH_SECONDS = 24 * 3600.0  # a receiver may ask for more than our cap, but not for ever


def wait_before_next(policy: RetryPolicy, *, failures: int, error: ActionError, chance: float) -> float | None:
    """
    Tell how long to wait before the next attempt.

    Waits double from `first_seconds` up to `cap_seconds`; the upper half of each is left to
    chance, so that a thousand executions that failed together do not come back together.

    Args:
        policy: The step's retry policy.
        failures: Failed attempts of this round, the one that just failed included; from 1.
        error: Why it failed; its class says whether trying again can help.
        chance: From 0 to 1, evenly spread.

    Returns:
        Seconds to wait, or None to give up.
    """
    if not error.retryable or failures >= policy.attempts:
        return None
    doubled = policy.first_seconds * 2.0 ** min(failures - 1, 60)
    ours = min(policy.cap_seconds, doubled) * (0.5 + 0.5 * chance)
    wish = min(error.retry_after_seconds or 0.0, LONGEST_WISH_SECONDS)
    return max(ours, wish)
