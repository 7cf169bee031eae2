"""The web process: one uvicorn server around a house, until it is told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import FrameType

import structlog
import uvicorn

from upshot.errors import Unavailable
from upshot.net import listen, url_of
from upshot.web.app import create_app
from upshot.web.auth import check_exposure
from upshot.web.dependencies import WebDependencies
from upshot.web.idempotency import KEPT_HOURS

log = structlog.get_logger("upshot.web")

_REFRESH_SECONDS = 1.0  #: how soon a changed automation file is seen
_PRUNE_SECONDS = 3600.0
_KEEP_ALIVE_SECONDS = 75  # longer than clients and proxies keep connections: they close first, and no request is lost
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(house: WebDependencies, *, fds: Sequence[int] = (), on_ready: Callable[[str], None] | None = None) -> None:
    """
    Serve until SIGTERM or SIGINT; requests in flight are then finished, for `stop_seconds` at most.

    Args:
        house: What requests are answered with.
        fds: Descriptors of sockets that listen already; left out, one is made as the settings say.
        on_ready: Called with the URL once requests are answered.

    Raises:
        ConfigError: The address cannot be had, or must not be served without a token.
    """
    check_exposure(house.settings)
    given = [socket.socket(fileno=fd) for fd in fds]
    bound = given or [listen(house.settings.host, house.settings.port)]

    def announce() -> None:
        log.info("web.ready", url=url_of(bound[0]))
        if on_ready:
            on_ready(url_of(bound[0]))

    config = uvicorn.Config(
        create_app(house),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(house.settings.stop_seconds),
    )
    stopped = threading.Event()
    chores = [
        PeriodicThread("refresh", house.automations.refresh, _REFRESH_SECONDS, stopped),
        PeriodicThread("prune", lambda: _prune(house), _PRUNE_SECONDS, stopped),
    ]
    for chore in chores:
        chore.start()
    try:
        with SignalGuard():
            _Server(config, announce).run(sockets=bound)
    finally:
        stopped.set()
        for chore in chores:
            chore.join()


def _prune(house: WebDependencies) -> None:
    house.idempotency.prune(kept_since=house.clock.now() - timedelta(hours=KEPT_HOURS))


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


class SignalGuard:
    """
    Lets `serve` return after a signal.

    uvicorn stops gracefully and then raises the signal again for whoever handled it before; by
    default that would end the process before the house is closed.
    """

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, _ignore) for number in _STOP_SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The signal has done its work."""


class PeriodicThread(threading.Thread):
    """Does something every so often; what fails is logged and tried again at the next turn."""

    def __init__(self, name: str, work: Callable[[], object], seconds: float, stopped: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._seconds = seconds
        self._stopped = stopped

    def run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._work()
            except Unavailable as error:
                log.warning("chore.failed", chore=self.name, reason=str(error))
            except Exception:
                log.exception("chore.failed", chore=self.name)
