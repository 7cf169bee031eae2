"""The worker process: Celery in the main thread, started and stopped together with the executor's thread."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path

import structlog
import uvloop

from upshot import gc_tuning
from upshot.adapters.celery import CeleryNotifier, execute_queue, job_queue, make_app, run_worker
from upshot.errors import ConfigError
from upshot.ids import ExecutionId, WorkerId
from upshot.settings import Settings
from upshot.wiring.worker import build_worker
from upshot.worker.loop import WorkerLoop

log = structlog.get_logger("upshot.worker")

MAIN_STOP_SECONDS = 3.0  # for Celery's main thread to end after the executor's thread
EXECUTOR_STOP_SECONDS = 15.0  # in addition to `stop_seconds`, for the executor's thread to end


def main(settings: Settings, heartbeat_file: Path | None = None) -> int:
    """
    Run a worker until it is stopped, and return the exit code of the process.

    Args:
        settings: The settings.
        heartbeat_file: Touched while the event loop runs.

    Raises:
        ConfigError: The settings are not usable, or the database schema is newer than this release.
        Unavailable: The database does not answer.
    """
    if heartbeat_file is not None:
        _check_heartbeat_file(heartbeat_file)
    worker_id = WorkerId(settings.worker_id or f"{socket.gethostname()}-{os.getpid()}")
    deps = build_worker(settings, worker_id)
    installation_id = deps.installation.id
    app = make_app(deps.redis_url, installation_id)
    notifier = CeleryNotifier(app, installation_id)
    thread = ExecutorThread(WorkerLoop(deps, notifier, notifier, heartbeat_file), stop_seconds=settings.stop_seconds)
    queues = [job_queue(installation_id, name) for name in sorted(deps.job_queues)]
    gc_tuning.freeze_startup_objects()
    code = run_worker(
        app,
        name=worker_id,
        queues=[execute_queue(installation_id), *queues] if deps.answers_events else queues,
        execute=thread.execute,
        wake_jobs=thread.wake_jobs,
        on_start=thread.start,
        on_stop=thread.stop,
        on_shutdown_signal=thread.request_stop,
    )
    thread.stop()
    return code


def _check_heartbeat_file(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:
        problem = error.strerror
    else:
        problem = "Is a directory" if path.is_dir() else None
    if problem:
        raise ConfigError(
            f"UPSHOT_HEARTBEAT_FILE: {path}: {problem}; name a file in a directory that the worker can write to"
        )


class ExecutorThread:
    """
    Runs the worker's event loop in its own thread.

    Args:
        worker_loop: Runs on the event loop.
        stop_seconds: How long a stop may take.
    """

    def __init__(self, worker_loop: WorkerLoop, *, stop_seconds: float) -> None:
        self._worker_loop = worker_loop
        self._stop_seconds = stop_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="executor", daemon=True)

    def start(self) -> None:
        """Start the thread, and return when it accepts ids."""
        self._thread.start()
        self._started.wait()

    def execute(self, execution_ids: list[ExecutionId]) -> None:
        """Hand ids to the executor, and return at once."""
        if self._loop is not None and not self._ended.is_set():
            asyncio.run_coroutine_threadsafe(self._worker_loop.execute(execution_ids), self._loop)

    def wake_jobs(self) -> None:
        """Tell the job supervisor that jobs are queued, and return at once."""
        if self._loop is not None and not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._worker_loop.wake_jobs)

    def request_stop(self) -> None:
        """Ask the thread to stop, and return at once. A signal handler calls this."""
        if self._loop is not None and not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._worker_loop.request_stop)
        threading.Thread(target=self._force_exit_on_hang, name="force-exit", daemon=True).start()

    def stop(self) -> None:
        """Ask the thread to stop, and return when it has stopped."""
        if self._thread.is_alive():
            self.request_stop()
            self._thread.join()

    def _force_exit_on_hang(self) -> None:
        # Celery's main thread may wait for a broker that is down and ignore the signal meanwhile. Once the
        # executor has ended, nothing is in progress, so the process can exit without the main thread.
        ended = self._ended.wait(self._stop_seconds + EXECUTOR_STOP_SECONDS)
        time.sleep(MAIN_STOP_SECONDS)
        os._exit(0 if ended else 1)

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._worker_loop.serve(self._started.set))
        except Exception:
            # A worker without its executor must not look alive. Its supervisor starts another one.
            log.exception("worker.crashed")
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            self._ended.set()
