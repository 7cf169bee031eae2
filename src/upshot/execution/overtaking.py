"""
Keeps a late attempt from restoring an older state.

`production` moves to v0, and its webhook is not reachable. Then it moves to v1, whose webhook arrives. If the webhook
for v0 were sent again now, the receiver would end up with v0. So a late attempt of a step is skipped if a newer
execution of the same automation, for the same alias of the same collection, has completed that step.

First attempts that start in time are not checked, because the check costs a query. Executions of different events
run at the same time, so a receiver can still get two first attempts in either order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from upshot.domain.event import Event
from upshot.domain.execution import Execution, StepRecord
from upshot.errors import Unavailable
from upshot.ids import ExecutionId
from upshot.ports.executions import ExecutionOrder, OrderedStep
from upshot.ports.run_in_thread import RunInThread

log = structlog.get_logger("upshot.execution")

LATE_AFTER = timedelta(seconds=2)  # age of an event after which even a first attempt is checked
MAX_BATCH = 200
MAX_PAUSE_SECONDS = 5.0


def ordered_step(execution: Execution, record: StepRecord) -> OrderedStep | None:
    """Return the key by which newer executions of the step are found, or None if nothing can overtake it."""
    if execution.alias_reference is None or record.ignores_overtaking:
        return None
    return OrderedStep(execution.automation, execution.alias_reference, execution.event_id, record.id)


def late_step(execution: Execution, record: StepRecord, event: Event, now: datetime) -> OrderedStep | None:
    """Return the step if its attempt is late and must be checked, or None."""
    if execution.alias_reference is None or record.job_id is not None:  # its job has run; only the result is missing
        return None
    is_first_claim = execution.fence == 1  # by the worker that admitted the event
    return None if is_first_claim and now - event.time < LATE_AFTER else ordered_step(execution, record)


class OvertakingLookup:
    """
    Finds out for many executions at once whether newer ones have overtaken them.

    Requests that arrive during a query share the next one.

    Args:
        executions: Stores executions.
        run_in_thread: Runs blocking calls.
    """

    def __init__(self, executions: ExecutionOrder, run_in_thread: RunInThread) -> None:
        self._executions = executions
        self._run_in_thread = run_in_thread
        self._waiting: list[tuple[OrderedStep, asyncio.Future[ExecutionId | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def find(self, step: OrderedStep) -> ExecutionId | None:
        """Return the newest execution that has completed the step after this one's event, or None."""
        found: asyncio.Future[ExecutionId | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, found))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer())
        return await found

    async def _answer(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                newer = await self._find_when_available([step for step, _ in batch])
            except Exception as error:  # noqa: BLE001 - raised to those who wait for it
                for _, found in batch:
                    if not found.done():
                        found.set_exception(error)
                continue
            for (_, found), execution_id in zip(batch, newer, strict=True):
                if not found.done():
                    found.set_result(execution_id)

    async def _find_when_available(self, steps: Sequence[OrderedStep]) -> Sequence[ExecutionId | None]:
        pause_seconds = 0.1
        while True:
            try:
                return await self._run_in_thread(self._executions.find_overtaking, steps)
            except Unavailable as error:
                log.warning("overtaking.waiting", error=str(error), pause_seconds=pause_seconds)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)
