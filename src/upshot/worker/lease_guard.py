"""Decide whether an expired lease means that its worker is dead, or that nobody could renew a lease."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from upshot.clock import Clock, stopwatch

MAX_CLOCK_JUMP_SECONDS = 1.0


class LeaseGuard:
    """
    Watches the heartbeats of this worker.

    While the database is slow or down, no worker can renew its leases, and all of them expire. Afterwards, every worker
    that is alive renews them within one heartbeat. Until then, no worker may take them over. The same applies after
    the machine's clock was set, and to a worker that has just started, because an outage may have ended just then.

    Args:
        clock: The clock that leases are compared with.
        lease_seconds: Duration of a lease.
        heartbeat_seconds: Interval of the heartbeats.
        replaces_worker: Whether the worker replaces a worker that is known to be dead. It takes over that worker's
            leases at once.
    """

    def __init__(
        self, clock: Clock, *, lease_seconds: float, heartbeat_seconds: float, replaces_worker: bool = False
    ) -> None:
        self._clock = clock
        self._slow_seconds = lease_seconds / 6  # a heartbeat that takes longer is an outage
        self._settle_seconds = heartbeat_seconds + self._slow_seconds + 1.0
        self._started_at: float | None = None  #: when the current heartbeat started
        self._untrusted_until = 0.0 if replaces_worker else math.inf
        self._clock_offset = self._offset()

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Measure a heartbeat. It counts as an outage if it raises an error or takes too long."""
        self._started_at = stopwatch()
        failed = True
        try:
            yield
            failed = False
        finally:
            is_first = self._untrusted_until == math.inf
            if failed or is_first or stopwatch() - self._started_at > self._slow_seconds:
                self._distrust()
            self._started_at = None

    def may_take_over(self) -> bool:
        """Return whether an expired lease means that its worker is dead."""
        if self._started_at is not None and stopwatch() - self._started_at > self._slow_seconds:
            self._distrust()
        offset = self._offset()
        if abs(offset - self._clock_offset) > MAX_CLOCK_JUMP_SECONDS:
            self._distrust()
        self._clock_offset = offset
        return stopwatch() >= self._untrusted_until

    def _distrust(self) -> None:
        self._untrusted_until = stopwatch() + self._settle_seconds

    def _offset(self) -> float:
        return self._clock.now().timestamp() - stopwatch()
