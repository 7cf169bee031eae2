"""The web process: one uvicorn server that runs until a signal stops it."""

from __future__ import annotations

import resource
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

from upshot.errors import Unavailable
from upshot.net import listen, url_of
from upshot.settings import Settings
from upshot.web.app import create_app
from upshot.web.auth import check_exposure
from upshot.web.dependencies import WebDependencies
from upshot.web.http_protocol import MAX_CONNECTIONS, limited_protocol
from upshot.web.idempotency import RETENTION_HOURS
from upshot.web.known_tokens import FLUSH_SECONDS, REFRESH_SECONDS, KnownTokens
from upshot.web.silent_runs import SILENT_RUNS_SECONDS, SilentRuns

log = structlog.get_logger("upshot.web")

_REFRESH_SECONDS = 1.0  #: how soon a changed automation file is read
_CLOCK_SECONDS = 5.0
_PRUNE_SECONDS = 3600.0
TOKEN_DAYS = 90  #: how long tokens are kept after they were revoked or have expired
_KEEP_ALIVE_SECONDS = 75  # longer than clients and proxies keep connections, so that they close first
_OTHER_OPEN_FILES = 1000  # other open files: the database, Redis, and connections that are being refused
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(deps: WebDependencies, *, fds: Sequence[int] = (), on_ready: Callable[[str], None] | None = None) -> None:
    """
    Serve until SIGTERM or SIGINT, then finish the requests in flight, for at most `stop_seconds`.

    Args:
        deps: Handle the requests.
        fds: File descriptors of listening sockets; if there is none, the server listens as the settings say.
        on_ready: Called with the URL once the server answers.

    Raises:
        ConfigError: The address is not available, or must not be served without a token.
    """
    check_exposure(deps.settings)
    sockets = [socket.socket(fileno=fd) for fd in fds] or [listen(deps.settings.host, deps.settings.port)]

    def report_ready() -> None:
        log.info("web.ready", url=url_of(sockets[0]))
        if on_ready:
            on_ready(url_of(sockets[0]))

    app = create_app(deps)
    config = server_config(app, deps.settings)
    _allow_open_files(MAX_CONNECTIONS + _OTHER_OPEN_FILES)

    known_tokens: KnownTokens = app.state.known_tokens

    def prune() -> None:
        now = deps.clock.now()
        deps.idempotency.prune(expired_before=now - timedelta(hours=RETENTION_HOURS))
        deps.sessions.prune(now)
        deps.tokens.prune(now - timedelta(days=TOKEN_DAYS))

    silent_runs = SilentRuns(deps.registry, deps.clock, deps.ping_database)
    stopped = threading.Event()
    threads = [
        PeriodicThread("refresh", deps.automations.refresh, _REFRESH_SECONDS, stopped),
        PeriodicThread("clock", deps.synchronize_clock, _CLOCK_SECONDS, stopped),
        PeriodicThread("prune", prune, _PRUNE_SECONDS, stopped),
        PeriodicThread("silent-runs", silent_runs.end, SILENT_RUNS_SECONDS, stopped),
        PeriodicThread("tokens", known_tokens.refresh, REFRESH_SECONDS, stopped),
        PeriodicThread("token-uses", known_tokens.flush_uses, FLUSH_SECONDS, stopped),
    ]
    for thread in threads:
        thread.start()
    try:
        with SignalGuard():
            _Server(config, report_ready).run(sockets=sockets)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        with suppress(Unavailable):
            known_tokens.flush_uses()


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves the application."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=limited_protocol(settings.trusted_proxy_networks),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=[("X-Content-Type-Options", "nosniff")],
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.stop_seconds),
    )


def _allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, often 1,024, as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """A server that reports when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


class SignalGuard:
    """
    Lets `serve` return after a signal.

    After its graceful stop, uvicorn raises the signal again for the handler that was installed before. The default
    handler would end the process before `serve` returns.
    """

    def __enter__(self) -> None:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, _ignore) for number in _STOP_SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; uvicorn has handled the signal already."""


class PeriodicThread(threading.Thread):
    """
    Calls a function again and again. An error is logged, and the next call follows as usual.

    Args:
        name: Name of the thread, for the log.
        function: Called without arguments.
        interval_seconds: Time between the end of a call and the next call.
        stopped: Ends the thread when it is set.
    """

    def __init__(
        self, name: str, function: Callable[[], object], interval_seconds: float, stopped: threading.Event
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._function = function
        self._interval_seconds = interval_seconds
        self._stopped = stopped

    @override
    def run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            try:
                self._function()
            except Unavailable as error:
                log.warning("periodic.failed", thread=self.name, reason=str(error))
            except Exception:
                log.exception("periodic.failed", thread=self.name)
