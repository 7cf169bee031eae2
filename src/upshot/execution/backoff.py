"""How long an execution waits when its destination already has the maximum number of requests in flight."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from upshot.clock import stopwatch

MIN_WAIT_SECONDS = 2.0
# To one destination, on average. Each retry costs a claim and a write, and usually finds it still busy.
RETRIES_PER_SECOND = 50.0


class BusyBackoff:
    """
    Spreads the retries to a busy destination, so that its long queue does not slow down the other destinations.

    Args:
        clock: Returns seconds on a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = stopwatch) -> None:
        self._clock = clock
        self._retries: dict[str, deque[float]] = {}  #: times of the planned retries, by destination

    def wait_seconds(self, destination: str) -> float:
        """Return how long one more execution for this destination waits. The more are waiting, the longer it is."""
        now = self._clock()
        planned = self._retries.setdefault(destination, deque())
        while planned and planned[0] < now:
            planned.popleft()
        average = max(MIN_WAIT_SECONDS, len(planned) / RETRIES_PER_SECOND)
        wait = average * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not cryptography
        planned.append(now + wait)
        if len(planned) == 1:  # remove the destinations that no longer have a planned retry
            self._retries = {name: times for name, times in self._retries.items() if times[-1] >= now}
        return wait
