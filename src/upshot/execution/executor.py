"""
Carries executions out on one event loop, hundreds at a time: claim, render, act, receipt, decide.

Everything enters through `begin` (leased by the consumer as they were admitted) or `run` (ids, from
a Celery task or the sweeper), and everything leaves through the recorder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from upshot.domain.event import Event
from upshot.domain.execution import Execution, ExecutionState, StepRecord
from upshot.errors import ConfigError, Unavailable
from upshot.execution import transitions
from upshot.execution.attempt import Attempt, ClaimedExecution, ExecutorContext, lost_attempt
from upshot.execution.compiled import RevisionCache
from upshot.execution.failure import with_failure
from upshot.execution.recorder import Recorder
from upshot.ports.concurrency import RunInThread
from upshot.ports.events import EventStore
from upshot.ports.executions import Claim, ExecutionStore, ExecutionUpdate
from upshot.ports.messaging import EventPublisher, JobNotifier

log = structlog.get_logger("upshot.execution")

LAST_RECORDS_SECONDS = 5.0  # for writing what came of the attempts that a stop interrupted


class Executor:
    """
    One worker's engine.

    Args:
        bench: What attempts are made with.
        executions: Where executions are kept.
        events: Where events are kept.
        publisher: Where events that executions give rise to are published.
        book: Compiled automations.
        run_in_thread: Runs the stores' blocking calls.
        in_flight: Steps that are performed at the same time.
        lease: How long a claim holds unless it is renewed.
        job_bell: Calls those who take a queue; None: they look for themselves.
    """

    def __init__(
        self,
        *,
        bench: ExecutorContext,
        executions: ExecutionStore,
        events: EventStore,
        publisher: EventPublisher,
        book: RevisionCache,
        run_in_thread: RunInThread,
        in_flight: int,
        lease: timedelta,
        job_bell: JobNotifier | None = None,
    ) -> None:
        self.worker_id = bench.worker_id
        self.revisions = book
        self._bench = bench
        self._clock = bench.clock
        self._executions = executions
        self._events = events
        self._publisher = publisher
        self._run_in_thread = run_in_thread
        self._job_bell = job_bell
        self._lease = lease
        self._max_in_progress = 2 * in_flight  # those that wait for a place or a commit included
        self._recorder = Recorder(self._write)
        self._slots = asyncio.Semaphore(in_flight)
        self._in_progress: dict[str, asyncio.Task[None]] = {}
        self._freed = asyncio.Event()
        self._stopping = False

    # --- in and out -------------------------------------------------------------------------------

    @property
    def in_progress(self) -> tuple[str, ...]:
        """Ids of the executions that this engine holds."""
        return tuple(self._in_progress)

    @property
    def capacity(self) -> int:
        """How many more executions it takes."""
        return 0 if self._stopping else max(0, self._max_in_progress - len(self._in_progress))

    async def wait_for_capacity(self) -> None:
        """Return when it takes more."""
        while self.capacity == 0:
            self._freed.clear()
            await self._freed.wait()

    def lease_end(self) -> datetime:
        """Until when a lease that begins now holds."""
        return self._clock.now() + self._lease

    async def write_records(self) -> None:
        """Write what happens, until cancelled; must run beside everything else."""
        await self._recorder.run()

    def start(self, works: Iterable[ClaimedExecution]) -> None:
        """Carry out executions that this worker has leased."""
        for work in works:
            task = asyncio.get_running_loop().create_task(self._execute(work))
            self._in_progress[work.execution.id] = task
            task.add_done_callback(partial(self._on_done, work.execution.id))

    async def execute(self, ids: Collection[str]) -> None:
        """Claim those of the executions that are due or abandoned, and carry them out."""
        wanted = [one for one in ids if one not in self._in_progress][: self.capacity]
        if not wanted:
            return
        now = self._clock.now()
        claims = await self._run_in_thread(
            self._executions.claim, wanted, owner=self.worker_id, now=now, until=now + self._lease
        )
        events = await self._run_in_thread(self._events.get, {claim.execution.event_id for claim in claims})
        for claim in claims:
            try:
                await self._start_claimed(claim, events[claim.execution.event_id])
            except Unavailable as error:  # its lease runs out; those behind it must not wait for that
                log.warning("execution.left", execution=claim.execution.id, error=str(error))

    async def _start_claimed(self, claim: Claim, event: Event) -> None:
        execution = claim.execution
        if claim.lost_by_worker_id is not None:
            lost = lost_attempt(execution, claim.lost_by_worker_id, self._clock.now())
            if not await self._record(lost, event):
                return
            execution = lost.execution
        if execution.state.is_final:
            return
        try:
            compiled = self.revisions.get(execution.automation, execution.revision)
            if compiled is None:
                compiled = await self._run_in_thread(self.revisions.load, execution.automation, execution.revision)
        except ConfigError as error:
            failed = transitions.fail_without_attempt(execution, reason=str(error), now=self._clock.now())
            await self._record(ExecutionUpdate(failed), event)
            return
        self.start([ClaimedExecution(execution, event, compiled)])

    def _on_done(self, execution: str, task: asyncio.Task[None]) -> None:
        self._in_progress.pop(execution, None)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease runs out, and it is tried again until it has cost too many workers.
            log.error("execution.dropped", execution=execution, exc_info=error)

    async def _record(self, progress: ExecutionUpdate, event: Event) -> bool:
        """Write durably, and announce what it gives rise to; False when the lease is held by another now."""
        progress = with_failure(progress, event)
        held = await self._recorder.record(progress)
        if held and progress.events:
            await self.publish(progress.events)
        if held and self._job_bell is not None:
            for job in progress.jobs:
                await self._run_in_thread(self._job_bell.notify_jobs, job.queue, [job.id])
        return held

    async def publish(self, events: Sequence[Event]) -> None:
        """Publish accepted events; where that fails, the relay does it."""
        await self._run_in_thread(self._publisher.publish, events)

    async def _write(self, batch: Sequence[ExecutionUpdate]) -> frozenset[str]:
        return await self._run_in_thread(self._executions.record, batch)

    async def idle(self) -> None:
        """Return when nothing is in hand."""
        while self._in_progress:
            await asyncio.wait(list(self._in_progress.values()))

    async def stop(self, *, within_seconds: float) -> None:
        """Take nothing more, finish what is in flight for so long, and hand the rest back."""
        self._stopping = True
        tasks = list(self._in_progress.values())
        if tasks:
            await asyncio.wait(tasks, timeout=within_seconds)
        rest = [task for task in tasks if not task.done()]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=LAST_RECORDS_SECONDS)

    # --- one execution ----------------------------------------------------------------------------

    async def _execute(self, work: ClaimedExecution) -> None:
        execution = work.execution
        while (record := transitions.next_step(execution)) is not None and not execution.state.is_final:
            progress = await self._with_slot(ClaimedExecution(execution, work.event, work.compiled), record)
            happened = progress.receipts or progress.execution.state is not ExecutionState.RUNNING
            if happened and not await self._record(progress, work.event):
                log.info("execution.taken_away", execution=execution.id)
                return
            execution = progress.execution
            if execution.state is not ExecutionState.RUNNING:
                return

    async def _with_slot(self, work: ClaimedExecution, record: StepRecord) -> ExecutionUpdate:
        """Attempt the step when there is a place; hand the execution back if the worker stops before that."""
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return self._released(work.execution)
        try:
            return self._released(work.execution) if self._stopping else await self._attempt(work, record)
        finally:
            self._slots.release()

    async def _attempt(self, work: ClaimedExecution, record: StepRecord) -> ExecutionUpdate:
        attempt = Attempt(work, record, self._bench)
        try:
            return await attempt.make()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return attempt.interrupted()

    def _released(self, execution: Execution) -> ExecutionUpdate:
        return ExecutionUpdate(transitions.reschedule(execution, reason="its worker stopped", due_at=self._clock.now()))
