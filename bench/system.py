"""The measured system: the same processes as in the live tests, with Upshot's default settings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from bench.watched import COLLECTION, PIECES
from tests.servers import Redis
from tests.system import System
from upshot.settings import Settings


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of the receiver."""

    fast: tuple[int, ...]
    slow: tuple[int, ...]
    steady: tuple[int, ...]  #: one port that answers after 0.2 s
    large: tuple[int, ...]  #: one port that answers with a megabyte of JSON
    hanging: tuple[int, ...]  #: ports that never answer


# Each automation has one step, and each event matches exactly one automation. The audit compares deliveries by `tag`.
_AUTOMATIONS = """\
name: bench-alias
on:
  alias-added:
    alias: tag-*
steps:
  - uses: webhook
    with:
      url: http://127.0.0.1:{port}/alias
      json:
        tag: "{{{{ alias }}}}"
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
        tag: "{{{{ event.data.tag }}}}"
        event: "{{{{ event.id }}}}"
---
name: bench-single
on:
  custom:
    name: bench-single
steps:
  - uses: webhook
    with:
      url: "http://127.0.0.1:{{{{ event.data.port }}}}/custom"
      json:
        tag: "{{{{ event.data.tag }}}}"
"""

_HANGING = """\
name: hanging-{port}
on:
  custom:
    name: hanging-{port}
steps:
  - uses: webhook
    with:
      url: http://127.0.0.1:{port}/
"""

# The tests use shorter times; the bench uses the defaults.
_DEFAULTS = {
    f"UPSHOT_{name.upper()}": str(Settings.model_fields[name].default)
    for name in ("lease_seconds", "sweep_seconds", "relay_seconds")
}


class BenchSystem(System):
    """
    One installation with its own directory.

    Args:
        directory: A directory that does not exist yet, on the disk to be measured.
        redis: A running server without data.
        database_url: The URL of a database, or None for SQLite in the directory.
        ports: The ports of the receiver, for the automations.
        watch: Record how long the pieces of work on the event loops take (see `bench.watched`).
    """

    def __init__(
        self, directory: Path, redis: Redis, database_url: str | None, ports: Ports, *, watch: bool = False
    ) -> None:
        automations = {"bench.yaml": _AUTOMATIONS.format(port=ports.fast[0])}
        automations |= {f"hanging-{port}.yaml": _HANGING.format(port=port) for port in ports.hanging}
        self._watch = watch
        super().__init__(directory, redis, database_url=database_url, automations=automations, settings=_DEFAULTS)

    def start_workers(self, count: int) -> None:
        """Start workers at the same time, without waiting for them."""
        for number in range(1, count + 1):
            self._start(f"worker-{number}", "worker")

    def stop_workers(self) -> None:
        """Stop all workers, and wait for them."""
        for name in [name for name in self._processes if name.startswith("worker")]:
            self.stop(name)

    @override
    def _start(self, name: str, command: str, **settings: str) -> None:
        if self._watch:
            self.module, settings = "bench.watched", settings | {PIECES: str(self._pieces(name))}
        super()._start(name, command, **settings)

    def longest_piece(self, name: str, *, since: float, collection: bool = False) -> tuple[float, str]:
        """
        Return the longest piece of work on the event loop of a watched process.

        Args:
            name: The process.
            since: When it may have ended at the earliest (CLOCK_MONOTONIC).
            collection: Return the longest garbage collection instead.

        Returns:
            Milliseconds of processor time, and the coroutines that it continued.
        """
        path = self._pieces(name)
        lines = path.read_text().splitlines() if path.exists() else []
        pieces = [line.split(" ", 2) for line in lines]
        found = [(float(took), what) for at, took, what in pieces if float(at) > since]
        return max((piece for piece in found if (piece[1] == COLLECTION) is collection), default=(0.0, ""))

    def _pieces(self, name: str) -> Path:
        return self.folder / f"{name}.pieces"

    def check_alive(self) -> None:
        """Raise AssertionError with the end of its log if a process has exited."""
        for name in self._processes:
            self._assert_alive(name)

    def process_ids(self) -> Mapping[str, int]:
        """Return the process ids by name: redis, web, worker-1 and so on."""
        return {"redis": self.redis.pid, **{name: process.pid for name, process in self._processes.items()}}


@contextmanager
def running_receiver() -> Iterator[Ports]:
    """Run the receiver's process for the duration of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.receiver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        ports = json.loads(process.stdout.readline())
        yield Ports(**{name: tuple(numbers) for name, numbers in ports.items()})
    finally:
        process.terminate()
        process.wait()
