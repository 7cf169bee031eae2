"""The process: Celery's worker in the main thread, started and stopped together with the engine's thread."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading

import structlog
import uvloop

from upshot import gc_tuning
from upshot.adapters.celery import QUEUE, CeleryNotifier, job_queue, make_app, run_worker
from upshot.settings import Settings
from upshot.wiring.worker import build_worker
from upshot.worker.loop import WorkerLoop

log = structlog.get_logger("upshot.worker")

MAIN_END_SECONDS = 3.0  # for Celery's main thread to end after the engine has
ENGINE_END_SECONDS = 15.0  # beyond `stop_seconds`, for the engine itself


def main(settings: Settings) -> int:
    """
    Run a worker until it is told to stop; returns the process's exit code.

    Raises:
        ConfigError: The settings cannot be used, or the database is newer than this release.
        Unavailable: The database does not answer.
    """
    worker = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
    house = build_worker(settings, worker)
    app = make_app(house.redis_url)
    bell = CeleryNotifier(app)
    thread = ExecutorThread(WorkerLoop(house, bell, bell), patience_seconds=settings.stop_seconds)
    queues = [job_queue(name) for name in sorted(house.queues)]
    gc_tuning.freeze_startup_objects()
    code = run_worker(
        app,
        name=worker,
        queues=[QUEUE, *queues] if house.answers_events else queues,
        run=thread.run,
        launch=thread.wake_jobs,
        start=thread.start,
        stop=thread.stop,
        shutting_down=thread.begin_to_stop,
    )
    thread.stop()
    return code


class ExecutorThread:
    """
    Lives the worker's loop in a thread of its own.

    Args:
        loop: What to live.
        patience_seconds: How long a stop may take.
    """

    def __init__(self, loop: WorkerLoop, *, patience_seconds: float) -> None:
        self._worker_loop = loop
        self._patience_seconds = patience_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

    def start(self) -> None:
        """Start; returns when the engine can be given ids."""
        self._thread.start()
        self._started.wait()

    def run(self, execution_ids: list[str]) -> None:
        """Give ids to the engine; returns at once."""
        if self._loop is not None and not self._ended.is_set():
            asyncio.run_coroutine_threadsafe(self._worker_loop.run(execution_ids), self._loop)

    def wake_jobs(self) -> None:
        """Say that jobs are queued; returns at once."""
        if self._loop is not None and not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._worker_loop.wake_jobs)

    def begin_to_stop(self) -> None:
        """Ask the engine to stop; returns at once, for it is called from a signal handler."""
        if self._loop is not None and not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._worker_loop.stop)
        threading.Thread(target=self._end_if_main_hangs, name="last-words", daemon=True).start()

    def stop(self) -> None:
        """Ask the engine to stop, and return when it has."""
        if self._thread.is_alive():
            self.begin_to_stop()
            self._thread.join()

    def _end_if_main_hangs(self) -> None:
        # Celery's main thread may wait for a broker that is away, and hear nothing meanwhile. Once the
        # engine has ended nothing is in hand any more, so the process can go without it.
        clean = self._ended.wait(self._patience_seconds + ENGINE_END_SECONDS)
        threading.Event().wait(MAIN_END_SECONDS)
        os._exit(0 if clean else 1)

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._worker_loop.live(self._started.set))
        except Exception:
            # A worker without its engine must not look alive: whoever supervises it starts another.
            log.exception("worker.broke")
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            self._ended.set()
