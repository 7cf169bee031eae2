"""A whole Upshot for measuring: Valkey, a database, the web process and workers, each a real process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.servers import free_port
from upshot.embedded.folder import DataFolder
from upshot.embedded.valkey import Valkey

TOKEN = "bench-token"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the receiver listens."""

    fast: tuple[int, ...]
    slow: tuple[int, ...]


class System:
    """
    One installation in a folder of its own.

    Args:
        folder: Empty; on the disk that is to be measured.
        database_url: None for SQLite in the folder.
        ports: Of the receiver, for the automations.
    """

    def __init__(self, folder: Path, database_url: str | None, ports: Ports) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._valkey = Valkey(DataFolder(folder / "data"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"http://127.0.0.1:{free_port()}"
        automations = folder / "automations"
        automations.mkdir()
        (automations / "bench.yaml").write_text(_AUTOMATIONS.format(port=ports.fast[0]))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")},
            "UPSHOT_DATA": str(folder / "data"),
            "UPSHOT_AUTOMATIONS": str(automations),
            "UPSHOT_REDIS_URL": self._valkey.url,
            "UPSHOT_EGRESS_ALLOW": "127.0.0.0/8",
            "UPSHOT_TOKEN": TOKEN,
            "UPSHOT_PORT": self.url.rpartition(":")[2],
        }
        if database_url:
            self._environment["UPSHOT_DATABASE_URL"] = database_url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start Valkey and the web process, and wait until they answer."""
        self._valkey.configure()
        become = [sys.executable, "-m", "upshot.embedded.become_valkey"]
        self._start("redis", [*become, str(self._valkey.configuration), str(os.getpid())])
        _wait_for("Valkey", lambda: asyncio.run(self._valkey.answers()), self._processes["redis"])
        migrate = [sys.executable, "-m", "upshot", "migrate"]
        subprocess.run(migrate, env=self._environment, check=True, stdout=subprocess.DEVNULL)
        self._start("web", [sys.executable, "-m", "upshot", "serve"])
        _wait_for("the web process", lambda: _answers(f"{self.url}/healthz"), self._processes["web"])

    def start_worker(self, name: str) -> None:
        """Start one worker process; does not wait for it."""
        self._start(name, [sys.executable, "-m", "upshot", "worker"])

    def stop(self, name: str) -> None:
        """Ask one process to stop, and wait for it."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name} did not stop within {_STOP_SECONDS:g} s: killed", file=sys.stderr)
            process.kill()
            process.wait()

    def stop_workers(self) -> None:
        """Stop all workers."""
        for name in [name for name in self._processes if name.startswith("worker")]:
            self.stop(name)

    def close(self) -> None:
        """Stop everything, Valkey last."""
        for name in reversed(list(self._processes)):
            self.stop(name)

    def process_ids(self) -> Mapping[str, int]:
        """The process of each part: web, redis, worker-1 and so on."""
        return {name: process.pid for name, process in self._processes.items()}

    def check_alive(self) -> None:
        """
        Fail when a process has ended by itself.

        Raises:
            RuntimeError: Names it, with the end of its log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended (exit {process.returncode}):\n{self.log(name)}")

    def log(self, name: str) -> str:
        """The last lines that a process printed."""
        return "\n".join((self._folder / f"{name}.log").read_text(errors="replace").splitlines()[-30:])

    def _start(self, name: str, command: list[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the bench, which then stops them in order
            )


# Each has one step and each event of the measurements fires exactly one of them. `mark` is how the
# audit knows again what it asked for.
_AUTOMATIONS = """\
name: bench-alias
on:
  alias-added:
    alias: mark-*
steps:
  - uses: webhook
    with:
      url: http://127.0.0.1:{port}/alias
      json:
        mark: "{{{{ alias }}}}"
        version: "{{{{ version.reference }}}}"
---
name: bench-custom
on:
  custom:
    name: bench
steps:
  - uses: webhook
    with:
      url: "http://127.0.0.1:{{{{ event.data.port }}}}/custom"
      json:
        mark: "{{{{ event.data.mark }}}}"
        event: "{{{{ event.id }}}}"
"""


def _wait_for(what: str, answers: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start; its log is beside the database")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    async def ask() -> bool:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status < 500

    with contextlib.suppress(aiohttp.ClientError):
        return asyncio.run(ask())
    return False


@contextmanager
def running_receiver() -> Iterator[Ports]:
    """The receiver's process, for as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.receiver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        ports = json.loads(process.stdout.readline())
        yield Ports(tuple(ports["fast"]), tuple(ports["slow"]))
    finally:
        process.terminate()
        process.wait()
