"""How long executions wait whose destination has its share of requests in flight."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from upshot.clock import stopwatch

SHORTEST_SECONDS = 2.0
RETURNS_A_SECOND = 50.0  # to one destination, about; each costs a claim and a write, and most find it busy still


class BusyBackoff:
    """
    Spreads the returns to a busy destination, so that a long queue at one costs the others nothing.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = stopwatch) -> None:
        self._clock = clock
        self._returns: dict[str, deque[float]] = {}

    def wait_seconds(self, destination: str) -> float:
        """How long one more execution for this destination waits: the longer, the more are waiting."""
        now = self._clock()
        waiting = self._returns.setdefault(destination, deque())
        while waiting and waiting[0] < now:
            waiting.popleft()
        usual = max(SHORTEST_SECONDS, len(waiting) / RETURNS_A_SECOND)
        wait = usual * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not cryptography
        waiting.append(now + wait)
        if len(waiting) == 1:
            self._forget_idle(now)
        return wait

    def _forget_idle(self, now: float) -> None:
        for destination in [name for name, waiting in self._returns.items() if waiting[-1] < now]:
            del self._returns[destination]
