"""
Supervise the jobs of this worker: claim queued jobs, run them, and handle what dead workers left behind.

    queued, within the limits ──────────► claimed, run by a JobRunner
    abandoned by a dead worker ─────────► adopted, run by a JobRunner
    lost, its engine is unreachable ────► failed, or queued for the next attempt
    leftover container on an engine ────► removed

Each job costs its worker one coroutine. One poll of an engine serves all its jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog

from upshot.backends.protocol import Backend, ContainerStatus, EngineUnavailable
from upshot.clock import Clock
from upshot.domain.job import FailureKind, Job
from upshot.errors import Unavailable
from upshot.ids import JobId, WorkerId
from upshot.jobs.container_request import JobEnvironment
from upshot.jobs.engine_monitor import EngineMonitor, PollIntervals
from upshot.jobs.inputs import InputPin, JobInputs
from upshot.jobs.recorder import JobRecorder, LeaseLost
from upshot.jobs.runner import JobRunner, RunnerContext, StopRequests
from upshot.jobs.transitions import JobOutcome, end_attempt
from upshot.jobs.version_metrics import VersionMetricsWriter
from upshot.ports.events import EventStore
from upshot.ports.jobs import ConcurrencyLimits, JobStore, WorkerCapacity
from upshot.ports.messaging import EventPublisher, Notifier
from upshot.ports.run_in_thread import RunInThread
from upshot.schema.queues import JobsConfig

log = structlog.get_logger("upshot.jobs")

ORPHANED_AFTER = timedelta(seconds=60)  # until then, the job of a container may still be stored
LOST_CHECK_INTERVAL = timedelta(seconds=5)
INPUTS_CHECK_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """What the operator sets."""

    worker_id: WorkerId
    machine: str
    queues: frozenset[str] | None  #: the queues that this worker takes; None: all
    lease: timedelta
    lost_after: timedelta  #: jobs are lost if their engine is unreachable for longer
    log_bytes: int  #: maximum size of the stored log of a job
    removes_orphans: bool  #: whether to remove containers of this installation that belong to no job
    intervals: PollIntervals = field(default_factory=PollIntervals)


@dataclass(frozen=True, slots=True)
class _Supervised:
    task: asyncio.Task[None]
    runner: JobRunner
    monitor: EngineMonitor


class JobSupervisor:
    """
    Supervises the jobs of one worker.

    Args:
        settings: What the operator sets.
        backends: The backends that this machine can reach, by the names that queues use.
        jobs: Stores jobs.
        events: Stores events.
        publisher: Publishes the events of jobs.
        notifier: Notifies a worker of the execution whose job has ended.
        environment: What this worker adds to a job.
        config: Queues and their limits.
        metrics: Saves metrics in the metadata of versions.
        inputs: Provides the files of versions.
        clock: Gives the current time.
        run_in_thread: Runs the stores' blocking calls.
        may_take_over: Whether expired leases can be taken over now. They cannot while no worker can renew them.
    """

    def __init__(
        self,
        settings: SupervisorSettings,
        *,
        backends: Mapping[str, Backend],
        jobs: JobStore,
        events: EventStore,
        publisher: EventPublisher,
        notifier: Notifier,
        environment: JobEnvironment,
        config: JobsConfig,
        metrics: VersionMetricsWriter,
        inputs: JobInputs,
        clock: Clock,
        run_in_thread: RunInThread,
        may_take_over: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._may_take_over = may_take_over
        self._jobs = jobs
        self._events = events
        self._config = config
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._monitors = {
            name: EngineMonitor(name, backend, environment.installation.id, clock, settings.intervals)
            for name, backend in backends.items()
        }
        self._recorder = JobRecorder(jobs, publisher, notifier, clock, run_in_thread)
        self._stop_requests = StopRequests(jobs, run_in_thread)
        self._context = RunnerContext(
            jobs=jobs,
            recorder=self._recorder,
            stop_requests=self._stop_requests,
            metrics=metrics,
            inputs=inputs,
            environment=environment,
            config=config,
            clock=clock,
            run_in_thread=run_in_thread,
            lost_after=settings.lost_after,
            log_bytes=settings.log_bytes,
            intervals=settings.intervals,
        )
        self._supervised: dict[JobId, _Supervised] = {}
        self._work_available = asyncio.Event()
        self._orphans: dict[str, datetime] = {}  #: containers without a job, with the time of their discovery
        self._reported_orphans: set[str] = set()
        self._collected: dict[str, int] = {}  #: number of the snapshot whose leftovers are collected, by backend
        self._lost_checked_at = clock.now()
        self._inputs = inputs
        self._inputs_checked_at: datetime | None = None

    # --- state ------------------------------------------------------------------------------------

    @property
    def in_progress(self) -> tuple[JobId, ...]:
        """Ids of the jobs that this worker supervises."""
        return tuple(self._supervised)

    @property
    def engine_ids(self) -> Mapping[str, str]:
        """Identity of each engine that answers, by backend."""
        return {
            name: monitor.engine_id
            for name, monitor in self._monitors.items()
            if monitor.is_reachable and monitor.engine_id is not None
        }

    def wake(self) -> None:
        """Reconcile soon, because a job was queued."""
        self._work_available.set()

    async def wait_for_work(self, within_seconds: float) -> None:
        """Return when there may be work, or when the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._work_available.wait()

    # --- periodic work ----------------------------------------------------------------------------

    async def monitor_engines(self, until: asyncio.Event) -> None:
        """Poll all engines until stopped."""
        await asyncio.gather(*(monitor.run(until) for monitor in self._monitors.values()))

    async def reconcile(self) -> None:
        """Claim due jobs, adopt abandoned jobs, fail lost jobs, read stop requests, and clean up. Call every second."""
        self._work_available.clear()
        await self._run_in_thread(self._jobs.cancel_unneeded, self._clock.now())
        if self._supervised:
            await self._stop_requests.refresh(self.in_progress)
        may_take_over = self._may_take_over()
        if engine_ids := self.engine_ids:
            if may_take_over:
                await self._adopt_abandoned(engine_ids)
            await self._claim(engine_ids)
        if may_take_over:
            await self._fail_lost()
        for monitor in self._monitors.values():
            await self._collect_leftovers(monitor)
        await self._release_inputs()

    async def renew(self) -> None:
        """Renew the leases, and stop supervising the jobs whose lease another worker has."""
        by_time_seen: dict[datetime | None, list[JobId]] = {}
        for job_id, supervised in self._supervised.items():
            monitor = supervised.monitor
            by_time_seen.setdefault(monitor.reached_at if monitor.is_reachable else None, []).append(job_id)
        until = self._clock.now() + self._settings.lease
        for seen_at, job_ids in by_time_seen.items():
            renewed = await self._run_in_thread(
                self._jobs.renew, job_ids, worker_id=self._settings.worker_id, until=until, seen_at=seen_at
            )
            if not (not_renewed := set(job_ids) - renewed):
                continue
            for job_id, job in (await self._run_in_thread(self._jobs.get, not_renewed)).items():
                # A job without an owner has just ended here; its task is about to end too.
                if job.lease_owner_id not in (None, self._settings.worker_id) and job_id in self._supervised:
                    log.warning("job.lease_lost", job_id=job_id, worker_id=job.lease_owner_id)
                    self._supervised[job_id].task.cancel()

    async def stop(self) -> None:
        """Stop supervising. The jobs run on, and another worker adopts them."""
        tasks = [supervised.task for supervised in self._supervised.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        try:
            await self._run_in_thread(self._jobs.expire, self._settings.worker_id, self._clock.now())
        except Unavailable as error:
            log.warning("jobs.leases_not_released", error=str(error))
        self._inputs.close()
        for monitor in self._monitors.values():
            await monitor.backend.close()

    # --- claimed and adopted ----------------------------------------------------------------------

    async def _claim(self, engine_ids: Mapping[str, str]) -> None:
        taken = self._settings.queues
        capacity = WorkerCapacity(
            worker_id=self._settings.worker_id,
            machine=self._settings.machine,
            engine_ids=engine_ids,
            queues={
                name: ConcurrencyLimits(queue.concurrency, queue.per_machine)
                for name, queue in self._config.queues.items()
                if taken is None or name in taken
            },
            machine_limit=self._config.machine_limit,
        )
        now = self._clock.now()
        until = now + self._settings.lease
        claimed = await self._run_in_thread(self._jobs.claim_queued, capacity, now=now, until=until)
        await self._start_runners((job, self._monitors[job.backend]) for job in claimed)

    async def _adopt_abandoned(self, engine_ids: Mapping[str, str]) -> None:
        """Adopt the jobs of dead workers, and those that this worker gave up before it was restarted."""
        now = self._clock.now()
        abandoned = await self._run_in_thread(
            self._jobs.claim_abandoned,
            frozenset(engine_ids.values()),
            worker_id=self._settings.worker_id,
            now=now,
            until=now + self._settings.lease,
        )
        monitors = {engine_id: self._monitors[name] for name, engine_id in engine_ids.items()}
        for job in abandoned:
            log.info("job.adopted", job_id=job.id, state=job.state.value)
        await self._start_runners((job, monitors[job.engine_id or ""]) for job in abandoned)

    async def _start_runners(self, claimed: Iterable[tuple[Job, EngineMonitor]]) -> None:
        jobs = list(claimed)
        if not jobs:
            return
        events = await self._run_in_thread(self._events.get, {job.event_id for job, _ in jobs})
        for job, monitor in jobs:
            if (supervised := self._supervised.get(job.id)) is not None:
                # The lease ran out while this worker supervised the job. A new runner has the new lease.
                supervised.task.cancel()
                await asyncio.wait([supervised.task])
            runner = JobRunner(job, events[job.event_id], monitor, self._context)
            task = asyncio.get_running_loop().create_task(self._supervise(runner), name=job.id)
            self._supervised[job.id] = _Supervised(task, runner, monitor)
            monitor.supervised_jobs += 1
            task.add_done_callback(partial(self._on_done, job.id, monitor))

    def _on_done(self, job_id: JobId, monitor: EngineMonitor, task: asyncio.Task[None]) -> None:
        monitor.supervised_jobs -= 1
        del self._supervised[job_id]
        self._work_available.set()  # there is room for another job
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job.dropped", job_id=job_id, exc_info=error)  # adopted again when its lease runs out

    async def _supervise(self, runner: JobRunner) -> None:
        """Run a job. An error in Upshot delays the job, and never ends it."""
        while True:
            try:
                await runner.run()
            except LeaseLost:
                log.info("job.lease_lost", job_id=runner.job.id)
            except (Unavailable, EngineUnavailable) as error:
                log.warning("job.delayed", job_id=runner.job.id, error=str(error))
                await asyncio.sleep(self._settings.intervals.error_seconds)
                continue
            except Exception:
                log.exception("job.runner_failed", job_id=runner.job.id)
                await asyncio.sleep(self._settings.intervals.error_seconds)
                continue
            return

    # --- lost and left over -----------------------------------------------------------------------

    async def _fail_lost(self) -> None:
        """End the attempts of jobs whose engine no worker has reached for too long."""
        now = self._clock.now()
        if now - self._lost_checked_at < LOST_CHECK_INTERVAL:
            return
        self._lost_checked_at = now
        lost = await self._run_in_thread(
            self._jobs.claim_lost,
            seen_before=now - self._settings.lost_after,
            worker_id=self._settings.worker_id,
            now=now,
            until=now + self._settings.lease,
        )
        if not lost:
            return
        events = await self._run_in_thread(self._events.get, {job.event_id for job in lost})
        seconds = self._settings.lost_after.total_seconds()
        for job in lost:
            if job.id in self._supervised:
                continue
            machine = f" on {job.machine}" if job.machine else ""
            reason = f"no worker has reached its engine{machine} for {seconds:g} s"
            after = end_attempt(job, JobOutcome(FailureKind.ENGINE_LOST, reason), larger_spec=None, now=now)
            with suppress(LeaseLost):
                await self._recorder.record(after, events[job.event_id])
                log.warning("job.engine_lost", job_id=job.id, reason=reason, state=after.state.value)

    async def _collect_leftovers(self, monitor: EngineMonitor) -> None:
        """Remove the containers of ended attempts, and handle those that belong to no job."""
        own = {supervised.runner.job.container_name for supervised in self._supervised.values()}
        others = [status for status in monitor.last.statuses.values() if status.name not in own]
        if not others or not monitor.is_reachable or monitor.last.number == self._collected.get(monitor.name):
            return
        self._collected[monitor.name] = monitor.last.number
        jobs = await self._run_in_thread(self._jobs.get, {status.job_id for status in others})
        for status in others:
            job = jobs.get(status.job_id)
            if job is None:
                await self._handle_orphan(monitor, status)
            elif not job.state.is_active or job.container_name != status.name:
                await self._remove(monitor, status, "its attempt has ended")

    async def _release_inputs(self) -> None:
        """Release the inputs of attempts that have ended without that, because their worker died."""
        now = self._clock.now()
        if self._inputs_checked_at is not None and now - self._inputs_checked_at < INPUTS_CHECK_INTERVAL:
            return
        self._inputs_checked_at = now
        if not (pins := await self._inputs.pins()):
            return
        jobs = await self._run_in_thread(self._jobs.get, {pin.job_id for pin in pins})
        needed = [pin for pin in pins if self._needs_input(pin, jobs.get(pin.job_id))]
        await self._inputs.renew(needed)
        await self._inputs.release_all(set(pins).difference(needed))

    def _needs_input(self, pin: InputPin, job: Job | None) -> bool:
        """Return whether an attempt is not over, or its container may still exist."""
        if job is not None and job.state.is_active and job.attempt == pin.attempt:
            return True
        monitors = [monitor for name, monitor in self._monitors.items() if job is None or name == job.backend]
        return any(
            pin.container in monitor.last.statuses or (job is not None and not monitor.is_reachable)
            for monitor in monitors
        )

    async def _handle_orphan(self, monitor: EngineMonitor, status: ContainerStatus) -> None:
        now = self._clock.now()
        discovered_at = self._orphans.setdefault(status.name, now)
        if now - discovered_at < ORPHANED_AFTER:
            return
        if self._settings.removes_orphans:
            await self._remove(monitor, status, "it belongs to no job")
            del self._orphans[status.name]
        elif status.name not in self._reported_orphans:
            self._reported_orphans.add(status.name)
            log.warning(
                "container.orphaned",
                container=status.name,
                backend=monitor.name,
                remedy="remove it yourself, or set UPSHOT_JOBS_REMOVE_ORPHANS",
            )

    async def _remove(self, monitor: EngineMonitor, status: ContainerStatus, reason: str) -> None:
        with suppress(EngineUnavailable):  # the next snapshot shows the container again
            await monitor.backend.remove(status.name)
            log.info("container.removed", container=status.name, backend=monitor.name, reason=reason)
