"""Writes the updates of executions in batches. Updates that arrive during a commit share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from upshot.domain.event import Event
from upshot.domain.execution import ExecutionState
from upshot.errors import Unavailable
from upshot.execution.failure import failure_event
from upshot.ids import ExecutionId
from upshot.ports.executions import ExecutionStore, ExecutionUpdate
from upshot.ports.messaging import EventPublisher, JobNotifier
from upshot.ports.run_in_thread import RunInThread
from upshot.storable import to_storable
from upshot.unicode_text import to_storable_text

log = structlog.get_logger("upshot.execution")

MAX_BATCH = 500
MAX_PAUSE_SECONDS = 5.0


class Recorder:
    """
    Makes updates durable. Then publishes their events and notifies workers of their jobs.

    Args:
        executions: Stores executions.
        publisher: Publishes events. The relay publishes them again if that fails.
        run_in_thread: Runs blocking calls.
        job_notifier: Notifies the workers of a queue. None: the workers poll their queues.
    """

    def __init__(
        self,
        executions: ExecutionStore,
        publisher: EventPublisher,
        run_in_thread: RunInThread,
        job_notifier: JobNotifier | None = None,
    ) -> None:
        self._executions = executions
        self._publisher = publisher
        self._run_in_thread = run_in_thread
        self._job_notifier = job_notifier
        self._queue: list[tuple[ExecutionUpdate, asyncio.Future[bool]]] = []
        self._arrived = asyncio.Event()

    async def record(self, update: ExecutionUpdate, event: Event) -> bool:
        """
        Write an update durably. A failed execution also accepts its `execution-failed` event.

        Args:
            update: The new state and its receipts.
            event: The event that the execution answers.

        Returns:
            False if the state was rejected, because another worker or a user has changed the execution.
        """
        if update.execution.state is ExecutionState.FAILED:
            failure = failure_event(update.execution, event)
            update = replace(update, events=(failure,) if failure else ())
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((update, written))
        self._arrived.set()
        if not await written:
            return False
        if update.events:
            await self._run_in_thread(self._publisher.publish, update.events)
        if self._job_notifier is not None:
            for job in update.jobs:
                await self._run_in_thread(self._job_notifier.notify_jobs, job.queue)
        return True

    async def run(self) -> None:
        """Write updates until cancelled. While the database is unavailable, they wait and none is lost."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
                rejected = await self._write([update for update, _ in batch])
                for update, written in batch:
                    if not written.done():
                        written.set_result(update.execution.id not in rejected)

    async def _write(self, batch: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        """
        Write a batch, or each of its updates alone if the database rejects the batch.

        An update that cannot be written must not block or repeat the others. Left unwritten, it would be sent
        again each time its lease expires. So it is written with the data converted, and then without the data. The
        execution continues as the attempt decided.
        """
        try:
            return await self._write_when_available(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the updates must still be written
            rejection = error
        if len(batch) > 1:
            rejected = [await self._write([update]) for update in batch]
            return frozenset().union(*rejected)
        (update,) = batch
        execution_id = update.execution.id
        for simplify in (_storable, _without_data):
            log.error("recorder.update_rejected", execution_id=execution_id, error=repr(rejection))
            try:
                return await self._write_when_available([simplify(update)])
            except Exception as error:  # noqa: BLE001 - as above
                rejection = error
        # The execution is claimed again when its lease expires. The other updates must still be written.
        log.error("recorder.gave_up", execution_id=execution_id, error=repr(rejection))
        return frozenset({execution_id})

    async def _write_when_available(self, batch: Sequence[ExecutionUpdate]) -> frozenset[ExecutionId]:
        pause_seconds = 0.1
        while True:
            try:
                return await self._run_in_thread(self._executions.record, batch)
            except Unavailable as error:
                log.warning("recorder.waiting", error=str(error), batch=len(batch), pause_seconds=pause_seconds)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)


def _storable(update: ExecutionUpdate) -> ExecutionUpdate:
    """Return an update in which everything that an action or a receiver provided is converted to storable data."""
    execution = update.execution
    return replace(
        update,
        execution=replace(
            execution,
            reason=_storable_reason(execution.reason),
            steps=tuple(
                replace(step, outputs=to_storable(step.outputs), reason=_storable_reason(step.reason))
                for step in execution.steps
            ),
        ),
        receipts=tuple(
            replace(
                receipt,
                request=to_storable(receipt.request),
                response=to_storable(receipt.response),
                error=_storable_reason(receipt.error),
                timings=to_storable(receipt.timings),
            )
            for receipt in update.receipts
        ),
        events=tuple(replace(event, data=to_storable(event.data)) for event in update.events),
    )


def _storable_reason(reason: str | None) -> str | None:
    return None if reason is None else to_storable_text(reason)


def _without_data(update: ExecutionUpdate) -> ExecutionUpdate:
    """Return an update without outputs, and with receipts that contain neither request nor response."""
    update = _storable(update)
    note = "the request and the response are left out, because the database rejected them"
    steps = tuple(replace(step, outputs={} if step.outputs else None) for step in update.execution.steps)
    return replace(
        update,
        execution=replace(update.execution, steps=steps),
        receipts=tuple(
            replace(
                receipt,
                request=None,
                response=None,
                timings=None,
                error=f"{receipt.error}; {note}" if receipt.error else note,
            )
            for receipt in update.receipts
        ),
    )
