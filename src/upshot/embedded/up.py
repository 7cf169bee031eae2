"""
`upshot up`: start and supervise the processes of the embedded system.

    prepare   lock the data directory, wait for processes of a killed run, bind the port
    start     Redis (unless the user has one), then web and worker, which migrate the database
    ready     everything answers: write endpoint.json, and tell the user what is running
    watch     restart a process that dies, at the same address and with the same password; kill a worker that hangs
    stop      worker (which finishes what is in flight), web, Redis; then remove endpoint.json
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
from upshot.automations.files import printable_path
from upshot.client.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint
from upshot.clock import SystemClock, stopwatch
from upshot.embedded.child_process import ChildProcess
from upshot.embedded.data_dir import ChildrenLock, DataDir, SupervisorLock
from upshot.embedded.docker_bridge import listen_on_bridge
from upshot.embedded.heartbeat import INTERVAL_SECONDS, MAX_MISSED, HeartbeatMonitor
from upshot.embedded.terminal import Terminal
from upshot.embedded.valkey import Valkey, stop_orphan
from upshot.errors import ConfigError, Unavailable
from upshot.ids import WorkerId, new_id
from upshot.net import is_loopback, listen, url_of
from upshot.settings import Settings

_PYTHON = (sys.executable, "-P", "-m")  # -P: do not search the current directory for modules
_POLL_SECONDS = 0.05
_REMINDER_SECONDS = 10.0  # how often a slow start reports what it waits for
_MAX_FAILED_STARTS = 3  # of a process before it is ready; a fourth start would not help
_SPARE_SECONDS = 10.0  # in addition to `stop_seconds`; a worker that hangs ends itself a little earlier
_REDIS_STOP_SECONDS = 10.0
_MAX_LISTED_AUTOMATIONS = 100  # at the start
_OFFER = "stop this, run `upshot init` to get a first one that succeeds, and start again"


def up(settings: Settings) -> None:
    """
    Run everything until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: The data directory or the port is in use. The message names the remedy.
        Unavailable: A process keeps ending.
    """
    terminal = Terminal()
    try:
        asyncio.run(_Supervisor(settings, terminal).run())
    finally:
        terminal.close()


class _Supervisor:
    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self._settings = settings
        self._print = terminal.print
        self._data_dir = DataDir(settings.data)
        self._lock = SupervisorLock(self._data_dir)
        self._children_lock = ChildrenLock(self._data_dir)
        self._socket = listen(settings.host, settings.port)
        self._url = url_of(self._socket)
        self._bridge_socket, self._jobs_url = self._listen_for_containers()
        self._lock.write_holder(self._url)
        self._token = settings.token.get_secret_value() if settings.token else self._data_dir.token()
        self._valkey = None if settings.redis_url else Valkey(self._data_dir)
        self._redis_url = settings.redis_url or (self._valkey.url if self._valkey else "")
        self._heartbeat = HeartbeatMonitor(self._data_dir.worker_heartbeat)
        self._children: dict[str, ChildProcess] = {}
        self._child_tasks: list[asyncio.Task[None]] = []
        self._pids: dict[str, int] = {}
        self._is_ready = False
        self._stop = asyncio.Event()
        self._force_stop = asyncio.Event()

    async def run(self) -> None:
        self._handle_signals()
        supervision = asyncio.create_task(self._supervise())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({supervision, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        error = supervision.exception() if supervision.done() else None
        supervision.cancel()
        if error is None:
            self._print("stopping after what is in flight is finished (press Ctrl-C again to stop at once)")
        await self._stop_children()
        if error is not None:
            raise error
        self._print("stopped")

    def _listen_for_containers(self) -> tuple[socket.socket | None, str | None]:
        """Return a second socket for containers of this machine, and the URL they use. Each is None if not needed."""
        settings = self._settings
        if settings.jobs_url or settings.public_url or not is_loopback(settings.host):
            return None, settings.jobs_url
        port = self._socket.getsockname()[1]
        bridge_socket, host = listen_on_bridge(port)
        return bridge_socket, f"http://{host}:{port}" if host else None

    def _handle_signals(self) -> None:
        def on_signal() -> None:
            (self._force_stop if self._stop.is_set() else self._stop).set()

        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum is signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
                continue  # started with nohup
            loop.add_signal_handler(signum, on_signal)

    # --- start ------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        started_at = stopwatch()
        await self._wait_for_orphans(self._remove_stale_endpoint())
        await self._start_redis()
        sockets = [sock.fileno() for sock in (self._socket, self._bridge_socket) if sock is not None]
        self._start("web", _upshot("serve", *(f"--fd={fd}" for fd in sockets)), inherit_fds=sockets)
        self._start(
            "worker",
            _upshot("worker", f"--heartbeat-file={self._data_dir.worker_heartbeat}"),
            environment=self._worker_environment,
        )
        await self._wait_for(self._is_serving, "web", "the web process and a worker")
        self._is_ready = True
        self._write_endpoint()
        await self._print_summary(stopwatch() - started_at)
        # Not `gather`: a stop cancels this task, and `gather` would cancel the tasks of the children with it.
        watching = asyncio.create_task(self._kill_hanging_worker())
        try:
            done, _ = await asyncio.wait([*self._child_tasks, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
        for task in done:
            task.result()

    async def _kill_hanging_worker(self) -> None:
        """Kill the worker when its event loop no longer runs. Its task then starts another one."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            if self._heartbeat.is_hanging():
                self._print(f"killing worker: it has not responded for {INTERVAL_SECONDS * MAX_MISSED:g} s")
                self._children["worker"].kill()

    def _remove_stale_endpoint(self) -> Endpoint | None:
        """Remove the endpoint file that a killed supervisor left behind, and return its content."""
        try:
            return read_endpoint(self._data_dir.path)
        except ConfigError:  # the file is damaged
            return None
        finally:
            remove_endpoint(self._data_dir.path)

    async def _wait_for_orphans(self, stale: Endpoint | None) -> None:
        if self._children_lock.acquire():
            return
        self._print("an earlier `upshot up` on this data directory was killed; waiting for its processes to end")
        await stop_orphan(self._data_dir)
        deadline = stopwatch() + self._settings.stop_seconds + _SPARE_SECONDS
        while not self._children_lock.acquire():
            if stopwatch() > deadline:
                pids = ", ".join(f"{name} {pid}" for name, pid in stale.processes.items()) if stale else "unknown"
                raise ConfigError(
                    f"{self._data_dir.path}: processes of an earlier run still use this data directory "
                    f"({pids}); end them, then start again"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _start_redis(self) -> None:
        if self._valkey is None:
            return
        self._valkey.configure()
        command = [*_PYTHON, "upshot.embedded.exec_valkey", str(self._valkey.configuration), str(os.getpid())]
        self._start("redis", command, show_output=False)
        await self._wait_for(self._valkey.ping, "redis", "Redis")

    def _start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Callable[[], Mapping[str, str]] | None = None,
        inherit_fds: Sequence[int] = (),
        show_output: bool = True,
    ) -> None:
        child = self._children[name] = ChildProcess(
            name,
            command,
            environment=environment or self._environment,
            log=self._data_dir.logs / f"{name}.log",
            report=self._print,
            on_start=partial(self._on_child_start, name),
            inherit_fds=[self._children_lock.fd, *inherit_fds],
            show_output=show_output,
        )
        self._child_tasks.append(child.start())

    def _environment(self) -> dict[str, str]:
        return {
            "UPSHOT_DATA": str(self._data_dir.path),
            "UPSHOT_AUTOMATIONS": str(self._settings.automations),
            "UPSHOT_HOST": self._settings.host,
            "UPSHOT_PORT": str(self._socket.getsockname()[1]),
            "UPSHOT_REDIS_URL": self._redis_url,
            "UPSHOT_TOKEN": self._token,
            **({"UPSHOT_JOBS_URL": self._jobs_url} if self._jobs_url else {}),
        }

    def _worker_environment(self) -> dict[str, str]:
        """Return the variables of a new worker: its id, and that of its predecessor, whose leases it takes at once."""
        predecessor = self._data_dir.last_worker_id()  # it has ended, otherwise no new worker would be started
        self._heartbeat.restart()
        worker_id = WorkerId(new_id("wrk", SystemClock().now()))
        try:
            self._data_dir.save_worker_id(worker_id)
        except OSError as error:  # the next worker waits until the leases of this one expire
            self._print(f"{self._data_dir.path}: {error.strerror}; the id of the worker is not stored")
        return {
            **self._environment(),
            "UPSHOT_URL": self._url,  # whatever server the user's commands are for
            "UPSHOT_WORKER_ID": worker_id,
            **({"UPSHOT_WORKER_PREDECESSOR": predecessor} if predecessor else {}),
        }

    # --- ready ------------------------------------------------------------------------------------

    async def _wait_for(self, condition: Callable[[], Awaitable[bool]], child_name: str, what: str) -> None:
        """
        Wait until a condition is true.

        Raises:
            Unavailable: A process keeps ending.
        """
        remind_at = stopwatch() + _REMINDER_SECONDS
        while not await condition():
            for child in self._children.values():
                if child.start_count >= _MAX_FAILED_STARTS:
                    raise Unavailable(f"{child.name} keeps ending: {child.last_line} (more in {child.log_path})")
            if stopwatch() > remind_at:
                remind_at += _REMINDER_SECONDS
                self._print(f"still waiting for {what} (see {self._children[child_name].log_path})")
            await asyncio.sleep(_POLL_SECONDS)

    async def _is_serving(self) -> bool:
        """Return whether the web process answers, and sees Redis and the worker that was started."""
        health, workers = await self._get("/readyz"), await self._get("/api/v1/workers")
        if health is None or workers is None or not health["redis"]:
            return False
        return any(worker["id"] == self._data_dir.last_worker_id() for worker in workers["items"])

    async def _get(self, path: str) -> Any:
        return await asyncio.to_thread(_request_json, self._url, "GET", path, self._token)

    def _on_child_start(self, name: str, pid: int) -> None:
        self._pids[name] = pid
        if self._is_ready:
            try:
                self._write_endpoint()
            except OSError as error:
                self._print(f"{self._data_dir.path}: {error.strerror}; endpoint.json has old process ids")

    def _write_endpoint(self) -> None:
        write_endpoint(
            self._data_dir.path,
            Endpoint(
                url=self._url,
                token=self._token,
                redis_url=self._redis_url,
                database_url=self._settings.database_url or f"sqlite:///{self._data_dir.path / 'upshot.db'}",
                processes=dict(self._pids),
            ),
        )

    async def _print_summary(self, took_seconds: float) -> None:
        automations = await self._get(f"/api/v1/automations?limit={_MAX_LISTED_AUTOMATIONS}")
        code = await asyncio.to_thread(_request_json, self._url, "POST", "/api/v1/sign-in-codes", self._token)
        self._print(f"Upshot {__version__} listens on {self._url} (started in {took_seconds:.1f} s)")
        if code:
            self._print(f"  pages        {code['url']}")
            self._print("               signs your browser in, once, within 60 seconds; `upshot open` prints another")
        self._print(f"  data         {self._data_dir.path} (the token is in the file `token`)")
        database = "UPSHOT_DATABASE_URL" if self._settings.database_url else "SQLite, in the data directory"
        self._print(f"  database     {database}")
        if self._jobs_url:
            self._print(f"  jobs         reach it at {self._jobs_url}")
        self._print(f"  redis        {'embedded, in the data directory' if self._valkey else 'UPSHOT_REDIS_URL'}")
        for line in _describe(automations, self._settings.automations) if automations else ():
            self._print(line)
        self._print("Press Ctrl-C to stop.")

    # --- stop -------------------------------------------------------------------------------------

    async def _stop_children(self) -> None:
        grace_seconds = self._settings.stop_seconds + _SPARE_SECONDS
        self._is_ready = False
        for name, seconds in {"worker": grace_seconds, "web": grace_seconds, "redis": _REDIS_STOP_SECONDS}.items():
            if name in self._children:
                has_ended_cleanly = await self._children[name].stop(seconds, self._force_stop)
                if name == "worker" and has_ended_cleanly:
                    self._data_dir.save_worker_id(None)
        if self._valkey is not None:
            self._valkey.remove_socket()
        remove_endpoint(self._data_dir.path)


def _upshot(*arguments: str) -> list[str]:
    return [*_PYTHON, "upshot", *arguments, "--until-stdin-ends"]


def _request_json(url: str, method: str, path: str, token: str) -> Any:
    """Send a request, and return its data or None. Importing httpx would double this process's memory."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        is_success = response.status in (http.HTTPStatus.OK, http.HTTPStatus.CREATED)
        return json.loads(response.read()) if is_success else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _describe(automations: Any, directory: Path) -> list[str]:
    """Describe the loaded automations and the broken files, in lines for people."""
    loaded, more = automations["items"], " (and more)" if automations["next"] else ""
    if not directory.is_dir():
        return [
            f"  automations  none: the directory {printable_path(directory)} does not exist",
            f"               {_OFFER}",
        ]
    if not loaded and not automations["broken"]:
        return [f"  automations  none in {printable_path(directory)}", f"               {_OFFER}"]
    lines = [f"  automations  {len(loaded)}{more} loaded from {printable_path(directory)}"]
    for automation in loaded:
        line = f":{automation['line']}" if automation["line"] else ""
        suffix = "  (last sound revision)" * automation["kept"] + "  (disabled)" * (not automation["enabled"])
        lines.append(f"    {automation['name']}  {printable_path(directory / automation['path'])}{line}{suffix}")
    for problem in automations["broken"]:
        location = problem["path"] if problem["line"] is None else f"{problem['path']}:{problem['line']}"
        lines.append(f"    broken: {location}: {problem['reason']}")
    return lines
