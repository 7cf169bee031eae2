"""The system that is measured: what the live tests run, with the settings that Upshot comes with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Redis
from tests.system import System
from upshot.settings import Settings


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the receiver listens."""

    fast: tuple[int, ...]
    slow: tuple[int, ...]


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

# What the tests set otherwise, so that they need not wait.
_AS_IT_COMES = {
    f"UPSHOT_{name.upper()}": str(Settings.model_fields[name].default)
    for name in ("lease_seconds", "sweep_seconds", "relay_seconds")
}


class Measured(System):
    """
    One installation in a folder of its own.

    Args:
        folder: Not there yet; on the disk that is to be measured.
        redis: A running server, empty.
        database_url: None for SQLite in the folder.
        ports: Of the receiver, for the automations.
    """

    def __init__(self, folder: Path, redis: Redis, database_url: str | None, ports: Ports) -> None:
        automations = {"bench.yaml": _AUTOMATIONS.format(port=ports.fast[0])}
        super().__init__(folder, redis, database_url=database_url, automations=automations, settings=_AS_IT_COMES)

    def begin_workers(self, count: int) -> None:
        """Start workers at the same time, without waiting for them."""
        for number in range(1, count + 1):
            self._start(f"worker-{number}", "worker")

    def stop_workers(self) -> None:
        """Ask all workers to stop, and wait for them."""
        for name in [name for name in self._processes if name.startswith("worker")]:
            self.stop(name)

    def check_alive(self) -> None:
        """Fail, with the end of its log, when a process has ended by itself."""
        for name in self._processes:
            self._alive(name)

    def process_ids(self) -> Mapping[str, int]:
        """The process of each part: redis, web, worker-1 and so on."""
        return {"redis": self.redis.pid, **{name: process.pid for name, process in self._processes.items()}}


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
