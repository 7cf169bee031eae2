"""
Ends runs whose heartbeats have stopped.

The web process does it, because heartbeats come to it: while it is down, or cannot write them, nobody may conclude
that a run is dead. So it waits after its start, and after every interruption, as long as a run may be silent.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from upshot.clock import Clock, stopwatch
from upshot.domain.run import HEARTBEAT_TIMEOUT
from upshot.registry.service import Registry

SILENT_RUNS_SECONDS = 2.0  #: between two searches
_MAX_GAP_SECONDS = 10.0  # between two searches; after a longer one, the process did not run meanwhile
_MAX_JUMP_SECONDS = 5.0  # of the clock


class SilentRuns:
    """
    Ends silent runs, unless the silence may be this process's own.

    Args:
        registry: Holds the runs.
        clock: Provides the times of heartbeats.
        can_write: Returns whether heartbeats can be stored now.
        elapsed: Returns the seconds of a clock that does not jump.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        can_write: Callable[[], bool],
        elapsed: Callable[[], float] = stopwatch,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._can_write = can_write
        self._elapsed = elapsed
        self._listening_since: float | None = None
        self._last: tuple[float, datetime] | None = None

    def end(self) -> int:
        """End the runs that are silent, and return how many."""
        elapsed, now = self._elapsed(), self._clock.now()
        if self._was_interrupted(elapsed, now):
            self._listening_since = elapsed
        self._last = elapsed, now
        if not self._can_write():
            self._listening_since = None
        if self._listening_since is None or elapsed - self._listening_since <= HEARTBEAT_TIMEOUT.total_seconds():
            return 0
        return self._registry.end_silent_runs()

    def _was_interrupted(self, elapsed: float, now: datetime) -> bool:
        if self._last is None or self._listening_since is None:
            return True
        since, then = self._last
        gap = elapsed - since
        return gap > _MAX_GAP_SECONDS or abs((now - then).total_seconds() - gap) > _MAX_JUMP_SECONDS
