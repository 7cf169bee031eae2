"""Run one attempt of a job from its claim to its end. Another worker can take over at any point."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping
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
from upshot.ids import JobId
from upshot.jobs.container_request import JobEnvironment, build_container_request, secrets_mask
from upshot.jobs.engine_monitor import EngineMonitor, EngineSnapshot, PollIntervals
from upshot.jobs.inputs import JobInputs
from upshot.jobs.logs import LogCollector
from upshot.jobs.outputs import OutputsInvalid, kept_as_text_note, parse_outputs
from upshot.jobs.recorder import JobRecorder
from upshot.jobs.transitions import (
    JobOutcome,
    classify_exit,
    container_created,
    container_running,
    end_attempt,
    stopping,
)
from upshot.jobs.version_metrics import VersionMetricsWriter
from upshot.ports.jobs import JobStore
from upshot.ports.run_in_thread import RunInThread
from upshot.schema.queues import JobsConfig

log = structlog.get_logger("upshot.jobs")

KILL_AGAIN_SECONDS = 30.0  # after the grace period: a container that still runs is stopped again, without grace
MISSING_SNAPSHOTS = 2  # a started container is gone if it is missing in this number of snapshots


class StopRequests:
    """
    The stop requests for the jobs of this worker, as last read from the store.

    Args:
        jobs: Stores the requests.
        run_in_thread: Runs its blocking calls.
    """

    def __init__(self, jobs: JobStore, run_in_thread: RunInThread) -> None:
        self._jobs = jobs
        self._run_in_thread = run_in_thread
        self._requests: Mapping[JobId, str] = {}

    async def refresh(self, job_ids: Collection[JobId]) -> None:
        """Read the requests for these jobs."""
        self._requests = await self._run_in_thread(self._jobs.stop_requests, job_ids)

    def outcome(self, job_id: JobId) -> JobOutcome | None:
        """Return the outcome that was requested for a job, or None if nobody asked it to stop."""
        requested_by = self._requests.get(job_id)
        return None if requested_by is None else JobOutcome(FailureKind.CANCELLED, f"cancelled by {requested_by}")


@dataclass(frozen=True, slots=True)
class RunnerContext:
    """What all runners of a worker share."""

    jobs: JobStore
    recorder: JobRecorder
    stop_requests: StopRequests
    metrics: VersionMetricsWriter
    inputs: JobInputs
    environment: JobEnvironment
    config: JobsConfig
    clock: Clock
    run_in_thread: RunInThread
    lost_after: timedelta  #: jobs are lost if their engine is unreachable for longer
    log_bytes: int  #: maximum size of the stored log of a job
    intervals: PollIntervals


class JobRunner:
    """
    Runs one attempt of a job that this worker has claimed.

    Args:
        job: The job that was claimed.
        event: The event that its execution answers.
        monitor: Polls the job's engine.
        context: Shared by all runners.
    """

    def __init__(self, job: Job, event: Event, monitor: EngineMonitor, context: RunnerContext) -> None:
        self.job = job
        self._event = event
        self._monitor = monitor
        self._backend = monitor.backend
        self._context = context
        self._mask = secrets_mask(job, context.environment)
        self._log = LogCollector(
            job, self._backend, context.jobs, self._mask, context.run_in_thread, keep_bytes=context.log_bytes
        )
        self._outages = monitor.last.outages
        self._missing = 0
        self._stopped_at: datetime | None = None

    async def run(self) -> None:
        """
        Start the container if necessary, and supervise it until the attempt ends.

        Raises:
            LeaseLost: Another worker holds the job now.
        """
        try:
            if self.job.state is JobState.STARTING and not await self._start():
                return
            number = self._monitor.last.number
            self._monitor.poll_now()
            while self.job.state.is_active:
                seconds = self._context.intervals.job_seconds
                snapshot = await self._monitor.next_snapshot(number, within_seconds=seconds)
                await self._handle(snapshot, is_new=snapshot.number > number)
                number = snapshot.number
        except StartRefused as error:
            await self._end(JobOutcome(error.failure, str(error)))

    # --- start ------------------------------------------------------------------------------------

    async def _start(self) -> bool:
        """Start the container. Return whether the attempt goes on."""
        if outcome := self._context.stop_requests.outcome(self.job.id):
            await self._end(outcome)
            return False
        if violations := self._context.config.violations(self.job.spec, self.job.queue, self.job.backend):
            raise StartRefused(FailureKind.REFUSED, "; ".join(violations))
        try:
            container = await self._unless_stopped(self._provide_input_and_start())
        except EngineUnavailable as error:
            # The container may exist. If later snapshots do not show it, it is started again.
            await self._explain_start(f"{self._monitor.name} does not answer: {error}")
            return True
        if container is None:
            return False
        await self._record(container_created(self.job, container))
        return True

    async def _provide_input_and_start(self) -> StartedContainer:
        context, job = self._context, self.job
        files = await context.inputs.provide(
            job,
            self._event,
            downloads_itself=self._backend.downloads_input,
            limit=context.config.queues[job.queue].limits.input_bytes,
        )
        request = build_container_request(job, self._event, context.environment)
        return await self._backend.start(replace(request, input=files))

    async def _unless_stopped(self, start: Coroutine[Any, Any, StartedContainer]) -> StartedContainer | None:
        """
        Wait for a start, which may download files and pull an image for a long time.

        Returns:
            The container, or None if a stop request ended the wait.
        """
        task = asyncio.ensure_future(start)
        note = None
        try:
            while not (await asyncio.wait([task], timeout=self._context.intervals.job_seconds))[0]:
                if outcome := self._context.stop_requests.outcome(self.job.id):
                    task.cancel()
                    await asyncio.wait([task])
                    await self._end(outcome)
                    return None
                progress = self._context.inputs.progress(self.job.id)
                note = progress or (note and "its files are there, and its container is being created")
                if note is not None:
                    await self._explain_start(note)
            return task.result()
        finally:
            task.cancel()

    # --- each snapshot ----------------------------------------------------------------------------

    async def _handle(self, snapshot: EngineSnapshot, *, is_new: bool) -> None:
        if snapshot.error is not None:
            await self._handle_outage(snapshot.error)
            return
        status = snapshot.statuses.get(self.job.container_name)
        if status is None:
            if is_new:
                await self._handle_missing()
            return
        self._missing = 0
        try:
            await self._handle_status(status, snapshot)
        except EngineUnavailable as error:
            log.info("job.engine_unreachable", job_id=self.job.id, error=str(error))
            self._monitor.poll_now()

    async def _handle_outage(self, error: str) -> None:
        since = max(filter(None, (self._monitor.reached_at, self.job.seen_at)), default=self.job.created_at)
        duration = self._context.clock.now() - since
        if duration > self._context.lost_after:
            reason = f"its engine was unreachable for {duration.total_seconds():.0f} s: {error}"
            await self._end(JobOutcome(FailureKind.ENGINE_LOST, reason))
        else:
            await self._explain_start(f"{self._monitor.name} does not answer: {error}")

    async def _handle_missing(self) -> None:
        if self.job.state is JobState.STARTING and self.job.handle is None:
            await self._start()  # it is unknown whether the container was created
            return
        self._missing += 1
        if self._missing < MISSING_SNAPSHOTS:
            self._monitor.poll_now()
        elif self.job.state is JobState.STOPPING and self.job.failure is not None:
            await self._end(JobOutcome(self.job.failure, self.job.reason))
        else:
            await self._end(JobOutcome(FailureKind.ENGINE_LOST, "its container is gone, and Upshot did not remove it"))

    async def _handle_status(self, status: ContainerStatus, snapshot: EngineSnapshot) -> None:
        if status.phase is Phase.CREATED:
            await self._start()
            return
        if status.phase is Phase.EXITED:
            await self._collect(status, snapshot)
            return
        if status.phase is Phase.PENDING:
            await self._explain_start(status.note or "its engine has not started the container yet")
        elif self.job.state is JobState.STARTING:
            await self._record_running(status)
        self._outages = snapshot.outages
        await self._log.store_new(self._context.clock.now())
        await self._stop_if_due()

    async def _record_running(self, status: ContainerStatus) -> None:
        await self._record(container_running(self.job, status, now=self._context.clock.now()))
        job = self.job
        log.info("job.started", job_id=job.id, automation=job.automation, step_id=job.step_id, machine=job.machine)

    async def _stop_if_due(self) -> None:
        now, job = self._context.clock.now(), self.job
        grace_seconds = job.spec.grace_seconds
        if job.state is not JobState.STOPPING:
            outcome = self._context.stop_requests.outcome(job.id)
            if outcome is None and job.deadline is not None and now > job.deadline:
                outcome = JobOutcome(FailureKind.TIMED_OUT, "the job runs for longer than its timeout")
            if outcome is None:
                return
            await self._record(stopping(job, outcome))
        elif self._stopped_at is not None:
            if now - self._stopped_at <= timedelta(seconds=grace_seconds + KILL_AGAIN_SECONDS):
                return
            grace_seconds = 0.0
        # If another worker was stopping the job, stop it again: that worker may have died before its request.
        self._stopped_at = now
        await self._backend.stop(job.container_name, grace_seconds=grace_seconds)

    # --- end --------------------------------------------------------------------------------------

    async def _collect(self, status: ContainerStatus, snapshot: EngineSnapshot) -> None:
        """Store the log and the outputs of an exited container, and end the attempt."""
        if self.job.state is JobState.STARTING and status.started_at is not None:
            await self._record_running(status)  # it exited before a snapshot showed it running
        await self._log.store_rest(self._context.clock.now())
        log_tail = await self._log.tail()
        outcome = classify_exit(self.job, status, engine_was_away=snapshot.outages > self._outages)
        outputs = None
        if outcome.failure is None:
            try:
                content = await self._backend.read_outputs(self.job.container_name, limit_bytes=MAX_OUTPUTS_BYTES)
                data = parse_outputs(content)
                outputs = self._mask.data(data.value)
                if data.kept_as_text:
                    outcome = JobOutcome(None, kept_as_text_note(data.kept_as_text))
            except (OutputUnreadable, OutputsInvalid) as error:
                outcome = JobOutcome(FailureKind.OUTPUT_INVALID, str(error))
        self.job = replace(
            self.job,
            exit_code=status.exit_code,
            finished_at=status.finished_at,
            log_tail=log_tail,
            outputs=outputs,
        )
        await self._end(outcome)

    async def _end(self, outcome: JobOutcome) -> None:
        """Record the end of the attempt, and remove the container."""
        now, job = self._context.clock.now(), self.job
        if outcome.reason is not None:
            outcome = replace(outcome, reason=self._mask.text(outcome.reason))
        larger_spec = None
        if outcome.failure is FailureKind.OUT_OF_MEMORY and job.retry.memory_growth is not None:
            larger_spec = self._context.config.with_more_memory(job.spec, job.retry.memory_growth, job.queue)
        after = end_attempt(job, outcome, larger_spec=larger_spec, now=now)
        if after.state is JobState.SUCCEEDED and after.save_metrics:
            notes = (after.reason, await self._context.metrics.save(after, self._event))
            after = replace(after, reason="; ".join(note for note in notes if note) or None)
        await self._record(after)
        log.info(
            "job.ended",
            job_id=job.id,
            automation=job.automation,
            step_id=job.step_id,
            state=after.state.value,
            failure=outcome.failure.value if outcome.failure else None,
            reason=after.reason,
            attempt=job.attempt,
        )
        try:
            await self._backend.remove(job.container_name)
            await self._context.inputs.release(job)
        except EngineUnavailable as error:  # the supervisor removes it later, and releases the input
            log.info("job.container_not_removed", job_id=job.id, container=job.container_name, error=str(error))

    # --- records ----------------------------------------------------------------------------------

    async def _explain_start(self, reason: str) -> None:
        """Record why a starting job does not run yet."""
        reason = self._mask.text(reason)
        if reason != self.job.reason and self.job.state is JobState.STARTING:
            await self._record(replace(self.job, reason=reason))

    async def _record(self, job: Job) -> None:
        is_new_state = job.state is not self.job.state
        await self._context.recorder.record(job, self._event, is_new_state=is_new_state)
        self.job = job
