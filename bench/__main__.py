"""Measure Upshot, audit the deliveries, print a table and write JSON. Lost or duplicate deliveries are a failure."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from bench.artifacts import measure_artifacts
from bench.growth import Growth, fill, measure_growth
from bench.hold import measure_hold, write_automations
from bench.load import Load
from bench.matching import measure_matching
from bench.measures import (
    Rate,
    measure_backlog,
    measure_beside_backlog,
    measure_beside_hanging,
    measure_burst,
    measure_latency,
    measure_memory,
    measure_mutations,
)
from bench.report import Report, machine
from bench.runs import RunFigures, measure_runs
from bench.sdk import measure_logging
from bench.system import BenchSystem, Ports, running_receiver
from tests.servers import Postgres, Redis, find_postgres

_RESULTS = Path("bench-results")
_IDLE_SECONDS = 5.0
_PARTS = (
    "latency",
    "mutations",
    "isolation",
    "burst",
    "backlog",
    "hold",
    "memory",
    "matching",
    "artifacts",
    "sdk",
    "runs",
)
_LONG_PARTS = ("growth",)  # measured only on request, because they take minutes
_DATABASES = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Size:
    """How long to measure, and how many events."""

    latency_seconds: float
    mutation_seconds: float
    isolation_seconds: float
    backlog_events: int
    growth_rows: int
    large_bytes: int
    small_files: int
    lineage_edges: int
    log_calls: int
    training_seconds: int
    metric_points: int


_FULL = Size(
    latency_seconds=30,
    mutation_seconds=20,
    isolation_seconds=60,
    backlog_events=20_000,
    growth_rows=1_000_000,
    large_bytes=2_000_000_000,
    small_files=10_000,
    lineage_edges=100_000,
    log_calls=100_000,
    training_seconds=3_600,
    metric_points=1_000_000,
)
_QUICK = Size(
    latency_seconds=5,
    mutation_seconds=5,
    isolation_seconds=5,
    backlog_events=4_000,
    growth_rows=50_000,
    large_bytes=300_000_000,
    small_files=1_000,
    lineage_edges=20_000,
    log_calls=20_000,
    training_seconds=600,
    metric_points=200_000,
)
_BESIDE_EVENTS = 10_000
_BURST_EVENTS = 3_000


def main() -> int:
    """Run the measurements that the command line asks for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure for a few seconds, for a first impression")
    parser.add_argument("--databases", nargs="+", choices=_DATABASES, default=_DATABASES, metavar="NAME")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=_PARTS + _LONG_PARTS,
        default=_PARTS,
        metavar="PART",
        help=", ".join(_PARTS) + "; " + ", ".join(_LONG_PARTS) + " (takes minutes, only if you ask for it)",
    )
    parser.add_argument("--large-mb", type=int, metavar="MB", help="size of the large file of the part artifacts")
    arguments = parser.parse_args()
    size = _QUICK if arguments.quick else _FULL
    if arguments.large_mb:
        size = replace(size, large_bytes=arguments.large_mb * 1_000_000)
    report = Report(machine=machine(), quick=arguments.quick)
    _RESULTS.mkdir(exist_ok=True)
    # Not in /tmp, which is in memory on many machines: durable commits are part of what is measured.
    scratch = Path(tempfile.mkdtemp(prefix="running-", dir=_RESULTS)).resolve()
    scratch.chmod(0o711)
    bench = _Bench(report, size, frozenset(arguments.only), scratch)
    try:
        if "matching" in bench.only:
            _log("matching")
            report.matching = measure_matching()
        if bench.only != {"matching"}:
            for name in arguments.databases:
                bench.measure(name)
    except BaseException:
        print(f"the output of the processes is in {scratch}", file=sys.stderr)
        raise
    report.print()
    path = report.write(_RESULTS)
    print(f"\nwritten to {path}")
    if report.is_clean:
        shutil.rmtree(scratch)
        return 0
    print(f"deliveries were lost or duplicated; the output of the processes is in {scratch}", file=sys.stderr)
    return 1


@dataclass(frozen=True, slots=True)
class _Bench:
    report: Report
    size: Size
    only: frozenset[str]  #: the parts to measure
    scratch: Path  #: a directory for all data, removed after a clean run

    def measure(self, database: str) -> None:
        """Run all measurements that need a running system, on one database."""
        directory = self.scratch / database
        directory.mkdir()
        with _database(database, self.scratch) as new_database:
            if new_database is None:
                self.report.notes.append("PostgreSQL is not installed: not measured (apt-get install postgresql)")
                return
            with running_receiver() as ports:
                if self.only & {"latency", "mutations", "memory"}:
                    with _system(directory / "live", new_database(), ports) as system:
                        system.start_workers(1)
                        uvloop.run(self._measure_live(database, system, ports))
                for part, measure in {"isolation": self._measure_isolation, "burst": self._measure_burst}.items():
                    if part in self.only:
                        with _system(directory / part, new_database(), ports) as system:
                            system.start_workers(1)
                            uvloop.run(measure(database, system, ports))
                if "backlog" in self.only:
                    for name, targets in {"backlog": ports.fast, "backlog-slow": ports.fast + ports.slow}.items():
                        _log(f"{database}: {name}, {self.size.backlog_events} events, two workers")
                        with _system(directory / name, new_database(), ports) as system:
                            rate = uvloop.run(self._measure_backlog(system, ports, targets))
                        self.report.add_rate(database, name, rate)

                if "hold" in self.only:
                    with _system(directory / "hold", new_database(), ports, watch=True) as system:
                        _log(f"{database}: hostile events, conditions, templates and responses")
                        uvloop.run(self._measure_hold(database, system, ports))
                self._measure_data(database, directory, new_database, ports)
                if "growth" in self.only:
                    with _system(directory / "growth", new_database(), ports) as system:
                        _log(f"{database}: insert {self.size.growth_rows:,} events and executions")
                        fill_seconds = fill(system, self.size.growth_rows)
                        _log(f"{database}: growth, filled in {fill_seconds:.0f} s")
                        self.report.growth[database] = uvloop.run(self._measure_growth(system, ports, fill_seconds))

    def _measure_data(
        self, database: str, directory: Path, new_database: Callable[[], str | None], ports: Ports
    ) -> None:
        """Measure artifacts, runs, and what logging costs a program."""
        if "artifacts" in self.only:
            with _system(directory / "artifacts", new_database(), ports) as system:
                _log(f"{database}: artifacts, one of {self.size.large_bytes / 1e6:,.0f} MB")
                self.report.artifacts[database] = measure_artifacts(
                    system,
                    large_bytes=self.size.large_bytes,
                    small_files=self.size.small_files,
                    edges=self.size.lineage_edges,
                )
        if "sdk" in self.only:
            with _system(directory / "sdk", new_database(), ports) as system:
                _log(f"{database}: {self.size.log_calls:,} calls of run.log")
                self.report.logging[database] = measure_logging(
                    system, calls=self.size.log_calls, seconds=self.size.training_seconds
                )
        if "runs" in self.only:
            with _system(directory / "runs", new_database(), ports) as system:
                system.start_workers(1)
                _log(f"{database}: runs, one of them with {self.size.metric_points:,} points")
                self.report.runs[database] = uvloop.run(self._measure_runs(system, ports))

    async def _measure_growth(self, system: BenchSystem, ports: Ports, fill_seconds: float) -> Growth:
        async with Load(system, ports) as load:
            return await measure_growth(
                system,
                load,
                rows=self.size.growth_rows,
                fill_seconds=fill_seconds,
                seconds=self.size.mutation_seconds,
            )

    async def _measure_runs(self, system: BenchSystem, ports: Ports) -> RunFigures:
        async with Load(system, ports) as load:
            await load.wait_until_ready()
            return await measure_runs(system, load, points=self.size.metric_points, seconds=self.size.mutation_seconds)

    async def _measure_live(self, database: str, system: BenchSystem, ports: Ports) -> None:
        async with Load(system, ports) as load:
            await load.wait_until_ready()
            if "memory" in self.only:
                _log(f"{database}: memory when idle")
                await asyncio.sleep(_IDLE_SECONDS)
                self.report.memory[database] = measure_memory(system)
            if "latency" in self.only:
                _log(f"{database}: 10 mutations per second for {self.size.latency_seconds:g} s")
                latency = await measure_latency(load, seconds=self.size.latency_seconds)
                self.report.add_latency(database, "latency", latency)
            if "mutations" in self.only:
                _log(f"{database}: 8 writers for {self.size.mutation_seconds:g} s")
                rate = await measure_mutations(load, system, seconds=self.size.mutation_seconds)
                self.report.add_rate(database, "mutations", rate)

    async def _measure_isolation(self, database: str, system: BenchSystem, ports: Ports) -> None:
        async with Load(system, ports) as load:
            await load.wait_until_ready()
            _log(f"{database}: one event beside a backlog of {_BESIDE_EVENTS}")
            latency = await measure_beside_backlog(load, events=_BESIDE_EVENTS)
            self.report.add_latency(database, "beside-backlog", latency)
            seconds = self.size.isolation_seconds
            _log(f"{database}: beside hanging destinations, {5 * seconds:g} s")
            self.report.add_latency(database, "alone", await measure_latency(load, seconds=seconds, name="alone"))
            for name, count, per_second in (("beside-hanging", 10, 40), ("beside-fifty-hanging", 50, 2)):
                hanging = ports.hanging[:count]
                latency = await measure_beside_hanging(load, hanging, per_second=per_second, seconds=seconds)
                self.report.add_latency(database, name, latency)

    async def _measure_hold(self, database: str, system: BenchSystem, ports: Ports) -> None:
        write_automations(system.automations, ports)
        system.start_worker("worker-1")
        async with Load(system, ports) as load:
            await load.wait_until_ready()
            await asyncio.sleep(_IDLE_SECONDS)
            self.report.holds[database] = await measure_hold(load, system)

    async def _measure_burst(self, database: str, system: BenchSystem, ports: Ports) -> None:
        async with Load(system, ports) as load:
            await load.wait_until_ready()
            _log(f"{database}: a burst of {_BURST_EVENTS} events to one destination")
            self.report.add_rate(database, "burst", await measure_burst(load, system, events=_BURST_EVENTS))

    async def _measure_backlog(self, system: BenchSystem, ports: Ports, targets: tuple[int, ...]) -> Rate:
        async with Load(system, ports) as load:
            return await measure_backlog(load, system, events=self.size.backlog_events, workers=2, ports=targets)


@contextmanager
def _system(directory: Path, database_url: str | None, ports: Ports, *, watch: bool = False) -> Iterator[BenchSystem]:
    """Start a fresh installation with its own Redis, and wait until its web process answers."""
    redis_directory = directory / "redis"
    redis_directory.mkdir(parents=True)
    system_directory = directory / "system"
    with (
        Redis(redis_directory) as redis,
        BenchSystem(system_directory, redis, database_url, ports, watch=watch) as system,
    ):
        system.start_web()
        yield system


@contextmanager
def _database(name: str, scratch: Path) -> Iterator[Callable[[], str | None] | None]:
    """
    Start a database server if necessary.

    Yields:
        A function that creates a database and returns its URL (None for SQLite's default), or None if PostgreSQL is
        not installed.
    """
    if name == "sqlite":
        yield lambda: None
        return
    programs = find_postgres()
    if programs is None:
        yield None
        return
    directory = scratch / "postgresql-server"
    directory.mkdir()
    with Postgres(programs, directory) as server:
        yield server.new_database


def _log(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
