"""Everything that a worker does beside Celery's tasks, on one event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import structlog

from upshot.errors import Unavailable
from upshot.execution.sweeper import Sweeper, repeat
from upshot.ports.messaging import JobNotifier, Notifier
from upshot.ports.workers import WorkerRecord
from upshot.stream import Consumer, Relay
from upshot.wiring.worker import WorkerDependencies

log = structlog.get_logger("upshot.worker")

T = TypeVar("T")

DATABASE_THREADS = 4
SHORTEST_PAUSE_SECONDS = 0.02  # of a loop that waits by itself
AFTER_BREAK_SECONDS = 1.0
CONSUMER_PAUSE_SECONDS = 0.2  # only after a failure: the consumer itself runs on
RELOAD_SECONDS = 1.0
ABANDONED_SECONDS = 15.0
PRUNE_SECONDS = 3600.0
LONGEST_BEAT_SECONDS = 5.0
INTAKE_END_SECONDS = 5.0  # for what the intake is doing when a stop comes


class WorkerLoop:
    """
    Consumer, sweeper, relay, heartbeat, the engine that they feed, and the keeper of jobs.

    Args:
        house: The worker's parts.
        doorbell: Calls workers to what is due.
        job_bell: Calls workers to jobs that are queued.
    """

    def __init__(self, house: WorkerDependencies, doorbell: Notifier, job_bell: JobNotifier) -> None:
        self._house = house
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="database")
        self._engine, reception = house.make_engine(self._run_in_thread, job_bell)
        self._keeper = house.make_keeper(self._run_in_thread, doorbell)
        self._consumer = Consumer(house.feed, house.executions, reception, house.clock, self._run_in_thread)
        self._sweeper = Sweeper(
            self._engine,
            house.executions,
            doorbell,
            house.clock,
            self._run_in_thread,
            after_outage=timedelta(seconds=self._beat_seconds + RELOAD_SECONDS),
        )
        self._relay = Relay(
            house.feed,
            house.events,
            house.publisher,
            house.clock,
            self._run_in_thread,
            after=timedelta(seconds=house.settings.relay_seconds),
        )
        self._started_at = house.clock.now()
        self._stopping = asyncio.Event()

    async def _run_in_thread(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    def stop(self) -> None:
        """Take nothing more; `live` returns when what is in hand has ended or is handed back."""
        self._stopping.set()
        self._consumer.stop()
        self._keeper.wake()

    def wake_jobs(self) -> None:
        """Look at the queues of jobs now."""
        self._keeper.wake()

    async def run(self, execution_ids: Sequence[str]) -> None:
        """Carry out what a Celery task brought; what cannot be claimed now is left to the sweeper."""
        try:
            await self._engine.execute(execution_ids)
        except Unavailable as error:
            log.warning("task.left_to_the_sweeper", executions=len(execution_ids), error=str(error))

    async def live(self, started: Callable[[], None]) -> None:
        """
        Work until stopped.

        Args:
            started: Called when ids can be given to `run`.
        """
        await self._succeed()
        await self._prepare()
        await self._beat()
        started()
        log.info(
            "worker.started",
            worker=self._engine.worker_id,
            automations=len(self._house.automations.automations),
            takes=",".join(self._house.takes),
        )
        intake = self._begin_intake()
        ended = asyncio.Event()
        beating = self._repeat("heartbeat", self._beat_seconds, self._beat, until=ended)
        writing = asyncio.create_task(self._engine.write_records())

        await self._stopping.wait()
        log.info("worker.stopping", in_hand=len(self._engine.in_progress))
        await asyncio.wait(intake, timeout=INTAKE_END_SECONDS)
        await self._engine.stop(within_seconds=self._house.settings.stop_seconds)
        await self._keeper.stop()
        ended.set()
        writing.cancel()
        await asyncio.wait((beating, writing), timeout=INTAKE_END_SECONDS)
        await self._leave()

    def _begin_intake(self) -> list[asyncio.Task[None]]:
        settings, stopping = self._house.settings, self._stopping
        intake = [
            self._repeat(
                "engines", AFTER_BREAK_SECONDS, partial(self._keeper.monitor_engines, stopping), until=stopping
            ),
            self._repeat("jobs", SHORTEST_PAUSE_SECONDS, self._keep_jobs, until=stopping),
            self._repeat("prune", PRUNE_SECONDS, self._prune, until=stopping),
        ]
        if not self._house.answers_events:
            return intake
        return [
            *intake,
            self._repeat("consumer", CONSUMER_PAUSE_SECONDS, self._consumer.run, until=stopping),
            self._repeat("sweeper", settings.sweep_seconds, self._sweeper.sweep, until=stopping),
            self._repeat("relay", settings.sweep_seconds, self._relay.relay, until=stopping),
            self._repeat("abandoned", ABANDONED_SECONDS, self._consumer.take_over_abandoned, until=stopping),
            self._repeat("reload", RELOAD_SECONDS, self._reload, until=stopping),
        ]

    async def _keep_jobs(self) -> None:
        await self._keeper.reconcile()
        await self._keeper.wait_for_work(self._house.settings.sweep_seconds)

    @staticmethod
    def _repeat(
        name: str, every_seconds: float, work: Callable[[], Awaitable[object]], *, until: asyncio.Event
    ) -> asyncio.Task[None]:
        return asyncio.create_task(repeat(name, every_seconds, work, until=until), name=name)

    async def _succeed(self) -> None:
        """Take the leases of a predecessor that is known to be dead, instead of waiting for them to run out."""
        predecessor = self._house.settings.worker_predecessor
        if predecessor:
            now = self._house.clock.now()
            leases = await self._run_in_thread(self._house.executions.expire, predecessor, now)
            leases += await self._run_in_thread(self._house.jobs.expire, predecessor, now)
            await self._run_in_thread(self._house.workers.deregister, predecessor)
            log.info("worker.succeeds", predecessor=predecessor, leases=leases)

    async def _prepare(self) -> None:
        if not self._house.answers_events:
            return
        try:
            await self._house.feed.prepare()
        except Unavailable as error:
            log.warning("worker.starts_without_redis", error=str(error))

    @property
    def _beat_seconds(self) -> float:
        return min(LONGEST_BEAT_SECONDS, self._house.settings.lease_seconds / 3)

    async def _beat(self) -> None:
        house, engine = self._house, self._engine
        await self._run_in_thread(
            house.executions.renew, engine.in_progress, owner=engine.worker_id, until=engine.lease_end()
        )
        await self._keeper.renew()
        record = WorkerRecord(
            id=engine.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            seen_at=house.clock.now(),
            in_progress=len(engine.in_progress),
            stream_read_at=self._consumer.read_at,
            automations=len(house.automations.automations),
            machine=house.machine,
            queues=house.takes,
            engines=self._keeper.engines,
        )
        await self._run_in_thread(house.workers.heartbeat, record)

    async def _reload(self) -> None:
        await self._run_in_thread(self._house.automations.refresh)

    async def _prune(self) -> None:
        now, settings = self._house.clock.now(), self._house.settings
        await self._run_in_thread(
            self._house.executions.prune, receipts_before=now - timedelta(days=settings.receipts_days)
        )
        await self._run_in_thread(self._house.job_desk.prune, finished_before=now - timedelta(days=settings.jobs_days))

    async def _leave(self) -> None:
        await self._house.feed.close(leave=True)
        await self._house.close()
        try:
            await self._run_in_thread(self._house.workers.deregister, self._engine.worker_id)
        except Unavailable as error:
            log.warning("worker.left_without_a_word", error=str(error))
        self._threads.shutdown(wait=False)
        log.info("worker.stopped", worker=self._engine.worker_id)
