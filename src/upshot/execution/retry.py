"""Decide when a failed step is attempted again: a pure function."""

from __future__ import annotations

from upshot.domain.automation import RetryPolicy
from upshot.errors import ActionError

MAX_RETRY_AFTER_SECONDS = 24 * 3600.0  # a receiver may ask for a longer wait than our cap, up to a day


def wait_before_next(policy: RetryPolicy, *, failures: int, error: ActionError, chance: float) -> float | None:
    """
    Compute the delay before the next attempt.

    Waits double from `first_seconds` up to `cap_seconds`. The upper half of each wait is random, so
    that a thousand executions that failed together are not retried at the same moment.

    Args:
        policy: The step's retry policy.
        failures: Number of failed attempts of this round, counted from 1. It includes the attempt that just failed.
        error: Why the attempt failed. Its class says whether another attempt can help.
        chance: Random number from 0 to 1, evenly distributed.

    Returns:
        Seconds to wait, or None to give up.
    """
    if not error.retryable or failures >= policy.max_attempts:
        return None
    doubled = policy.first_seconds * 2.0 ** min(failures - 1, 60)
    backoff = min(policy.cap_seconds, doubled) * (0.5 + 0.5 * chance)
    return max(backoff, min(error.retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS))
