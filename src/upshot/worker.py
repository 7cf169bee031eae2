"""
A worker process: Celery in the main thread, and beside it the engine's loop in a thread of its own.

    Celery task (ids) ──┐
    sweeper ────────────┼──► Engine.run ──► claim ─┐
    stream ► Consumer ──┴──► Engine.begin ─────────┴──► render ► act ► record

The loop goes on when the broker is away: Celery reconnects in its own time, the consumer in its.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import structlog
import uvloop

from upshot.adapters.celery import CeleryDoorbell, make_app, run_worker
from upshot.clock import Clock
from upshot.engine.sweeper import Sweeper, repeat
from upshot.errors import Unavailable
from upshot.ports import WorkerRecord
from upshot.settings import Settings
from upshot.stream import Consumer, Relay
from upshot.wiring import WorkerHouse, build_worker

log = structlog.get_logger("upshot.worker")

T = TypeVar("T")

DATABASE_THREADS = 4
RELOAD_SECONDS = 1.0
ABANDONED_EVERY_SECONDS = 15.0
PRUNE_EVERY_SECONDS = 3600.0
LAST_WORDS_SECONDS = 5.0  # beyond `stop_seconds`, until a stopping process whose main thread hangs is ended


def main(settings: Settings) -> int:
    """
    Run a worker until it is told to stop; returns the process's exit code.

    Raises:
        ConfigError: The settings cannot be used, or the database is newer than this release.
        Unavailable: The database did not answer for a minute.
    """
    worker_id = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
    house = build_worker(settings, worker_id)
    app = make_app(house.redis_url)
    process = EngineThread(house, CeleryDoorbell(app))
    # The node's name ends at the first @, and the id has none.
    code = run_worker(
        app,
        name=worker_id,
        run=process.run,
        start=process.start,
        stop=process.stop,
        shutting_down=process.begin_to_stop,
    )
    process.stop()
    return code


class EngineThread:
    """
    The engine, its consumer and its sweeper on one loop, in one thread.

    Args:
        house: The worker's parts.
        doorbell: Calls workers to what is due.
    """

    def __init__(self, house: WorkerHouse, doorbell: CeleryDoorbell) -> None:
        self._house = house
        self._settings = house.settings
        self._clock: Clock = house.clock
        self._doorbell = doorbell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._stop_asked: asyncio.Event | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)
        self._run: Callable[[Sequence[str]], Coroutine[Any, Any, None]] | None = None

    # --- called from the main thread --------------------------------------------------------------

    def start(self) -> None:
        """Start the loop; returns when the engine can be given ids."""
        self._thread.start()
        self._ready.wait()

    def run(self, ids: list[str]) -> None:
        """Give ids to the engine; returns at once."""
        loop, run = self._loop, self._run
        if loop is not None and run is not None and not self._stopped.is_set():
            asyncio.run_coroutine_threadsafe(run(ids), loop)

    def begin_to_stop(self) -> None:
        """Ask the engine to stop; returns at once, for it is called from a signal handler."""
        if self._loop is not None and self._stop_asked is not None and not self._stopped.is_set():
            self._loop.call_soon_threadsafe(self._stop_asked.set)
        threading.Thread(target=self._end_if_main_hangs, name="last-words", daemon=True).start()

    def stop(self) -> None:
        """Ask the engine to stop, and return when it has."""
        if self._thread.is_alive():
            self.begin_to_stop()
            self._thread.join()

    def _end_if_main_hangs(self) -> None:
        # Celery's main thread may be waiting for a broker that is away, and hears nothing meanwhile.
        self._stopped.wait(self._settings.stop_seconds + LAST_WORDS_SECONDS)
        threading.Event().wait(LAST_WORDS_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    # --- the loop ---------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._work())
        except Exception:
            # A worker without its engine must not look alive: whoever supervises starts another.
            log.exception("worker.broke")
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            self._stopped.set()
            self._ready.set()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_asked = asyncio.Event()
        house, settings = self._house, self._settings
        threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="database")

        async def offload(work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
            return await asyncio.get_running_loop().run_in_executor(threads, partial(work, *args, **kwargs))

        engine, reception = house.make_engine(offload)
        consumer = Consumer(house.feed, house.executions, reception, self._clock, offload)
        sweeper = Sweeper(engine, house.executions, self._doorbell, self._clock, offload)
        relay = Relay(
            house.feed,
            house.events,
            house.publisher,
            self._clock,
            offload,
            after=timedelta(seconds=settings.relay_seconds),
        )
        started_at = self._clock.now()

        async def run(ids: Sequence[str]) -> None:
            try:
                await engine.run(ids)
            except Unavailable as error:
                log.warning("task.left_to_the_sweeper", executions=len(ids), error=str(error))

        async def beat() -> None:
            await offload(
                house.executions.renew, engine.in_hand, owner=engine.worker, until=engine.lease_end()
            )
            record = WorkerRecord(
                id=engine.worker,
                host=socket.gethostname(),
                pid=os.getpid(),
                started_at=started_at,
                seen_at=self._clock.now(),
                in_hand=len(engine.in_hand),
                stream_read_at=consumer.read_at,
                automations=len(house.automations.automations),
            )
            await offload(house.workers.beat, record)

        async def reload() -> None:
            await offload(house.automations.refresh)

        async def prune() -> None:
            before = self._clock.now() - timedelta(days=settings.receipts_days)
            await offload(house.executions.prune, receipts_before=before)

        if settings.worker_predecessor:
            taken = await offload(house.executions.expire, settings.worker_predecessor, self._clock.now())
            await offload(house.workers.leave, settings.worker_predecessor)
            log.info("worker.succeeds", predecessor=settings.worker_predecessor, leases=taken)
        await beat()
        self._run = run
        self._ready.set()
        log.info("worker.started", worker=engine.worker, automations=len(house.automations.automations))

        writing = asyncio.create_task(engine.write_records())
        stopping, ended = self._stop_asked, asyncio.Event()
        intake = [
            asyncio.create_task(repeat(name, every_seconds, work, until=stopping))
            for name, every_seconds, work in (
                ("consumer", 0.2, consumer.run),
                ("sweeper", settings.sweep_seconds, sweeper.sweep),
                ("relay", settings.sweep_seconds, relay.relay),
                ("abandoned", ABANDONED_EVERY_SECONDS, consumer.take_over_abandoned),
                ("reload", RELOAD_SECONDS, reload),
                ("prune", PRUNE_EVERY_SECONDS, prune),
            )
        ]
        beating = asyncio.create_task(repeat("heartbeat", min(5.0, settings.lease_seconds / 3), beat, until=ended))

        await stopping.wait()
        log.info("worker.stopping", in_hand=len(engine.in_hand))
        consumer.stop()
        await asyncio.wait(intake, timeout=LAST_WORDS_SECONDS)
        await engine.stop(within_seconds=settings.stop_seconds)
        ended.set()
        writing.cancel()
        await asyncio.wait([beating, writing], timeout=LAST_WORDS_SECONDS)
        await house.feed.close(leave=True)
        await house.close()
        try:
            await offload(house.workers.leave, engine.worker)
        except Unavailable as error:
            log.warning("worker.left_without_a_word", error=str(error))
        threads.shutdown(wait=False)
        log.info("worker.stopped", worker=engine.worker)
