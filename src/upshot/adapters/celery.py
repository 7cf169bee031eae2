"""Celery notifies any worker of due executions and queued jobs. Only this module imports it."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
import structlog
from celery import Celery
from celery.exceptions import CPendingDeprecationWarning
from celery.platforms import SecurityWarning
from celery.signals import worker_shutting_down
from kombu.exceptions import ChannelError, KombuError
from kombu.transport import redis as kombu_redis
from typing_extensions import override

from upshot.adapters.hold_off import HoldOff
from upshot.ids import ExecutionId
from upshot.ports.messaging import JobNotifier, Notifier

log = structlog.get_logger("upshot.worker")

EXECUTE_TASK = "upshot.execute"  # carries the ids of executions that are due
JOBS_TASK = "upshot.jobs"  # says that jobs are queued
_SOCKET_SECONDS = 3.0  # without it, a Redis that hangs blocks a publisher for as long as it hangs
_VISIBILITY_SECONDS = 120  # after this time, the messages of a dead worker are delivered again; the sweeper acts sooner


_SEND_ERRORS = (KombuError, ChannelError, redis.RedisError, OSError)
_RESTART_SECONDS = 1.0  # before Celery's part of the worker is started again after an error


def execute_queue(installation_id: str) -> str:
    """Return the name of the Celery queue of `EXECUTE_TASK`, which every worker that answers events reads."""
    return f"upshot.{installation_id}"


def job_queue(installation_id: str, queue: str) -> str:
    """Return the name of the Celery queue for the jobs of this queue."""
    return f"upshot.{installation_id}.jobs.{queue}"


def make_app(redis_url: str, installation_id: str) -> Celery:
    """
    Create the Celery app, with settings that survive the known faults of its Redis transport.

    Args:
        redis_url: The broker.
        installation_id: Part of every queue name and key. Several installations can share a Redis.
    """
    _guard_transport()
    app = Celery("upshot", broker=_broker_url(redis_url), set_as_current=False)
    app.conf.update(
        task_default_queue=execute_queue(installation_id),
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
        broker_channel_error_retry=True,  # an error answer, such as READONLY, MISCONF or NOPERM, is an outage, too
        broker_transport_options={
            "global_keyprefix": f"upshot:{installation_id}:",  # for Celery's own keys and channels, too
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


def _broker_url(redis_url: str) -> str:
    """Return the URL of a Redis as Celery spells it. It has another scheme for a Unix socket."""
    if not redis_url.startswith("unix://"):
        return redis_url
    parts = urlsplit(redis_url)
    query = urlencode([("virtual_host" if name == "db" else name, value) for name, value in parse_qsl(parts.query)])
    # A semicolon would separate several brokers.
    return urlunsplit(("redis+socket", parts.netloc, parts.path.replace(";", "%3B"), query, ""))


def _guard_transport() -> None:
    """
    Keep a busy worker alive when the broker restarts.

    kombu 5.7 reads `connection.client.hostname` of a connection that Celery 5.7 has just collected,
    and the AttributeError ends the worker process. Measured: 9 of 9 busy workers with the prefork and
    threads pools; the solo pool, which we run, has not shown it. Both handle a ConnectionError by
    reconnecting, so we raise that.
    """
    channel = kombu_redis.Channel
    original = channel._connparams  # noqa: SLF001 - the only place where the error can be caught
    if getattr(original, "guarded_by_upshot", False):
        return

    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the connection to the broker is closed")
        return original(self, *args, **kwargs)

    guarded.guarded_by_upshot = True  # type: ignore[attr-defined]  # marks it, so that it is installed once
    channel._connparams = guarded  # type: ignore[method-assign]  # noqa: SLF001 - see above


class CeleryNotifier(Notifier, JobNotifier):
    """
    Notifies the workers of an installation with Celery tasks.

    Args:
        app: From `make_app`.
        installation_id: The same as for `make_app`.
    """

    def __init__(self, app: Celery, installation_id: str) -> None:
        self._app = app
        self._hold_off = HoldOff(_SEND_ERRORS, try_seconds=2 * _SOCKET_SECONDS)
        self._installation_id = installation_id

    @override
    def notify_executions(self, execution_ids: Sequence[ExecutionId]) -> bool:
        return not execution_ids or self._send(
            EXECUTE_TASK, [list(execution_ids)], execute_queue(self._installation_id)
        )

    @override
    def notify_jobs(self, queue: str) -> bool:
        return self._send(JOBS_TASK, [], job_queue(self._installation_id, queue))

    def _send(self, task: str, args: list[Any], queue: str) -> bool:
        return self._hold_off.attempt(
            lambda: self._app.send_task(task, args=args, queue=queue, retry=False, argsrepr=""),
            lambda error: log.warning("notifier.failed", task=task, queue=queue, error=str(error)),
        )


def run_worker(
    app: Celery,
    *,
    name: str,
    queues: Sequence[str],
    execute: Callable[[list[ExecutionId]], None],
    wake_jobs: Callable[[], None],
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
    on_shutdown_signal: Callable[[], None],
) -> int:
    """
    Run a Celery worker process with our executor beside its tasks, and return the exit code.

    It uses one process and the solo pool. A task only hands ids to the executor's event loop, which runs in a
    thread of this process. A pool that forks would not copy that thread.

    Args:
        app: From `make_app`.
        name: Name of the Celery node, unique among workers.
        queues: Celery queues that it takes tasks from.
        execute: Called with the ids of a task. Must return at once.
        wake_jobs: Called when jobs are queued. Must return at once.
        on_start: Starts the executor, before the first task.
        on_stop: Stops the executor, and returns when it has stopped.
        on_shutdown_signal: Called from the signal handler as soon as a stop is requested. Must return at once.
    """

    @app.task(name=EXECUTE_TASK)
    def execute_task(execution_ids: list[ExecutionId]) -> None:
        execute(execution_ids)

    @app.task(name=JOBS_TASK)
    def jobs_task() -> None:
        wake_jobs()

    stop_requested = threading.Event()

    def on_signal(**_: Any) -> None:
        stop_requested.set()
        on_shutdown_signal()

    # Only JSON is accepted, so running as root, as in many containers, adds no risk.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)  # it names a setting that is set above
    worker_shutting_down.connect(on_signal, weak=False)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: on_signal())  # until Celery installs its own handlers
    code = 0
    on_start()
    try:
        while not stop_requested.is_set():
            code = _run_celery(app, name=name, queues=queues)
            if not stop_requested.is_set():
                # Whatever the broker answered, the executor works on. Meanwhile its sweeper finds what is due.
                log.error("celery.restarted", exit_code=code)
                stop_requested.wait(_RESTART_SECONDS)
    finally:
        on_stop()
    return code


def _run_celery(app: Celery, *, name: str, queues: Sequence[str]) -> int:
    """Take tasks until a signal stops the process, or an error ends Celery's worker. Return the exit code."""
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
