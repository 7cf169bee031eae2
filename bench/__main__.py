"""Measure, audit, print a table, write JSON. The exit code is about lost and doubled deliveries, never about speed."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.load import Load
from bench.matching import measure_matching
from bench.measures import Rate, measure_backlog, measure_latency, measure_memory, measure_mutations
from bench.report import Report, machine
from bench.system import Measured, Ports, running_receiver
from tests.servers import Postgres, Redis, find_postgres

_FOLDER = Path("bench-results")
_IDLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    latency_seconds: float
    mutation_seconds: float
    backlog_events: int


_WHOLE = Size(latency_seconds=30, mutation_seconds=20, backlog_events=20_000)
_QUICK = Size(latency_seconds=5, mutation_seconds=5, backlog_events=4_000)


def main() -> int:
    """Run what the command line asks for."""
    arguments = _arguments()
    report = Report(machine=machine(), quick=arguments.quick)
    _FOLDER.mkdir(exist_ok=True)
    # Beside the results, not in /tmp, which is memory on many machines: durable commits are part of what is measured.
    scratch = Path(tempfile.mkdtemp(prefix="running-", dir=_FOLDER)).resolve()
    scratch.chmod(0o711)
    bench = _Bench(report, _QUICK if arguments.quick else _WHOLE, frozenset(arguments.only))
    try:
        bench.measure_matching()
        for name in arguments.databases:
            bench.measure(name, scratch)
    except BaseException:
        print(f"what the processes printed is kept in {scratch}", file=sys.stderr)
        raise
    report.print()
    path = report.write(_FOLDER)
    print(f"\nwritten to {path}")
    if report.is_clean:
        shutil.rmtree(scratch)
        return 0
    print(f"deliveries were lost or doubled; what the processes printed is kept in {scratch}", file=sys.stderr)
    return 1


def _arguments() -> argparse.Namespace:
    parts = ("latency", "mutations", "backlog", "memory", "matching")
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run, for a first look")
    parser.add_argument(
        "--databases", nargs="+", choices=("sqlite", "postgresql"), default=("sqlite", "postgresql"), metavar="NAME"
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class _Bench:
    report: Report
    size: Size
    only: frozenset[str]  #: the parts that were asked for

    def measure_matching(self) -> None:
        if "matching" in self.only:
            _say("matching")
            self.report.matching = measure_matching()

    def measure(self, database: str, scratch: Path) -> None:
        """All that needs a running system, on one database."""
        if self.only == {"matching"}:
            return
        folder = scratch / database
        folder.mkdir()
        with _database(database, scratch) as new_database:
            if new_database is None:
                self.report.notes.append("PostgreSQL is not installed: not measured (apt-get install postgresql)")
                return
            with running_receiver() as ports:
                if self.only & {"latency", "mutations", "memory"}:
                    with _system(folder / "live", new_database(), ports) as system:
                        system.begin_workers(1)
                        uvloop.run(self._measure_live(database, system, ports))
                if "backlog" in self.only:
                    for title, targets in {"backlog": ports.fast, "backlog-slow": ports.fast + ports.slow}.items():
                        _say(f"{database}: {title}, {self.size.backlog_events} events, two workers")
                        with _system(folder / title, new_database(), ports) as system:
                            rate = uvloop.run(self._measure_backlog(system, ports, targets))
                        self.report.add_rate(database, title, rate)

    async def _measure_live(self, database: str, system: Measured, ports: Ports) -> None:
        async with Load(system, ports) as load:
            await load.wait_until_ready()
            if "memory" in self.only:
                _say(f"{database}: memory when idle")
                await asyncio.sleep(_IDLE_SECONDS)
                self.report.memory[database] = measure_memory(system)
            if "latency" in self.only:
                _say(f"{database}: 10 mutations a second for {self.size.latency_seconds:g} s")
                self.report.latency[database] = await measure_latency(load, seconds=self.size.latency_seconds)
            if "mutations" in self.only:
                _say(f"{database}: 8 writers for {self.size.mutation_seconds:g} s")
                rate = await measure_mutations(load, system, seconds=self.size.mutation_seconds)
                self.report.add_rate(database, "mutations", rate)

    async def _measure_backlog(self, system: Measured, ports: Ports, targets: tuple[int, ...]) -> Rate:
        async with Load(system, ports) as load:
            return await measure_backlog(load, system, events=self.size.backlog_events, workers=2, ports=targets)


@contextmanager
def _system(folder: Path, database_url: str | None, ports: Ports) -> Iterator[Measured]:
    """A fresh installation with its own Redis, its web process started and answering."""
    redis_folder = folder / "redis"
    redis_folder.mkdir(parents=True)
    with Redis(redis_folder) as redis, Measured(folder / "system", redis, database_url, ports) as system:
        system.start_web()
        yield system


@contextmanager
def _database(name: str, scratch: Path) -> Iterator[Callable[[], str | None] | None]:
    """Yields what makes a fresh database and gives its URL (None: SQLite's default); None when there is no server."""
    if name == "sqlite":
        yield lambda: None
        return
    programs = find_postgres()
    if programs is None:
        yield None
        return
    folder = scratch / "postgresql-server"
    folder.mkdir()
    with Postgres(programs, folder) as server:
        yield server.new_database


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
