"""Finds executions that are due or whose lease has expired."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

from upshot.clock import Clock
from upshot.errors import Unavailable
from upshot.execution.executor import Executor
from upshot.ids import ExecutionId
from upshot.ports.executions import Due, ExecutionStore
from upshot.ports.messaging import Notifier
from upshot.ports.run_in_thread import RunInThread

NOTIFY_BATCH = 100  # ids in one Celery task
NOTIFY_SECONDS = 0.5  # for one notification; after it, the sweeper's own worker executes the ids
# If no worker claims an execution within this time after its notification, the sweeper's own worker executes it.
UNANSWERED_SECONDS = 5.0


class Sweeper:
    """
    Notifies workers of due executions, and executes those that no worker claimed after a notification.

    Args:
        executor: The executor of this worker.
        executions: Stores executions.
        notifier: Notifies any worker of due executions. If the broker is down, this worker executes them itself.
        clock: Returns the current time.
        run_in_thread: Runs blocking calls.
        after_outage: Pause after the database was unavailable. Leases have expired meanwhile whose workers
            are alive and about to renew them.
        may_take_over: Whether expired leases can be taken over now. They cannot while no worker can renew them.
    """

    def __init__(
        self,
        executor: Executor,
        executions: ExecutionStore,
        notifier: Notifier,
        clock: Clock,
        run_in_thread: RunInThread,
        *,
        after_outage: timedelta,
        may_take_over: Callable[[], bool] = lambda: True,
    ) -> None:
        self._executor = executor
        self._executions = executions
        self._notifier = notifier
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._after_outage = after_outage
        self._may_take_over = may_take_over
        self._database_was_down = False
        self._paused_until = clock.now()
        self._notification: asyncio.Future[bool] | None = None

    async def sweep(self) -> int:
        """Hand due executions to workers, and return their number."""
        if self._database_was_down:
            await self._take_due(0)
            self._database_was_down = False
            self._paused_until = self._clock.now() + self._after_outage
        if self._clock.now() < self._paused_until:
            return 0
        found = 0
        while limit := min(self._executor.capacity, 5 * NOTIFY_BATCH):
            due = await self._take_due(limit)
            unanswered = [execution.execution_id for execution in due if execution.notified_before]
            new = [execution.execution_id for execution in due if not execution.notified_before]
            await self._executor.execute(unanswered)  # own work first: a broker that hangs must not delay it
            for start in range(0, len(new), NOTIFY_BATCH):
                batch = new[start : start + NOTIFY_BATCH]
                if not await self._notify(batch):
                    await self._executor.execute(batch)
            found += len(due)
            if len(due) < limit:
                break
        return found

    async def _notify(self, execution_ids: Sequence[ExecutionId]) -> bool:
        """Notify workers, and return whether that succeeded in time. A notification that arrives later does no harm."""
        if self._notification is not None and not self._notification.done():
            return False
        self._notification = asyncio.ensure_future(self._run_in_thread(self._notifier.notify_executions, execution_ids))
        await asyncio.wait({self._notification}, timeout=NOTIFY_SECONDS)
        return self._notification.done() and self._notification.result()

    async def _take_due(self, limit: int) -> tuple[Due, ...]:
        now = self._clock.now()
        try:
            return await self._run_in_thread(
                self._executions.take_due,
                now=now,
                notified_before=now - timedelta(seconds=UNANSWERED_SECONDS),
                limit=limit,
                with_lost=self._may_take_over(),
            )
        except Unavailable:
            self._database_was_down = True
            raise
