"""Measure runs: their filtered list, a long metric with few points, and logging beside the deliveries."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import sqlalchemy as sa

from bench.growth import database_url
from bench.load import Load
from bench.measures import measure_latency, measure_mutations, percentile
from bench.system import BenchSystem
from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.registry import SqlRegistry
from upshot.adapters.sql.schema import projects, runs
from upshot.clock import SystemClock
from upshot.domain.event import Actor, Origin
from upshot.domain.metric_history import LogRow
from upshot.registry.run_log import LogRequest
from upshot.registry.runs import RunChange
from upshot.registry.service import Registry

RUNS = 5_000
LOGGING_RUNS = 20
METRICS = 50  # of each logging run, once per second
_PROJECT = "many-runs"
_LONG = "many-points"
_SAMPLES = 15
_ROWS = 10_000  # of one request
_VALUES = 30  # in the config and in the summary of a run
_FILTERS = '{"config.lr": {"$lt": 0.05}, "summary_metrics.acc": {"$gte": 0.5}}'
_ORDER = "-summary_metrics.acc"
_BENCH = Origin(Actor("bench"))


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The results. Durations are medians and worst values."""

    list_ms: tuple[float, float]  #: a page of 5,000 runs, filtered by config and summary, and sorted
    points: int  #: of the long metric
    series_ms: tuple[float, float]  #: the long metric as 2,000 points
    alone_p99_ms: float  #: of deliveries
    beside_p99_ms: float  #: the same, while runs log
    alone_per_second: float  #: mutations with a delivery each
    beside_per_second: float  #: the same, while runs log
    logged_points: int
    lost_points: int
    log_ms: tuple[float, float]  #: one request of a run that logs


async def measure_runs(system: BenchSystem, load: Load, *, points: int, seconds: float) -> RunFigures:
    """Measure a system whose web process and worker run."""
    registry = Registry(SqlRegistry(Database(database_url(system))), MemoryStream(), SystemClock())
    await asyncio.to_thread(_fill, system, registry, points)
    page = f"/projects/{_PROJECT}/runs?limit=50&filters={_FILTERS}&order={_ORDER}"
    list_ms = await _timed(load, page)
    series_ms = await _timed(load, f"/projects/{_PROJECT}/runs/{_LONG}/series?key=loss&points=2000")
    alone = await measure_latency(load, seconds=seconds, name="runs-alone")
    alone_rate = await measure_mutations(load, system, seconds=seconds, name="runs-alone")
    async with _Loggers(load) as loggers:
        beside = await measure_latency(load, seconds=seconds, name="runs-beside")
        beside_rate = await measure_mutations(load, system, seconds=seconds, name="runs-beside")
    stored = await loggers.stored()
    return RunFigures(
        list_ms=list_ms,
        points=points,
        series_ms=series_ms,
        alone_p99_ms=alone.p99,
        beside_p99_ms=beside.p99,
        alone_per_second=alone_rate.per_second,
        beside_per_second=beside_rate.per_second,
        logged_points=loggers.logged,
        lost_points=loggers.logged - stored,
        log_ms=_median_and_worst(loggers.took),
    )


async def _timed(load: Load, path: str) -> tuple[float, float]:
    took = []
    for _ in range(_SAMPLES):
        started = time.perf_counter()
        await load.request("GET", path)
        took.append((time.perf_counter() - started) * 1000)
    return _median_and_worst(took[1:])


def _median_and_worst(took: list[float]) -> tuple[float, float]:
    ordered = sorted(took)
    return percentile(ordered, 50), ordered[-1]


class _Loggers:
    """Runs that log every second."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._stopped = asyncio.Event()
        self.logged = 0
        self.took: list[float] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._log(f"logger-{number}")) for number in range(LOGGING_RUNS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        await asyncio.gather(*self._tasks)

    async def _log(self, run_id: str) -> None:
        path = f"/projects/{_PROJECT}/runs/{run_id}"
        await self._load.request("PUT", path, {"session": "s"})
        await asyncio.sleep(random.random())
        sequence = 0
        while not self._stopped.is_set():
            started = time.perf_counter()
            values = {f"metric/{number}": random.random() for number in range(METRICS)}
            row = {"step": sequence, "time": time.time(), "values": values}
            body = {"session": "s", "sequence": sequence, "rows": [row], "summary": values}
            await self._load.request("POST", f"{path}/log", body)
            self.took.append((time.perf_counter() - started) * 1000)
            self.logged += METRICS
            sequence += 1
            await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - started)))
        await self._load.request("POST", f"{path}/finish", {"exit_code": 0, "session": "s"})

    async def stored(self) -> int:
        """Return the number of points that can be read."""
        total = 0
        for number in range(LOGGING_RUNS):
            metrics = await self._load.request("GET", f"/projects/{_PROJECT}/runs/logger-{number}/metrics")
            total += sum(metric["count"] for metric in metrics["items"])
        return total


def _fill(system: BenchSystem, registry: Registry, points: int) -> None:
    """Create the runs, and the one with the long metric."""
    registry.save_run(_PROJECT, _LONG, RunChange(session="s"), origin=_BENCH)
    for sequence, start in enumerate(range(0, points, _ROWS)):
        rows = [LogRow(step, 1.7e9 + step, {"loss": random.random()}) for step in range(start, start + _ROWS)]
        registry.log(_PROJECT, _LONG, LogRequest("s", sequence, rows), origin=_BENCH)
    while due := registry.runs_to_pack(limit=1):
        registry.pack_run(due[0])
    database = Database(database_url(system))
    project_id = database.read(
        lambda connection: connection.execute(sa.select(projects.c.id).where(projects.c.name == _PROJECT)).scalar_one()
    )
    rows_of_runs = list(_rows(project_id))
    database.write(lambda connection: connection.execute(sa.insert(runs), rows_of_runs))
    database.close()


def _rows(project_id: str) -> Iterator[dict[str, Any]]:
    now = datetime.now(UTC)
    for number in range(RUNS):
        config = {f"parameter_{index}": random.random() for index in range(_VALUES)}
        summary = {f"metric/{index}": random.random() for index in range(_VALUES)}
        yield {
            "id": f"run_{number:026}",
            "project_id": project_id,
            "run_id": f"r{number}",
            "name": f"run {number}",
            "state": "finished",
            "config": {**config, "lr": random.choice([0.1, 0.01, 0.001]), "model": {"name": "resnet", "depth": 50}},
            "summary": {**summary, "acc": random.random()},
            "tags": [],
            "notes": "",
            "info": {},
            "created_at": now,
            "created_by": "bench",
            "finished_at": now,
        }
