"""The embedded Redis server, as a real process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import redis

from tests.waiting import eventually, until
from upshot.adapters.celery import make_app
from upshot.embedded.child_process import ChildProcess
from upshot.embedded.data_dir import DataDir
from upshot.embedded.valkey import Valkey, stop_orphan

pytestmark = pytest.mark.live

_COMMAND = [sys.executable, "-m", "upshot.embedded.exec_valkey"]


class Server:
    """An embedded Redis that a `ChildProcess` restarts, as in `upshot up`."""

    def __init__(self, data_dir: DataDir) -> None:
        self.valkey = Valkey(data_dir)
        self.valkey.configure()
        self.pids: list[int] = []
        self.reports: list[str] = []
        self.child = ChildProcess(
            "redis",
            [*_COMMAND, str(self.valkey.configuration), str(os.getpid())],
            log=data_dir.logs / "redis.log",
            report=self.reports.append,
            on_start=self.pids.append,
            show_output=False,
        )

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey.url, decode_responses=True)

    async def is_restarted(self) -> bool:
        return len(self.pids) > 1


@contextlib.asynccontextmanager
async def serving(data_dir: DataDir) -> AsyncIterator[Server]:
    server = Server(data_dir)
    server.child.start()
    try:
        await eventually(server.valkey.ping)
        yield server
    finally:
        await server.child.stop(10, asyncio.Event())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a directory whose path leaves room for a Unix socket; pytest's own can be too long."""
    with TemporaryDirectory(prefix="up", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "a directory with spaces")


async def test_a_killed_server_comes_back_with_its_data_at_the_same_address(data_dir):
    """`kill -9` of Redis loses no data that it has accepted, and clients do not need a new URL."""
    async with serving(data_dir) as server:
        server.client().set("kept", "yes")

        os.kill(server.pids[0], signal.SIGKILL)
        await eventually(server.is_restarted)
        await eventually(server.valkey.ping)

        assert server.client().get("kept") == "yes"
        assert any("SIGKILL" in line for line in server.reports)


async def test_data_outlives_a_clean_stop(data_dir):
    """The next start of `upshot up` finds the data of the previous one."""
    async with serving(data_dir) as first:
        first.client().xadd("stream", {"event": "1"})
    async with serving(data_dir) as second:
        assert second.client().xlen("stream") == 1


async def test_only_this_user_on_this_machine_has_access(data_dir):
    """The server listens on a private socket only, and has a password, which neither `ps` nor other users can show."""
    async with serving(data_dir) as server:
        process, password = psutil.Process(server.pids[0]), data_dir.redis_password()
        assert password not in " ".join(process.cmdline())
        assert stat.S_IMODE(server.valkey.configuration.stat().st_mode) == 0o600
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(server.valkey.url.replace(password, "guess")).ping()
        assert process.net_connections() == []
        assert stat.S_IMODE(server.valkey.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.valkey.socket.parent.stat().st_mode) == 0o700
        assert server.client().config_get("appendonly") == {"appendonly": "yes"}


def test_a_server_dies_with_its_supervisor(data_dir):
    """`kill -9` of the supervisor ends the server, so that two servers never write to the same files."""
    valkey = Valkey(data_dir)
    valkey.configure()
    program = (
        "import os, subprocess, sys, time\n"
        f"server = subprocess.Popen([*{_COMMAND!r}, {str(valkey.configuration)!r}, str(os.getpid())],"
        " stdout=subprocess.DEVNULL)\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    server = psutil.Process(int(supervisor.stdout.readline()))
    until(lambda: asyncio.run(valkey.ping()))

    supervisor.kill()
    supervisor.wait()

    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


ODD_NAMES = [
    "job[2]",
    "a*b?",
    "job_feature%2Fx",
    "a b",
    "ü#?&;=",
    "quote'\"`$x",
    "back\\slash",
    "new\nline",
    "-x",
    "x" * 200,
]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_of_the_directory_works(short_path, name):
    """The server reads its configuration, keeps its files in the directory, and clients find its socket."""
    async with serving(DataDir(short_path / name / "data")) as server:
        client = server.client()
        app = make_app(server.valkey.url, "ins_1")

        assert client.set("kept", "yes")
        assert client.config_get("dir")["dir"] == str(short_path / name / "data" / "redis")
        assert psutil.Process(server.pids[0]).net_connections() == []
        with app.connection() as broker:
            assert broker.ensure_connection(max_retries=1).connected
    server.valkey.remove_socket()
    assert server.valkey.socket.parent.exists() == (name != "x" * 200)


async def test_the_socket_is_never_in_a_directory_of_another_user(short_path, monkeypatch):
    """If the path is too long, the socket is in a private directory. A directory that others can use is left alone."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    data_dir = DataDir(short_path / ("x" * 120))
    private = Valkey(data_dir).socket.parent
    private.rmdir()
    (short_path / "elsewhere").mkdir()
    private.symlink_to(short_path / "elsewhere")

    assert private.parent == short_path
    assert Valkey(data_dir).socket.parent != private


def test_a_directory_that_is_too_long_for_a_socket_is_not_created(short_path, monkeypatch):
    """Nothing is left behind in a runtime directory that cannot be used."""
    runtime = short_path / ("r" * 100)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    valkey = Valkey(DataDir(short_path / ("x" * 120)))
    valkey.remove_socket()
    assert valkey.socket.parent.parent != runtime
    assert list(runtime.iterdir()) == []


async def test_the_password_is_sent_to_no_one_else(data_dir):
    """A stale configuration of an older release names a port, where another program may listen by now."""
    received = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        (data_dir.redis / "valkey.conf").write_text(f"port {port}\nrequirepass {data_dir.redis_password()}\n")
        await stop_orphan(data_dir)

    assert received == []


def test_an_orphaned_server_is_stopped(data_dir):
    """Where the system cannot end the server with its supervisor, the next `upshot up` does, with the password."""
    valkey = Valkey(data_dir)
    valkey.configure()
    orphan = subprocess.Popen([*_COMMAND, str(valkey.configuration), str(os.getpid())], stdout=subprocess.DEVNULL)
    until(lambda: asyncio.run(valkey.ping()))

    asyncio.run(stop_orphan(data_dir))

    assert orphan.wait(10) == 0
