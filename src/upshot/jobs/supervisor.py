"""
Keeps the jobs of this worker: takes them from their queues, has each followed, finds what was left behind.

    queued ─ claim under the limits ─► JobWatch ─► recorded, its execution woken, its container removed
    abandoned by a dead worker ──────►    "
    lost: nobody reaches its engine ─► failed, or tried again elsewhere
    left behind on an engine ────────► removed

A job costs its worker a coroutine; what a hundred of them do is asked of the engine once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog

from upshot.backends.protocol import Backend, ContainerStatus, EngineUnavailable
from upshot.clock import Clock
from upshot.domain.event import Event
from upshot.domain.job import FailureKind, Job
from upshot.errors import Unavailable
from upshot.jobs.container_request import ContainerRequestBuilder
from upshot.jobs.engine_monitor import EngineMonitor, PollIntervals
from upshot.jobs.events import job_event
from upshot.jobs.runner import JobRunner, LeaseLost, RunnerContext
from upshot.jobs.transitions import JobOutcome, finish, next_attempt
from upshot.jobs.version_metrics import VersionMetricsWriter
from upshot.ports.concurrency import RunInThread
from upshot.ports.events import EventStore
from upshot.ports.jobs import ConcurrencyLimits, JobStore, JobUpdate, WorkerCapacity
from upshot.ports.messaging import EventPublisher, Notifier
from upshot.schema.queues import JobsConfig

log = structlog.get_logger("upshot.jobs")

LEFT_BEHIND = timedelta(seconds=60)  # a container that no job knows for so long
LOST_CHECK = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """What an operator can choose."""

    worker_id: str
    machine: str
    queues: frozenset[str] | None  #: that this worker takes; None: all
    lease: timedelta
    lost_after: timedelta
    log_bytes: int
    removes_orphans: bool  #: containers of ours that no job knows of
    pace: PollIntervals = field(default_factory=PollIntervals)


@dataclass(frozen=True, slots=True)
class _Supervised:
    task: asyncio.Task[None]
    watch: JobRunner
    lookout: EngineMonitor


class JobSupervisor:
    """
    The jobs of one worker.

    Args:
        settings: What an operator chose.
        backends: By the name that queues use; those that this machine may reach.
        jobs: Where jobs are kept.
        events: Where events are kept.
        publisher: Where the jobs' events are published.
        doorbell: Calls a worker to an execution whose job has ended.
        clerk: Fills in what engines are told.
        book: The rules of the queues.
        metrics: Writes what a job measured to its version.
        clock: Tells the time.
        run_in_thread: Runs the stores' blocking calls.
    """

    def __init__(
        self,
        settings: SupervisorSettings,
        *,
        backends: Mapping[str, Backend],
        jobs: JobStore,
        events: EventStore,
        publisher: EventPublisher,
        doorbell: Notifier,
        clerk: ContainerRequestBuilder,
        book: JobsConfig,
        metrics: VersionMetricsWriter,
        clock: Clock,
        run_in_thread: RunInThread,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._events = events
        self._publisher = publisher
        self._doorbell = doorbell
        self._book = book
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._monitors = {
            name: EngineMonitor(name, backend, clerk.installation.id, clock, settings.pace)
            for name, backend in backends.items()
        }
        self._office = RunnerContext(
            jobs=jobs,
            clerk=clerk,
            book=book,
            clock=clock,
            run_in_thread=run_in_thread,
            lost_after=settings.lost_after,
            log_bytes=settings.log_bytes,
            told=self._publish,
            save_metrics=metrics.save,
            asked_to_stop=self._stop_requested_by,
            pace=settings.pace,
        )
        self._supervised: dict[str, _Supervised] = {}
        self._stops: Mapping[str, str] = {}
        self._wanted = asyncio.Event()
        self._orphans: dict[str, datetime] = {}  #: containers without a job, by when they were first seen
        self._reported: set[str] = set()
        self._cleared: dict[str, int] = {}  #: number of the look that was last cleared up, by backend
        self._lost_checked_at = clock.now()

    # --- what others see --------------------------------------------------------------------------

    @property
    def in_progress(self) -> tuple[str, ...]:
        """Ids of the jobs that this worker follows."""
        return tuple(self._supervised)

    @property
    def engines(self) -> Mapping[str, str]:
        """Identity of each engine that answers now, by backend."""
        return {
            name: one.engine_id for name, one in self._monitors.items() if one.is_reached and one.engine_id is not None
        }

    def _stop_requested_by(self, job: str) -> str | None:
        return self._stops.get(job)

    def wake(self) -> None:
        """Look at the queues now: something was queued."""
        self._wanted.set()

    async def wait_for_work(self, within_seconds: float) -> None:
        """Return when the queues should be looked at."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._wanted.wait()
        except TimeoutError:
            return

    # --- its work ---------------------------------------------------------------------------------

    async def monitor_engines(self, until: asyncio.Event) -> None:
        """Ask the engines again and again until stopped."""
        await asyncio.gather(*(lookout.run(until) for lookout in self._monitors.values()))

    async def reconcile(self) -> None:
        """Take what is due, abandoned or lost, and see to wishes and leftovers; to be called about every second."""
        self._wanted.clear()
        await self._run_in_thread(self._jobs.cancel_unneeded, self._clock.now())
        if self._supervised:
            self._stops = await self._run_in_thread(self._jobs.stop_requests, self.in_progress)
        if engines := self.engines:
            await self._adopt_abandoned(engines)
            await self._claim(engines)
        await self._fail_lost()
        for lookout in self._monitors.values():
            await self._collect_leftovers(lookout)

    async def renew(self) -> None:
        """Prolong the leases; what this worker has lost is not followed any further."""
        by_answer: dict[datetime | None, list[str]] = {}
        for name, held in self._supervised.items():
            by_answer.setdefault(held.lookout.reached_at if held.lookout.is_reached else None, []).append(name)
        until = self._clock.now() + self._settings.lease
        for seen_at, ids in by_answer.items():
            kept = await self._run_in_thread(
                self._jobs.renew, ids, owner=self._settings.worker_id, until=until, seen_at=seen_at
            )
            await self._drop_lost_leases(set(ids) - kept)

    async def _drop_lost_leases(self, ids: Collection[str]) -> None:
        if not ids:
            return
        for name, job in (await self._run_in_thread(self._jobs.get, ids)).items():
            # One without an owner has just ended here, and its watch is about to.
            if job.lease_owner not in (None, self._settings.worker_id) and name in self._supervised:
                log.warning("job.taken_away", job=name, owner=job.lease_owner)
                self._supervised[name].task.cancel()

    async def stop(self) -> None:
        """Let go of everything: the jobs run on, and the next worker follows them."""
        tasks = [held.task for held in self._supervised.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        try:
            await self._run_in_thread(self._jobs.expire, self._settings.worker_id, self._clock.now())
        except Unavailable as error:
            log.warning("jobs.left_to_their_leases", error=str(error))
        for lookout in self._monitors.values():
            await lookout.backend.close()

    # --- taken ------------------------------------------------------------------------------------

    def _lease_end(self) -> datetime:
        return self._clock.now() + self._settings.lease

    async def _claim(self, engines: Mapping[str, str]) -> None:
        taken = self._settings.queues
        offer = WorkerCapacity(
            worker_id=self._settings.worker_id,
            machine=self._settings.machine,
            engines=engines,
            queues={
                name: ConcurrencyLimits(rules.concurrency, rules.per_machine)
                for name, rules in self._book.queues.items()
                if taken is None or name in taken
            },
            machine_limit=self._book.machine_limit,
        )
        claimed = await self._run_in_thread(
            self._jobs.claim_queued, offer, now=self._clock.now(), until=self._lease_end()
        )
        await self._follow((job, self._monitors[job.backend]) for job in claimed)

    async def _adopt_abandoned(self, engines: Mapping[str, str]) -> None:
        """Follow what a dead worker has left, and what this one let go of before it was started again."""
        abandoned = await self._run_in_thread(
            self._jobs.claim_abandoned,
            frozenset(engines.values()),
            owner=self._settings.worker_id,
            now=self._clock.now(),
            until=self._lease_end(),
        )
        by_engine = {engine: self._monitors[name] for name, engine in engines.items()}
        for job in abandoned:
            log.info("job.taken_up", job=job.id, state=job.state.value)
        await self._follow((job, by_engine[job.engine_id or ""]) for job in abandoned)

    async def _follow(self, jobs: Iterable[tuple[Job, EngineMonitor]]) -> None:
        wanted = list(jobs)
        if not wanted:
            return
        events = await self._run_in_thread(self._events.get, {job.event_id for job, _ in wanted})
        for job, lookout in wanted:
            if (held := self._supervised.get(job.id)) is not None:
                # Its lease ran out while this very worker followed it: with the new one it begins anew.
                held.task.cancel()
                await asyncio.wait([held.task])
            watch = JobRunner(job, events[job.event_id], lookout, self._office)
            task = asyncio.get_running_loop().create_task(self._supervise(watch), name=job.id)
            self._supervised[job.id] = _Supervised(task, watch, lookout)
            lookout.supervised_jobs += 1
            task.add_done_callback(partial(self._has_ended, job.id, lookout))

    def _has_ended(self, job: str, lookout: EngineMonitor, task: asyncio.Task[None]) -> None:
        lookout.supervised_jobs -= 1
        del self._supervised[job]
        self._wanted.set()  # its place is free
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job.dropped", job=job, exc_info=error)  # its lease runs out

    async def _supervise(self, watch: JobRunner) -> None:
        """Follow a job; trouble of our own delays it, and never ends it."""
        while True:
            try:
                await watch.follow()
            except LeaseLost:
                log.info("job.taken_away", job=watch.job.id)
            except (Unavailable, EngineUnavailable) as error:
                log.warning("job.waits", job=watch.job.id, error=str(error))
                await asyncio.sleep(self._settings.pace.after_trouble)
                continue
            except Exception:
                log.exception("job.following_broke", job=watch.job.id)
                await asyncio.sleep(self._settings.pace.after_trouble)
                continue
            return

    async def _publish(self, progress: JobUpdate) -> None:
        """What follows a commit; the relay and the sweeper do it where it fails."""
        if progress.events:
            await self._run_in_thread(self._publisher.publish, progress.events)
        if progress.wakes:
            await self._run_in_thread(self._doorbell.notify_executions, [progress.job.execution_id])

    # --- lost, and left behind --------------------------------------------------------------------

    async def _fail_lost(self) -> None:
        """End the tries of jobs whose engine nobody has reached for too long."""
        now = self._clock.now()
        if now - self._lost_checked_at < LOST_CHECK:
            return
        self._lost_checked_at = now
        lost = await self._run_in_thread(
            self._jobs.claim_lost,
            seen_before=now - self._settings.lost_after,
            owner=self._settings.worker_id,
            now=now,
            until=self._lease_end(),
        )
        if not lost:
            return
        events = await self._run_in_thread(self._events.get, {job.event_id for job in lost})
        for job in lost:
            if job.id not in self._supervised:
                await self._fail_attempt(job, events[job.event_id], now)

    async def _fail_attempt(self, job: Job, event: Event, now: datetime) -> None:
        where = f" on {job.machine}" if job.machine else ""
        seconds = self._settings.lost_after.total_seconds()
        end = JobOutcome(FailureKind.ENGINE_LOST, f"no worker has reached its engine{where} for {seconds:g} s")
        after = next_attempt(job, end, grown=None, now=now) or finish(job, end, now=now)
        told = job_event(after, event, now)
        progress = JobUpdate(after, (told,) if told else (), wakes=after.state.is_final)
        if not await self._run_in_thread(self._jobs.record, [progress]):
            log.warning("job.lost", job=job.id, reason=end.reason, state=after.state.value)
            await self._publish(progress)

    async def _collect_leftovers(self, lookout: EngineMonitor) -> None:
        """Remove containers of tries that have ended, and say of those that no job knows."""
        own = {held.watch.job.container for held in self._supervised.values()}
        others = [one for one in lookout.last.statuses.values() if one.name not in own]
        if not others or not lookout.is_reached or lookout.last.number == self._cleared.get(lookout.name):
            return
        self._cleared[lookout.name] = lookout.last.number
        jobs = await self._run_in_thread(self._jobs.get, {one.job_id for one in others})
        for sighting in others:
            job = jobs.get(sighting.job_id)
            if job is None:
                await self._handle_orphan(lookout, sighting)
            elif not job.state.is_active or job.container != sighting.name:
                await self._remove(lookout, sighting, "its try has ended")

    async def _handle_orphan(self, lookout: EngineMonitor, sighting: ContainerStatus) -> None:
        now = self._clock.now()
        known_since = self._orphans.setdefault(sighting.name, now)
        if now - known_since < LEFT_BEHIND:
            return
        if self._settings.removes_orphans:
            await self._remove(lookout, sighting, "no job knows it")
            del self._orphans[sighting.name]
        elif sighting.name not in self._reported:
            self._reported.add(sighting.name)
            log.warning(
                "container.orphaned",
                container=sighting.name,
                backend=lookout.name,
                remedy="remove it yourself, or set UPSHOT_JOBS_REMOVE_ORPHANS",
            )

    async def _remove(self, lookout: EngineMonitor, sighting: ContainerStatus, why: str) -> None:
        try:
            await lookout.backend.remove(sighting.name)
        except EngineUnavailable:
            return  # comes up again with the next look
        log.info("container.removed", container=sighting.name, backend=lookout.name, why=why)
