"""
`upshot up`: the supervisor of the embedded system.

    prepare   lock the data, wait for what a killed run left behind, bind the port
    start     Redis (unless it is the user's), then web and worker, which bring the database up to date
    ready     everything answers: endpoint.json is written, and the user told what runs
    watch     a part that dies is started again, at the same address, with the same password
    stop      worker (finishes what is in flight), web, Redis; endpoint.json goes last
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from upshot import __version__
from upshot.client.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint
from upshot.clock import SystemClock, stopwatch
from upshot.embedded.child_process import ChildProcess
from upshot.embedded.data_dir import ChildrenLock, DataDir, SupervisorLock
from upshot.embedded.docker_bridge import listen_on_bridge
from upshot.embedded.terminal import Terminal
from upshot.embedded.valkey import Valkey, stop_orphan
from upshot.errors import ConfigError, Unavailable
from upshot.ids import new_id
from upshot.net import is_loopback, listen, url_of
from upshot.settings import Settings

_PYTHON = (sys.executable, "-P", "-m")  # -P: the folder that we are started in is not searched for modules
_POLL_SECONDS = 0.05
_REMIND_SECONDS = 10.0  # how often a slow start says what it waits for
_STARTS_BEFORE_GIVING_UP = 3  # of a part that was never ready: it would not be at the fourth
_SPARE_SECONDS = 10.0  # beyond `stop_seconds`: a worker that hangs ends itself a little earlier
_REDIS_STOP_SECONDS = 10.0
_SHOWN_AUTOMATIONS = 100  # at the start


def up(settings: Settings) -> None:
    """
    Run everything until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: The data folder or the port is taken; the text says what to do.
        Unavailable: A part does not stay up.
    """
    terminal = Terminal()
    try:
        asyncio.run(_Supervisor(settings, terminal).run())
    finally:
        terminal.close()


class _Supervisor:
    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self._settings = settings
        self._say = terminal.say
        self._folder = DataDir(settings.data)
        self._lock = SupervisorLock(self._folder)
        self._parts_lock = ChildrenLock(self._folder)
        self._socket = listen(settings.host, settings.port)
        self._url = url_of(self._socket)
        self._bridge, self._jobs_url = self._reach_containers()
        self._lock.sign(self._url)
        self._token = settings.token.get_secret_value() if settings.token else self._folder.token()
        self._valkey = None if settings.redis_url else Valkey(self._folder)
        self._redis_url = settings.redis_url or (self._valkey.url if self._valkey else "")
        self._parts: dict[str, ChildProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._pids: dict[str, int] = {}
        self._is_ready = False
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        self._listen_to_signals()
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        error = work.exception() if work.done() else None
        work.cancel()
        if error is None:
            self._say("stopping: what is in flight is finished first (Ctrl-C again to hurry)")
        await self._stop_parts()
        if error is not None:
            raise error
        self._say("stopped")

    def _reach_containers(self) -> tuple[socket.socket | None, str | None]:
        """A second socket for containers of this machine, and the URL that they are given; None where not needed."""
        settings = self._settings
        if settings.jobs_url or settings.public_url or not is_loopback(settings.host):
            return None, settings.jobs_url
        port = self._socket.getsockname()[1]
        bridge, host = listen_on_bridge(port)
        return bridge, f"http://{host}:{port}" if host else None

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # started with nohup
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        (self._hurry if self._stop.is_set() else self._stop).set()

    # --- start ------------------------------------------------------------------------------------

    async def _work(self) -> None:
        began = stopwatch()
        await self._wait_for_orphans(self._take_stale_endpoint())
        await self._start_redis()
        sockets = [one.fileno() for one in (self._socket, self._bridge) if one is not None]
        self._start("web", _upshot("serve", *(f"--fd={number}" for number in sockets)), inherit=sockets)
        self._start("worker", _upshot("worker"), environment=self._worker_environment)
        await self._until(self._answers, self._parts["web"], "the web process with a worker beside it")
        self._is_ready = True
        self._publish()
        await self._announce(stopwatch() - began)
        # Not gather: this task is cancelled at stop, and gather would cancel the parts' keepers with it.
        ended, _ = await asyncio.wait(self._keepers, return_when=asyncio.FIRST_COMPLETED)
        for keeper in ended:
            keeper.result()

    def _take_stale_endpoint(self) -> Endpoint | None:
        """Remove what a killed supervisor left behind, for it leads nowhere, and give it."""
        try:
            return read_endpoint(self._folder.path)
        except ConfigError:  # damaged: it is removed all the same
            return None
        finally:
            remove_endpoint(self._folder.path)

    async def _wait_for_orphans(self, left: Endpoint | None) -> None:
        if self._parts_lock.take():
            return
        self._say("an earlier `upshot up` on this data was killed; waiting for what it left to finish")
        await stop_orphan(self._folder)
        deadline = stopwatch() + self._settings.stop_seconds + _SPARE_SECONDS
        while not self._parts_lock.take():
            if stopwatch() > deadline:
                pids = ", ".join(f"{name} {pid}" for name, pid in left.processes.items()) if left else "unknown"
                raise ConfigError(
                    f"{self._folder.path}: processes of an earlier run still work on this data "
                    f"({pids}); end them, then start again"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _start_redis(self) -> None:
        if self._valkey is None:
            return
        self._valkey.configure()
        command = [*_PYTHON, "upshot.embedded.exec_valkey", str(self._valkey.configuration)]
        self._start("redis", [*command, str(os.getpid())], aloud=False)
        await self._until(self._valkey.answers, self._parts["redis"], "Redis")

    def _start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Callable[[], Mapping[str, str]] | None = None,
        inherit: Sequence[int] = (),
        aloud: bool = True,
    ) -> None:
        self._parts[name] = part = ChildProcess(
            name,
            command,
            environment=environment or self._environment,
            log=self._folder.logs / f"{name}.log",
            say=self._say,
            on_start=partial(self._note, name),
            inherit=[self._parts_lock.descriptor, *inherit],
            aloud=aloud,
        )
        self._keepers.append(part.start())

    def _environment(self) -> dict[str, str]:
        return {
            "UPSHOT_DATA": str(self._folder.path),
            "UPSHOT_AUTOMATIONS": str(self._settings.automations),
            "UPSHOT_HOST": self._settings.host,
            "UPSHOT_PORT": str(self._socket.getsockname()[1]),
            "UPSHOT_REDIS_URL": self._redis_url,
            "UPSHOT_TOKEN": self._token,
            **({"UPSHOT_JOBS_URL": self._jobs_url} if self._jobs_url else {}),
        }

    def _worker_environment(self) -> dict[str, str]:
        """Name the new worker, and the one whose leases it may take at once: that one is dead, or we'd not be here."""
        fresh, predecessor = new_id("wrk", SystemClock().now()), self._folder.last_worker()
        self._folder.note_worker(fresh)
        succession = {"UPSHOT_WORKER_PREDECESSOR": predecessor} if predecessor else {}
        return {**self._environment(), "UPSHOT_WORKER_ID": fresh, **succession}

    # --- ready ------------------------------------------------------------------------------------

    async def _until(self, is_true: Callable[[], Awaitable[bool]], part: ChildProcess, what: str) -> None:
        """
        Wait for it.

        Raises:
            Unavailable: A part does not stay up.
        """
        remind_at = stopwatch() + _REMIND_SECONDS
        while not await is_true():
            for one in self._parts.values():
                if one.starts >= _STARTS_BEFORE_GIVING_UP:
                    raise Unavailable(f"{one.name} does not stay up: {one.last_line} (more in {one.log_path})")
            if stopwatch() > remind_at:
                remind_at += _REMIND_SECONDS
                self._say(f"still waiting for {what} (its log: {part.log_path})")
            await asyncio.sleep(_POLL_SECONDS)

    async def _answers(self) -> bool:
        """Whether the web process answers, and sees Redis and the worker that we started."""
        health, workers = await self._get("/readyz"), await self._get("/api/v1/workers")
        if health is None or workers is None or not health["redis"]:
            return False
        return any(worker["id"] == self._folder.last_worker() for worker in workers["items"])

    async def _get(self, path: str) -> Any:
        return await asyncio.to_thread(_get, self._url, path, self._token)

    def _note(self, name: str, pid: int) -> None:
        self._pids[name] = pid
        if self._is_ready:
            self._publish()

    def _publish(self) -> None:
        write_endpoint(
            self._folder.path,
            Endpoint(
                url=self._url,
                token=self._token,
                redis_url=self._redis_url,
                database_url=self._settings.database_url or f"sqlite:///{self._folder.path / 'upshot.db'}",
                processes=dict(self._pids),
            ),
        )

    async def _announce(self, took_seconds: float) -> None:
        listing = await self._get(f"/api/v1/automations?limit={_SHOWN_AUTOMATIONS}")
        self._say(f"Upshot {__version__} listens on {self._url} (started in {took_seconds:.1f} s)")
        self._say(f"  data         {self._folder.path} (the token is in its file `token`)")
        self._say(f"  database     {'yours' if self._settings.database_url else 'SQLite, in the data folder'}")
        if self._jobs_url:
            self._say(f"  jobs         reach it at {self._jobs_url}")
        self._say(f"  redis        {'ours, in the data folder' if self._valkey else 'yours'}")
        for line in _describe(listing, self._settings.automations) if listing else ():
            self._say(line)
        self._say("Ctrl-C stops it")

    # --- stop -------------------------------------------------------------------------------------

    async def _stop_parts(self) -> None:
        to_finish = self._settings.stop_seconds + _SPARE_SECONDS
        graces = {
            "worker": to_finish,
            "web": to_finish,
            "redis": _REDIS_STOP_SECONDS,
        }
        self._is_ready = False
        for name, grace in graces.items():
            if name in self._parts:
                ended_well = await self._parts[name].stop(grace, self._hurry)
                if name == "worker" and ended_well:
                    self._folder.note_worker(None)
        remove_endpoint(self._folder.path)


def _upshot(*words: str) -> list[str]:
    return [*_PYTHON, "upshot", *words, "--until-stdin-ends"]


def _get(url: str, path: str, token: str) -> Any:
    """Data of one GET; None when there is none. Not by httpx, which would double our memory."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _describe(listing: Any, folder: Path) -> list[str]:
    """What was loaded and what is broken, as lines for people."""
    loaded, broken = listing["items"], listing["broken"]
    more = " (and more)" if listing["next"] else ""
    lines = [f"  automations  {len(loaded)}{more} loaded from {folder}"]
    lines += [f"    {one['name']}  {folder / one['path']}:{one['line']}{_off(one)}" for one in loaded]
    for one in broken:
        place = one["path"] if one["line"] is None else f"{one['path']}:{one['line']}"
        lines.append(f"    broken: {place}: {one['reason']}")
    return lines


def _off(automation: Any) -> str:
    return "" if automation["enabled"] else "  (not enabled)"
