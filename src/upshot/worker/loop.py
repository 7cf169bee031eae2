"""Everything that a worker does beside Celery's tasks, on one event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from upshot.errors import Unavailable
from upshot.execution.destinations import DestinationReporter
from upshot.execution.sweeper import Sweeper
from upshot.ids import ExecutionId, WorkerId
from upshot.ports.messaging import JobNotifier, Notifier
from upshot.ports.secrets import usable_names
from upshot.ports.workers import WorkerRecord
from upshot.stream import RARE_SECONDS, Consumer, Relay
from upshot.wiring.worker import WorkerDependencies
from upshot.worker.agreement import WorkerAgreement
from upshot.worker.lease_guard import LeaseGuard
from upshot.worker.periodic import run_periodically

log = structlog.get_logger("upshot.worker")

T = TypeVar("T")

DATABASE_THREADS = 4
MIN_PAUSE_SECONDS = 0.02  # for a loop that waits for work by itself
FAILURE_PAUSE_SECONDS = 1.0  # after a failure of the engine monitors, which otherwise do not end
CONSUMER_FAILURE_PAUSE_SECONDS = 0.2  # after a failure of the consumer, which otherwise does not end
RETURN_PAUSE_SECONDS = 0.02  # between two claims of executions that wait for room, so that each claims several
RELOAD_SECONDS = 1.0
CHANGES_SECONDS = 1.0  # between two checks which destinations have gone down or up
DELIVERIES_SECONDS = 5.0  # between two updates of the stored counts of attempts
TAKE_OVER_SECONDS = 15.0
PRUNE_SECONDS = 3600.0
RUN_LOGS_SECONDS = 2.0  # between two searches for runs whose logs are to be packed
ORPHANS_SECONDS = 24 * 3600.0  # between two looks at all files
ALIVE_SECONDS = 2.0  # between two signs that the event loop runs
MAX_HEARTBEAT_SECONDS = 5.0
STOP_STEP_SECONDS = 5.0  # at a stop, for the current call of each loop


class WorkerLoop:
    """
    Runs the consumer, the sweeper, the relay, the heartbeat, the executor and the job supervisor.

    Args:
        deps: The objects that the worker consists of.
        notifier: Notifies workers of due executions.
        job_notifier: Notifies workers of queued jobs.
        heartbeat_file: Touched while the event loop runs, for a supervisor.
    """

    def __init__(
        self,
        deps: WorkerDependencies,
        notifier: Notifier,
        job_notifier: JobNotifier,
        heartbeat_file: Path | None = None,
    ) -> None:
        self._deps = deps
        self._heartbeat_file = heartbeat_file
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="database")
        lease_seconds = deps.settings.lease_seconds
        self._heartbeat_seconds = min(MAX_HEARTBEAT_SECONDS, lease_seconds / 3)
        self._guard = guard = LeaseGuard(
            deps.clock,
            lease_seconds=lease_seconds,
            heartbeat_seconds=self._heartbeat_seconds,
            replaces_worker=bool(deps.settings.worker_predecessor),
        )
        self._agreement = WorkerAgreement(
            deps.automations,
            deps.automation_sets,
            deps.clock,
            worker_id=deps.worker_id,
            # `upshot up` runs one worker per data directory, so the source does not depend on the folder in its
            # settings.
            source=f"{socket.gethostname()}:{(heartbeat_file or deps.settings.automations).absolute()}",
            lease=timedelta(seconds=lease_seconds),
            heartbeat_seconds=self._heartbeat_seconds,
            can_trust_leases=guard.may_take_over,
        )
        self._executor, admitter = deps.make_executor(
            self._run_in_thread, job_notifier, guard.may_take_over, lambda: self._agreement.names
        )
        self._supervisor = deps.make_supervisor(self._run_in_thread, notifier, guard.may_take_over)
        self._consumer = Consumer(
            stream=deps.stream,
            events=deps.events,
            executions=deps.executions,
            admitter=admitter,
            executor=self._executor,
            publisher=deps.publisher,
            counters=deps.counters,
            clock=deps.clock,
            run_in_thread=self._run_in_thread,
            may_match=lambda: self._agreement.matches,
        )
        self._sweeper = Sweeper(
            self._executor,
            deps.executions,
            notifier,
            deps.clock,
            self._run_in_thread,
            after_outage=timedelta(seconds=self._heartbeat_seconds + RELOAD_SECONDS),
            may_take_over=guard.may_take_over,
        )
        self._relay = Relay(
            deps.stream,
            deps.events,
            deps.publisher,
            deps.clock,
            self._run_in_thread,
            after=timedelta(seconds=deps.settings.relay_seconds),
        )
        self._destinations = DestinationReporter(
            self._executor.limits,
            store=deps.destinations,
            publisher=deps.publisher,
            worker_id=self._executor.worker_id,
            clock=deps.clock,
            run_in_thread=self._run_in_thread,
        )
        self._started_at = deps.clock.now()
        self._stopping = asyncio.Event()
        self._file_cleanup = deps.make_file_cleanup(self._run_in_thread, self._stopping)
        self._run_upkeep = deps.make_run_upkeep(self._run_in_thread, self._stopping)
        self._retention = deps.make_retention(self._run_in_thread, self._stopping)

    async def _run_in_thread(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    def request_stop(self) -> None:
        """Take nothing more. `serve` returns when everything in progress has ended or is released."""
        self._stopping.set()
        self._consumer.stop()
        self._supervisor.wake()

    def wake_jobs(self) -> None:
        """Check the queues of jobs now."""
        self._supervisor.wake()

    async def execute(self, execution_ids: Sequence[ExecutionId]) -> None:
        """Execute the ids of a Celery task. The sweeper executes those that cannot be claimed now."""
        try:
            await self._executor.execute(execution_ids)
        except Unavailable as error:
            log.warning("executions.left_to_sweeper", executions=len(execution_ids), error=str(error))

    async def serve(self, on_started: Callable[[], None]) -> None:
        """
        Work until a stop is requested.

        Args:
            on_started: Called when the loop accepts ids through `execute`.
        """
        await self._take_over_predecessor()
        if self._deps.answers_events:
            try:
                await self._deps.stream.create_group()
            except Unavailable as error:
                log.warning("worker.redis_unavailable", error=str(error))
        await self._run_in_thread(self._prepare)
        if self._deps.answers_events:
            await self._run_in_thread(self._agreement.check)
        await self._heartbeat()
        on_started()
        log.info(
            "worker.started",
            worker_id=self._executor.worker_id,
            automations=len(self._deps.automations.automations),
            queues=",".join(self._deps.queues),
        )
        loops = self._start_loops()
        stopped = asyncio.Event()
        heartbeat = self._start_loop("heartbeat", self._heartbeat_seconds, self._heartbeat, until=stopped)
        alive = self._start_loop("alive", ALIVE_SECONDS, self._touch_heartbeat_file, until=stopped)
        recorder = asyncio.create_task(self._executor.recorder.run())

        await self._stopping.wait()
        log.info("worker.stopping", in_progress=len(self._executor.in_progress))
        await asyncio.wait(loops, timeout=STOP_STEP_SECONDS)
        await self._executor.stop(within_seconds=self._deps.settings.stop_seconds)
        await self._supervisor.stop()
        stopped.set()
        recorder.cancel()
        await asyncio.wait((heartbeat, alive, recorder), timeout=STOP_STEP_SECONDS)
        await self._close()

    def _start_loops(self) -> list[asyncio.Task[None]]:
        """Start the loops that end at once when a stop is requested."""
        sweep_seconds = self._deps.settings.sweep_seconds
        start = partial(self._start_loop, until=self._stopping)
        loops = [
            start("engines", FAILURE_PAUSE_SECONDS, partial(self._supervisor.monitor_engines, self._stopping)),
            start("jobs", MIN_PAUSE_SECONDS, self._supervise_jobs),
            start("prune", PRUNE_SECONDS, self._prune),
            start("files", PRUNE_SECONDS, self._file_cleanup.remove_unneeded),
            start("run-logs", RUN_LOGS_SECONDS, self._run_upkeep.pack),
            start("orphans", ORPHANS_SECONDS, self._file_cleanup.remove_orphans),
        ]
        if self._deps.answers_events:
            loops += [
                start("consumer", CONSUMER_FAILURE_PAUSE_SECONDS, self._consumer.run),
                start("rare", RARE_SECONDS, self._consumer.admit_rare),
                start("sweeper", sweep_seconds, self._sweeper.sweep),
                start("waiting", RETURN_PAUSE_SECONDS, self._executor.return_waiting_when_possible),
                start("destinations", CHANGES_SECONDS, self._destinations.report_changes),
                start("deliveries", DELIVERIES_SECONDS, self._executor.meter.flush),
                start("relay", sweep_seconds, self._relay.relay),
                start("take-over", TAKE_OVER_SECONDS, self._consumer.take_over_abandoned),
                start("reload", RELOAD_SECONDS, partial(self._run_in_thread, self._reload)),
                start("agreement", RELOAD_SECONDS, partial(self._run_in_thread, self._agreement.check)),
            ]
        return loops

    @staticmethod
    def _start_loop(
        name: str, interval_seconds: float, work: Callable[[], Awaitable[object]], *, until: asyncio.Event
    ) -> asyncio.Task[None]:
        return asyncio.create_task(run_periodically(name, interval_seconds, work, until=until), name=name)

    async def _supervise_jobs(self) -> None:
        await self._supervisor.reconcile()
        await self._supervisor.wait_for_work(self._deps.settings.sweep_seconds)

    async def _take_over_predecessor(self) -> None:
        """End the leases of a predecessor that is known to be dead, instead of waiting until they expire."""
        if predecessor := self._deps.settings.worker_predecessor:
            predecessor_id = WorkerId(predecessor)
            now = self._deps.clock.now()
            leases = await self._run_in_thread(self._deps.executions.expire, predecessor_id, now)
            leases += await self._run_in_thread(self._deps.jobs.expire, predecessor_id, now)
            await self._executor.meter.flush()
            await self._run_in_thread(self._deps.workers.deregister, predecessor_id)
            await self._run_in_thread(self._agreement.end, predecessor_id)
            log.info("worker.predecessor_replaced", predecessor_id=predecessor_id, leases=leases)

    async def _heartbeat(self) -> None:
        """Renew the leases, and record that this worker is alive."""
        with self._guard.heartbeat():
            await self._renew_and_record()

    async def _renew_and_record(self) -> None:
        deps, executor = self._deps, self._executor
        await self._run_in_thread(deps.clock.synchronize)
        await self._run_in_thread(
            deps.executions.renew, executor.in_progress, worker_id=executor.worker_id, until=executor.lease_end()
        )
        if deps.answers_events:
            await executor.find_waiting()
            await self._destinations.report()
        await self._supervisor.renew()
        record = WorkerRecord(
            id=executor.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            seen_at=deps.clock.now(),
            in_progress=len(executor.in_progress),
            stream_read_at=self._consumer.read_at,
            automations=len(deps.automations.automations),
            machine=deps.machine,
            queues=deps.queues,
            engines=self._supervisor.engine_ids,
            clock_skew_seconds=deps.clock.skew_seconds,
            secrets=await self._run_in_thread(usable_names, deps.secrets),
        )
        await self._run_in_thread(deps.workers.heartbeat, record)

    async def _touch_heartbeat_file(self) -> None:
        # Not in a thread, and without the database: only the event loop must run for this.
        if self._heartbeat_file is not None:
            self._heartbeat_file.touch()

    def _reload(self) -> None:
        """Activate changed automations, and compile them before the next event needs them."""
        previous = self._deps.automations.automations
        self._deps.automations.refresh()
        if self._deps.automations.automations is not previous:
            self._prepare()
        self._agreement.check()

    def _prepare(self) -> None:
        automations = self._deps.automations
        automations.matcher().prepare()
        self._executor.revisions.prepare(automations.automations)

    async def _prune(self) -> None:
        finished_before = self._deps.clock.now() - timedelta(days=self._deps.settings.jobs_days)
        await self._run_in_thread(self._deps.job_admin.prune, finished_before=finished_before)
        await self._retention.remove_old()
        await self._run_upkeep.remove_old()

    async def _close(self) -> None:
        await self._deps.stream.close(leave_group=True)
        await self._deps.close()
        try:
            await self._run_in_thread(self._deps.workers.deregister, self._executor.worker_id)
            await self._run_in_thread(self._agreement.end)
            await self._run_in_thread(
                self._deps.destinations.report, self._executor.worker_id, (), self._deps.clock.now()
            )
        except Unavailable as error:
            log.warning("worker.deregister_failed", error=str(error))
        self._threads.shutdown(wait=False)
        log.info("worker.stopped", worker_id=self._executor.worker_id)
