"""Celery: the doorbell that calls any worker to executions that are due. The only place that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.exceptions import CPendingDeprecationWarning
from celery.platforms import SecurityWarning
from celery.signals import worker_shutting_down
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis

log = structlog.get_logger("upshot.worker")

EXECUTE_TASK = "upshot.run"  # executions are due: their ids
JOBS_TASK = "upshot.jobs"  # jobs are queued
QUEUE = "upshot"  # of executions, which any worker that answers events carries out
_SOCKET_SECONDS = 3.0  # unset, a Redis that hangs blocks a publisher for as long as it hangs
_VISIBILITY_SECONDS = 120  # a ring that a dead worker held comes again; the sweeper is earlier


def make_app(redis_url: str) -> Celery:
    """
    The Celery app, configured against the faults of its Redis transport.

    Args:
        redis_url: The broker.
    """
    _guard_transport()
    app = Celery("upshot", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_publish_retry=False,  # the sweeper is the retry
        worker_prefetch_multiplier=4,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_SECONDS,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": _SOCKET_SECONDS,
            "socket_connect_timeout": _SOCKET_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    )
    return app


def _guard_transport() -> None:
    """
    Keep a busy worker alive when the broker restarts.

    kombu 5.7 reads `connection.client.hostname` of a connection that Celery 5.7 has just collected,
    and the AttributeError ends the worker process (9 of 9 busy workers with the prefork and threads
    pools, measured; the solo pool that we run has not shown it). As a ConnectionError it is what
    both treat as "reconnect".
    """
    channel = kombu_redis.Channel
    original = channel._connparams  # noqa: SLF001 - the only place where the fault can be caught
    if getattr(original, "guarded_by_upshot", False):
        return

    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the connection to the broker is closed")
        return original(self, *args, **kwargs)

    guarded.guarded_by_upshot = True  # type: ignore[attr-defined]  # a mark, so that it is put on once
    channel._connparams = guarded  # type: ignore[method-assign]  # noqa: SLF001 - see above


class CeleryNotifier:
    """Rings with a task that carries execution ids."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def notify_executions(self, execution_ids: Sequence[str]) -> bool:
        """Tell whether the broker took it."""
        return not execution_ids or self._send(EXECUTE_TASK, execution_ids, QUEUE)

    def notify_jobs(self, queue: str, job_ids: Sequence[str]) -> bool:
        """Tell whether the broker took it."""
        return self._send(JOBS_TASK, job_ids, job_queue(queue))

    def _send(self, task: str, ids: Sequence[str], queue: str) -> bool:
        try:
            self._app.send_task(task, args=[list(ids)], queue=queue, retry=False, argsrepr="")
        except (OperationalError, OSError, ConnectionError) as error:
            log.warning("doorbell.failed", task=task, ids=len(ids), error=str(error))
            return False
        return True


def job_queue(queue: str) -> str:
    """Name of the Celery queue for the jobs of a queue of ours."""
    return f"{QUEUE}.jobs.{queue}"


def run_worker(
    app: Celery,
    *,
    name: str,
    queues: Sequence[str],
    run: Callable[[list[str]], None],
    launch: Callable[[], None],
    start: Callable[[], None],
    stop: Callable[[], None],
    shutting_down: Callable[[], None],
) -> int:
    """
    Run a Celery worker process with our engine beside its tasks; returns its exit code.

    One process, solo pool: a task only hands ids to the engine's loop, which lives in a thread of
    this process; a pool that forks would leave that thread behind.

    Args:
        app: From `make_app`.
        name: The node's name, unique among workers.
        queues: Celery queues that it takes tasks from.
        run: Takes ids that a task brought; must return at once.
        launch: Told that jobs are queued; must return at once.
        start: Starts the engine, before the first task.
        stop: Stops the engine and returns when it has stopped.
        shutting_down: Called from the signal handler as soon as a stop is asked for; must return at once.
    """

    @app.task(name=EXECUTE_TASK)
    def run_task(execution_ids: list[str]) -> None:
        run(execution_ids)

    @app.task(name=JOBS_TASK)
    def launch_task(_job_ids: list[str]) -> None:
        launch()

    class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        """Starts and stops the engine with the worker itself, not with its connection to the broker."""

        def __init__(self, parent: Any, **options: Any) -> None:
            super().__init__(parent, **options)

        def start(self, parent: Any) -> None:
            start()

        def stop(self, parent: Any) -> None:
            stop()

        def terminate(self, parent: Any) -> None:
            stop()

    def announce(**_: Any) -> None:
        shutting_down()

    # Only JSON is accepted, so running as root (as in many containers) adds no risk of its own.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)  # names a setting that is set above
    worker_shutting_down.connect(announce, weak=False)
    app.steps["worker"].add(EngineStep)
    worker = app.Worker(
        hostname=f"{name}@%h",
        pool_cls="solo",
        concurrency=1,
        queues=list(queues),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)
