"""Finds again whatever was left behind: retries that are due, lost leases, unmatched events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import structlog

from upshot.clock import Clock
from upshot.errors import Unavailable
from upshot.execution.executor import Executor
from upshot.ports.concurrency import RunInThread
from upshot.ports.executions import Due, ExecutionStore
from upshot.ports.messaging import Notifier

log = structlog.get_logger("upshot.execution")

RING_SIZE = 100  # ids in one Celery task
UNHEARD_SECONDS = 5.0  # a ring that nobody answered for so long: whoever notices carries out the execution itself


class Sweeper:
    """
    Calls workers to the executions that are due, and carries out what a ring did not bring.

    Args:
        engine: This worker's engine.
        executions: Where executions are kept.
        doorbell: Celery; it may be down, then this worker takes what it found.
        clock: Tells the time.
        run_in_thread: Runs blocking calls.
        after_outage: How long to leave everything alone when the database is back: leases ran out
            meanwhile that living workers still hold, and are about to renew.
    """

    def __init__(
        self,
        engine: Executor,
        executions: ExecutionStore,
        doorbell: Notifier,
        clock: Clock,
        run_in_thread: RunInThread,
        *,
        after_outage: timedelta,
    ) -> None:
        self._engine = engine
        self._executions = executions
        self._doorbell = doorbell
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._after_outage = after_outage
        self._was_away = False
        self._not_before = clock.now()

    async def sweep(self) -> int:
        """Find what is due or lost, and see to it; returns how many executions were found."""
        if self._was_away:
            await self._take(0)
            self._was_away = False
            self._not_before = self._clock.now() + self._after_outage
        if self._clock.now() < self._not_before:
            return 0
        found = 0
        while limit := min(self._engine.capacity, 5 * RING_SIZE):
            due = await self._take(limit)
            unheard = [one.execution_id for one in due if one.notified_before]
            fresh = [one.execution_id for one in due if not one.notified_before]
            for start in range(0, len(fresh), RING_SIZE):
                ids = fresh[start : start + RING_SIZE]
                if not await self._run_in_thread(self._doorbell.notify_executions, ids):
                    unheard += ids
            await self._engine.execute(unheard)
            found += len(due)
            if len(due) < limit:
                break
        return found

    async def _take(self, limit: int) -> tuple[Due, ...]:
        now = self._clock.now()
        unheard = now - timedelta(seconds=UNHEARD_SECONDS)
        try:
            return await self._run_in_thread(self._executions.take_due, now=now, notified_before=unheard, limit=limit)
        except Unavailable:
            self._was_away = True
            raise


async def repeat(
    name: str, every_seconds: float, work: Callable[[], Awaitable[object]], *, until: asyncio.Event
) -> None:
    """
    Do the work again and again, whatever becomes of one time; a stop lets the present time end.

    An outage is a warning; any other failure is logged with its trace, and the next time may go
    well: a loop that ended silently would leave a worker that looks alive and does nothing.

    Args:
        name: For the log.
        every_seconds: Pause between the end of one time and the next.
        work: What to do.
        until: Set when it is enough.
    """
    while not until.is_set():
        try:
            await work()
        except Unavailable as error:
            log.warning("loop.waits", loop=name, error=str(error))
        except Exception:
            log.exception("loop.broke", loop=name)
        with suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), every_seconds)
