"""Follows one try of one job from its claim to its end; a coroutine, which any worker can take up again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from upshot.backends.protocol import (
    ContainerStatus,
    EngineUnavailable,
    OutputUnreadable,
    Phase,
    StartedContainer,
    StartRefused,
)
from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.job import MAX_OUTPUTS_BYTES, FailureKind, Job, JobState
from upshot.jobs.container_request import ContainerRequestBuilder
from upshot.jobs.engine_monitor import EngineMonitor, EngineSnapshot, PollIntervals
from upshot.jobs.events import job_event
from upshot.jobs.logs import JobLog
from upshot.jobs.outputs import OutputsInvalid, read_outputs
from upshot.jobs.transitions import JobOutcome, classify_exit, finish, next_attempt
from upshot.ports.concurrency import RunInThread
from upshot.ports.jobs import JobStore, JobUpdate
from upshot.schema.queues import JobsConfig

log = structlog.get_logger("upshot.jobs")

KILL_AGAIN_SECONDS = 30.0  # beyond its grace: a stop that did not end it is said again, without grace
GONE_LOOKS = 2  # looks in which a started container is missing before it is taken for gone


class LeaseLost(Exception):
    """Another worker holds the job now."""


@dataclass(frozen=True, slots=True)
class RunnerContext:
    """What every watch of this worker works with."""

    jobs: JobStore
    clerk: ContainerRequestBuilder
    book: JobsConfig
    clock: Clock
    run_in_thread: RunInThread
    lost_after: timedelta  #: an engine that was not reached for so long has lost its jobs
    log_bytes: int  #: kept of a job's whole log
    told: Callable[[JobUpdate], Awaitable[None]]  #: publishes events, rings for the execution, after the commit
    save_metrics: Callable[[Job, Event], Awaitable[str | None]]  #: returns why they could not be saved
    asked_to_stop: Callable[[str], str | None]  #: who asked for the job's end
    pace: PollIntervals


class JobRunner:
    """
    One try of one job that this worker holds.

    Args:
        job: As it was claimed.
        event: That its execution answers.
        lookout: On the job's engine.
        office: What it works with.
    """

    def __init__(self, job: Job, event: Event, lookout: EngineMonitor, office: RunnerContext) -> None:
        self.job = job
        self._event = event
        self._lookout = lookout
        self._backend = lookout.backend
        self._office = office
        self._mask = office.clerk.mask(job)
        self._log = JobLog(
            job, self._backend, office.jobs, self._mask, office.run_in_thread, keep_bytes=office.log_bytes
        )
        self._outages = lookout.last.outages
        self._missing = 0
        self._stopped_at: datetime | None = None

    async def follow(self) -> None:
        """
        Start it if need be, and see it to its end.

        Raises:
            TakenAway: Another worker holds it now; whatever it says then counts.
        """
        try:
            if self.job.state is JobState.STARTING and not await self._start():
                return
            seen = self._lookout.last.number
            self._lookout.poll_now()
            while not self.job.state.is_final and self.job.state is not JobState.QUEUED:
                look = await self._lookout.next_snapshot(seen, within_seconds=self._office.pace.turn)
                await self._turn(look, is_new=look.number > seen)
                seen = look.number
        except StartRefused as refused:
            await self._end(JobOutcome(refused.failure, self._mask.text(str(refused))))

    # --- start ------------------------------------------------------------------------------------

    async def _start(self) -> bool:
        """Have the container made and started; tells whether there is something to follow."""
        if who := self._office.asked_to_stop(self.job.id):
            await self._end(JobOutcome(FailureKind.CANCELLED, f"cancelled by {who}"))
            return False
        if objections := self._office.book.objections(self.job.spec, self.job.queue):
            raise StartRefused(FailureKind.REFUSED, "; ".join(objections))
        order = self._office.clerk.order(self.job, self._event)
        try:
            started = await self._unless_stopped(self._backend.start(order))
        except EngineUnavailable as error:
            # Whether it was made is not known: looked for as if it was, and started again if it is not there.
            await self._note(f"{self._lookout.name} does not answer: {error}")
            return True
        if started is None:
            return False
        await self._record(
            replace(self.job, handle=started.handle, image_digest=started.image_digest, reason=started.note)
        )
        return True

    async def _unless_stopped(self, starting: Coroutine[Any, Any, StartedContainer]) -> StartedContainer | None:
        """Start, which may pull for long; None when the job was asked to stop meanwhile, and was."""
        task = asyncio.ensure_future(starting)
        try:
            while not (await asyncio.wait([task], timeout=self._office.pace.turn))[0]:
                if who := self._office.asked_to_stop(self.job.id):
                    task.cancel()
                    await asyncio.wait([task])
                    await self._end(JobOutcome(FailureKind.CANCELLED, f"cancelled by {who}"))
                    return None
            return task.result()
        finally:
            task.cancel()

    # --- each turn --------------------------------------------------------------------------------

    async def _turn(self, look: EngineSnapshot, *, is_new: bool) -> None:
        if look.error is not None:
            await self._while_away(look.error)
            return
        sighting = look.statuses.get(self.job.container)
        if sighting is None:
            if is_new:
                await self._while_missing()
            return
        self._missing = 0
        try:
            await self._seen(sighting, look)
        except EngineUnavailable as error:
            log.info("job.engine_away", job=self.job.id, error=str(error))
            self._lookout.poll_now()

    async def _while_away(self, error: str) -> None:
        away_since = max(filter(None, (self._lookout.reached_at, self.job.seen_at)), default=self.job.created_at)
        away = self._office.clock.now() - away_since
        if away > self._office.lost_after:
            await self._end(
                JobOutcome(
                    FailureKind.ENGINE_LOST, f"its engine was not reached for {away.total_seconds():.0f} s: {error}"
                )
            )
        else:
            await self._note(f"{self._lookout.name} does not answer: {error}")

    async def _while_missing(self) -> None:
        if self.job.state is JobState.STARTING and self.job.handle is None:
            await self._start()  # it was never made, or nobody knows
            return
        self._missing += 1
        if self._missing < GONE_LOOKS:
            self._lookout.poll_now()
        elif self.job.state is JobState.STOPPING and self.job.failure is not None:
            await self._end(JobOutcome(self.job.failure, self.job.reason))
        else:
            await self._end(JobOutcome(FailureKind.ENGINE_LOST, "its container is gone, and not by our doing"))

    async def _seen(self, sighting: ContainerStatus, look: EngineSnapshot) -> None:
        if sighting.phase is Phase.CREATED:
            await self._start()
            return
        if sighting.phase is Phase.EXITED:
            await self._collect(sighting, look)
            return
        if sighting.phase is Phase.PENDING:
            await self._note(sighting.note or "its engine has not begun it yet")
        elif self.job.state is JobState.STARTING:
            await self._running(sighting)
        self._outages = look.outages
        await self._log.read_on(self._office.clock.now())
        await self._stop_if_due()

    async def _running(self, sighting: ContainerStatus) -> None:
        started_at = sighting.started_at or self._office.clock.now()
        running = replace(
            self.job,
            state=JobState.RUNNING,
            reason=None,
            handle=sighting.handle,
            image_digest=self.job.image_digest or sighting.image_digest,
            started_at=started_at,
        )
        await self._record(running, tell=True)
        log.info(
            "job.started", job=running.id, automation=running.automation, step=running.step_id, machine=running.machine
        )

    async def _stop_if_due(self) -> None:
        now, job = self._office.clock.now(), self.job
        if job.state is JobState.STOPPING:
            again = self._stopped_at is None or now - self._stopped_at > timedelta(
                seconds=job.spec.grace_seconds + KILL_AGAIN_SECONDS
            )
            if again:  # taken over from another worker, or it did not help
                grace = job.spec.grace_seconds if self._stopped_at is None else 0.0
                self._stopped_at = now
                await self._backend.stop(job.container, grace_seconds=grace)
            return
        if who := self._office.asked_to_stop(job.id):
            stopping = replace(job, failure=FailureKind.CANCELLED, reason=f"cancelled by {who}")
        elif job.deadline is not None and now > job.deadline:
            stopping = replace(job, failure=FailureKind.TIMED_OUT, reason="it runs for longer than its timeout")
        else:
            return
        await self._record(replace(stopping, state=JobState.STOPPING))
        self._stopped_at = now
        await self._backend.stop(job.container, grace_seconds=job.spec.grace_seconds)

    # --- the end ----------------------------------------------------------------------------------

    async def _collect(self, sighting: ContainerStatus, look: EngineSnapshot) -> None:
        if self.job.state is JobState.STARTING and sighting.started_at is not None:
            await self._running(sighting)  # it was quick: it has run all the same
        await self._log.read_to_the_end(self._office.clock.now())
        tail = await self._log.tail()
        end = classify_exit(self.job, sighting, engine_was_away=look.outages > self._outages)
        outputs = None
        if end.failure is None:
            try:
                content = await self._backend.read_outputs(self.job.container, limit_bytes=MAX_OUTPUTS_BYTES)
                outputs = self._mask.data(read_outputs(content))
            except (OutputUnreadable, OutputsInvalid) as error:
                end = JobOutcome(FailureKind.OUTPUT_INVALID, self._mask.text(str(error)))
        reason = None if end.reason is None else self._mask.text(end.reason)
        self.job = replace(
            self.job,
            exit_code=sighting.exit_code,
            finished_at=sighting.finished_at,
            log_tail=tail,
            outputs=outputs,
        )
        await self._end(JobOutcome(end.failure, reason))

    async def _end(self, end: JobOutcome) -> None:
        """Record the end of the try, or of the job; then remove the container."""
        now, job = self._office.clock.now(), self.job
        grown = None
        if end.failure is FailureKind.OUT_OF_MEMORY and job.retry.memory_growth is not None:
            grown = self._office.book.grow(job.spec, job.retry.memory_growth, job.queue)
        after = next_attempt(job, end, grown=grown, now=now) or finish(job, end, now=now)
        if after.state is JobState.SUCCEEDED and after.save_metrics:
            after = replace(after, reason=await self._office.save_metrics(after, self._event))
        container = job.container
        await self._record(after, tell=True)
        log.info(
            "job.ended",
            job=job.id,
            automation=job.automation,
            step=job.step_id,
            state=after.state.value,
            cause=end.failure.value if end.failure else None,
            reason=after.reason,
            attempt=job.attempt,
        )
        try:
            await self._backend.remove(container)
        except EngineUnavailable as error:  # found again as something left behind
            log.info("job.not_removed", job=job.id, container=container, error=str(error))

    # --- written ----------------------------------------------------------------------------------

    async def _note(self, reason: str) -> None:
        """Keep why it does not go on, once."""
        if reason != self.job.reason and self.job.state is JobState.STARTING:
            await self._record(replace(self.job, reason=reason))

    async def _record(self, job: Job, *, tell: bool = False) -> None:
        event = job_event(job, self._event, self._office.clock.now()) if tell else None
        progress = JobUpdate(job, (event,) if event else (), wakes=job.state.is_final)
        if await self._office.run_in_thread(self._office.jobs.record, [progress]):
            raise LeaseLost(job.id)
        self.job = job
        await self._office.told(progress)
