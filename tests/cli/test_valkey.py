"""The embedded Redis server, for real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.waiting import eventually, until
from upshot.embedded.child_process import ChildProcess
from upshot.embedded.data_dir import DataDir
from upshot.embedded.valkey import Valkey, stop_orphan

pytestmark = pytest.mark.live

_COMMAND = [sys.executable, "-m", "upshot.embedded.exec_valkey"]


class Server:
    """An embedded Redis that a `Part` keeps alive, as `upshot up` does."""

    def __init__(self, folder: DataDir) -> None:
        self.valkey = Valkey(folder)
        self.valkey.configure()
        self.pids: list[int] = []
        self.said: list[str] = []
        self.part = ChildProcess(
            "redis",
            [*_COMMAND, str(self.valkey.configuration), str(os.getpid())],
            log=folder.logs / "redis.log",
            say=self.said.append,
            on_start=self.pids.append,
            aloud=False,
        )

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey.url, decode_responses=True)

    async def is_restarted(self) -> bool:
        return len(self.pids) > 1


@contextlib.asynccontextmanager
async def serving(folder: DataDir) -> AsyncIterator[Server]:
    server = Server(folder)
    server.part.start()
    try:
        await eventually(server.valkey.answers)
        yield server
    finally:
        await server.part.stop(10, asyncio.Event())


@pytest.fixture
def folder(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "a folder with spaces")


async def _scenario_kill(folder: DataDir) -> None:
    async with serving(folder) as server:
        server.client().set("kept", "yes")
        os.kill(server.pids[0], signal.SIGKILL)
        await eventually(server.is_restarted)
        await eventually(server.valkey.answers)
        assert server.client().get("kept") == "yes"
        assert any("SIGKILL" in line for line in server.said)


def test_a_killed_server_comes_back_with_its_data_at_the_same_address(folder):
    """`kill -9` of Redis loses nothing that it had accepted, and clients need no new URL."""
    asyncio.run(_scenario_kill(folder))


async def _scenario_restart(folder: DataDir) -> None:
    async with serving(folder) as first:
        first.client().xadd("stream", {"event": "1"})
    async with serving(folder) as second:
        assert second.client().xlen("stream") == 1


def test_data_outlives_a_clean_stop(folder):
    """What is in Redis when `upshot up` stops is there when it starts again."""
    asyncio.run(_scenario_restart(folder))


async def _scenario_private(folder: DataDir) -> None:
    async with serving(folder) as server:
        command = psutil.Process(server.pids[0]).cmdline()
        password = folder.redis_password()
        assert password not in " ".join(command)
        assert stat.S_IMODE(server.valkey.configuration.stat().st_mode) == 0o600
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(server.valkey.url.replace(password, "guess")).ping()
        listening = {c.laddr.ip for c in psutil.Process(server.pids[0]).net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        assert server.client().config_get("appendonly") == {"appendonly": "yes"}


def test_only_this_user_on_this_machine_gets_in(folder):
    """It listens on loopback, wants a password, and shows it neither in `ps` nor to other users."""
    asyncio.run(_scenario_private(folder))


def test_a_server_dies_with_its_supervisor(folder, tmp_path):
    """`kill -9` of the process that started it ends it, so that no two servers ever write to the same files."""
    valkey = Valkey(folder)
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
    until(lambda: asyncio.run(valkey.answers()))

    supervisor.kill()
    supervisor.wait()

    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_an_orphan_is_stopped_by_its_password(folder):
    """A server that was left behind, where the system cannot end it with its supervisor, is ended by the next `up`."""
    valkey = Valkey(folder)
    valkey.configure()
    orphan = subprocess.Popen([*_COMMAND, str(valkey.configuration), str(os.getpid())], stdout=subprocess.DEVNULL)
    until(lambda: asyncio.run(valkey.answers()))

    asyncio.run(stop_orphan(folder))

    assert orphan.wait(10) == 0
