"""The results: a table for people, and JSON to compare runs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.artifacts import Artifacts, Transfer
from bench.growth import Growth
from bench.hold import Hold
from bench.measures import Latency, Rate
from bench.runs import RunFigures
from bench.sdk import Logging

# By row: its title, the required figure, and the goal, for two cores that run all processes.
_TARGETS = {
    "latency": ("REST mutation → webhook received, 10/s, p50 / p95 / p99", "12 / – / 30 ms", "6 / – / 15 ms"),
    "alone": ("the same, before the next row", "", ""),
    "beside-hanging": ("beside ten destinations that never answer, 40 events/s each", "p99 ≤ 2 × alone", ""),
    "beside-fifty-hanging": ("beside fifty destinations that never answer, 2 events/s each", "p99 ≤ 2 × alone", ""),
    "beside-backlog": ("one event beside another automation's backlog of 10,000", "1,000 ms", ""),
    "burst": ("a burst of 3,000 events to a receiver that answers in 0.2 s", "5 s", ""),
    "mutations": ("REST mutations with one delivery each, 8 writers", "200/s", "500/s"),
    "backlog": ("from a standing backlog, two workers", "2,000/s", "8,000/s"),
    "backlog-slow": ("the same, 5 % of the receivers take 2 s", "1,500/s", "5,000/s"),
    "memory": ("memory idle: worker + web + Redis (resident; proportional)", "300 MB", "180 MB"),
}
_MATCHING_TARGETS = {10_000: ("50 µs", "15 µs")}


@dataclass(slots=True)
class Report:
    """The results of all measurements."""

    machine: Mapping[str, Any]
    quick: bool
    latencies: dict[str, dict[str, Latency]] = field(default_factory=dict)  #: by database and measurement
    rates: dict[str, dict[str, Rate]] = field(default_factory=dict)  #: by database and measurement
    memory: dict[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)  #: by database and process
    growth: dict[str, Growth] = field(default_factory=dict)  #: by database
    holds: dict[str, Hold] = field(default_factory=dict)  #: by database
    artifacts: dict[str, Artifacts] = field(default_factory=dict)  #: by database
    logging: dict[str, Logging] = field(default_factory=dict)  #: by database
    runs: dict[str, RunFigures] = field(default_factory=dict)  #: by database
    matching: Mapping[int, float] = field(default_factory=dict)  #: microseconds per event, by number of automations
    notes: list[str] = field(default_factory=list)

    def add_rate(self, database: str, measurement: str, rate: Rate) -> None:
        """Add the rate of one measurement on one database."""
        self.rates.setdefault(database, {})[measurement] = rate

    def add_latency(self, database: str, measurement: str, latency: Latency) -> None:
        """Add the latency of one measurement on one database."""
        self.latencies.setdefault(database, {})[measurement] = latency

    @property
    def is_clean(self) -> bool:
        """Whether no delivery and no logged value is missing, and no delivery is a duplicate."""
        audits = [latency.audit for latencies in self.latencies.values() for latency in latencies.values()]
        audits += [rate.audit for rates in self.rates.values() for rate in rates.values()]
        lost = [found.lost for found in self.logging.values()] + [found.lost_points for found in self.runs.values()]
        return all(audit.is_clean for audit in audits) and not any(lost)

    def print(self) -> None:
        """Print the table."""
        console = Console(width=150 if not os.isatty(1) else None)
        measured = (
            self.latencies,
            self.rates,
            self.memory,
            self.growth,
            self.holds,
            self.artifacts,
            self.logging,
            self.runs,
        )
        databases = list(dict.fromkeys(name for results in measured for name in results))
        table = Table(title=", ".join(str(value) for value in self.machine.values()))
        for title in ("what", *databases, "required", "goal"):
            table.add_column(title, overflow="fold")
        for row, (title, required, goal) in _TARGETS.items():
            cells = [self._cell(row, database) for database in databases]
            if any(cells):
                table.add_row(title, *cells, required, goal)
        for goals, cells_of, results in (
            (_GROWTH_ROWS, _growth_cells, self.growth),
            (_HOLD_ROWS, _hold_cells, self.holds),
            (_ARTIFACT_ROWS, _artifact_cells, self.artifacts),
            (_LOGGING_ROWS, _logging_cells, self.logging),
            (_RUN_ROWS, _run_cells, self.runs),
        ):
            found: Mapping[str, Any] = results
            for title, goal in goals.items() if found else ():
                cells = [cells_of(found[name])[title] if name in found else "" for name in databases]
                table.add_row(title, *cells, goal, goal)
        for count, microseconds in self.matching.items():
            required, goal = _MATCHING_TARGETS.get(count, ("", ""))
            cells = [f"{microseconds:.1f} µs"] + [""] * (len(databases) - 1) if databases else []
            table.add_row(f"match one event against {count:,} automations, one matches", *cells, required, goal)
        console.print(table)
        for note in self.notes:
            console.print(f"note: {note}")

    def write(self, directory: Path) -> Path:
        """Write a JSON file whose name is the current time. Return its path."""
        now = datetime.now(UTC)
        path = directory / f"{now:%Y%m%dT%H%M%SZ}.json"
        results = {"measured_at": now.isoformat(), "clean": self.is_clean, **asdict(self)}
        path.write_text(json.dumps(results, indent=2) + "\n")
        return path

    def _cell(self, row: str, database: str) -> str:
        if latency := self.latencies.get(database, {}).get(row):
            numbers = f"{latency.p50:.1f} / {latency.p95:.1f} / {latency.p99:.1f} ms (worst {latency.worst:.0f})"
            return f"{numbers}\n{latency.audit}"
        if row == "memory" and database in self.memory:
            return _memory_cell(self.memory[database])
        if rate := self.rates.get(database, {}).get(row):
            cpu = ", ".join(f"{name} {used:.2f}" for name, used in rate.cpu_ms.items())
            speed = f"{rate.per_second:,.0f}/s over {rate.took_seconds:.1f} s"
            return f"{speed}\n{rate.audit}\nprocessor ms per delivery: {cpu}"
        return ""


#: By title: the goal.
_GROWTH_ROWS = {
    "beside many events and executions: rows": "1,000,000",
    "  a mutation, p50 / p99": "– / 50 ms",
    "  /metrics, median / worst": "50 ms",
    "  /readyz, median / worst": "50 ms",
    "  the slowest first page of a list, median / worst": "50 ms",
    "  the longest mutation while pruning; p99; rows removed": "200 ms",
}


def _growth_cells(growth: Growth) -> Mapping[str, str]:
    slowest = max(growth.lists, key=lambda path: growth.lists[path][0])
    cells = (
        f"{growth.rows:,}, inserted in {growth.fill_seconds:.0f} s",
        f"{growth.mutation_p50:.1f} / {growth.mutation_p99:.1f} ms",
        "{:.1f} / {:.1f} ms".format(*growth.metrics),
        "{:.1f} / {:.1f} ms".format(*growth.readiness),
        "{:.1f} / {:.1f} ms".format(*growth.lists[slowest]) + f" ({slowest})",
        f"{growth.pruning_stall:.0f} ms; {growth.pruning_p99:.0f} ms; {growth.pruned_per_second:,.0f}/s",
    )
    return dict(zip(_GROWTH_ROWS, cells, strict=True))


#: By title: the goal.
_HOLD_ROWS = {
    "the longest piece of work on a worker's event loop, hostile load": "5 ms",
    "the same on the web process's event loop": "5 ms",
    "the longest garbage collection of the worker meanwhile": "",
    "the slowest /healthz beside GET /events/{event_id}; alone": "",
}


def _hold_cells(hold: Hold) -> Mapping[str, str]:
    def longest(process: str) -> str:
        load, (took, what) = max(
            ((name, piece) for name, piece in hold.pieces.items() if name.startswith(process)),
            key=lambda item: item[1][0],
        )
        return f"{took:.1f} ms ({load}: {what.rpartition(' > ')[2] or 'nothing above 1 ms'})"

    cells = (
        longest("worker"),
        longest("web"),
        f"{hold.collection_ms:.1f} ms",
        f"{hold.beside_explanation_ms:.1f} ms; {hold.without_explanation_ms:.1f} ms",
    )
    return dict(zip(_HOLD_ROWS, cells, strict=True))


#: By title: the goal.
_ARTIFACT_ROWS = {
    "upload a large file; a bare script; speed relative to it": "15 s; ≥ 0.7",
    "download it; a bare script; speed relative to it": "15 s; ≥ 0.7",
    "upload small files; the same again; download": "15 s; 2 s; –",
    "the highest memory of the client: large files; small files": "150 MB",
    "import upshot": "50 ms",
    "lineage of depth 5, median / worst": "100 ms",
}


def _artifact_cells(found: Artifacts) -> Mapping[str, str]:
    def transfer(taken: Transfer) -> str:
        speed = f"{taken.seconds:.1f} s; {taken.script_seconds:.1f} s; {taken.relative_speed:.2f}"
        return f"{speed} ({taken.megabytes:,.0f} MB)"

    small = " s; ".join(
        f"{seconds:.1f}" for seconds in (found.small_seconds, found.small_again_seconds, found.small_download_seconds)
    )
    large_mb = max(found.upload.memory_mb, found.download.memory_mb)
    cells = (
        transfer(found.upload),
        transfer(found.download),
        f"{small} s ({found.small_files:,} files)",
        f"{large_mb:.0f} MB; {found.small_memory_mb:.0f} MB",
        f"{found.import_ms:.0f} ms",
        "{:.0f} / {:.0f} ms".format(*found.lineage_ms) + f" ({found.edges:,} edges)",
    )
    return dict(zip(_ARTIFACT_ROWS, cells, strict=True))


#: By title: the goal.
_LOGGING_ROWS = {
    "run.log in a loop, median / p99 of a call; values lost": "20 µs / –; 0",
    "the loop, and the end of its run": "",
    "the client's memory while it logs 50 metrics a second: growth; in all": "5 MB; –",
}


def _logging_cells(found: Logging) -> Mapping[str, str]:
    cells = (
        f"{found.median_us:.1f} / {found.p99_us:.1f} µs; {found.lost} ({found.calls:,} calls)",
        f"{found.loop_seconds:.1f} s; {found.finish_seconds:.1f} s",
        f"{found.grown_mb:.1f} MB; {found.memory_mb:.0f} MB (for {found.seconds:,} s)",
    )
    return dict(zip(_LOGGING_ROWS, cells, strict=True))


#: By title: the goal.
_RUN_ROWS = {
    "a page of 5,000 runs, filtered by config and summary, and sorted, median / worst": "100 ms",
    "a metric as 2,000 points, median / worst": "250 ms",
    "deliveries beside 20 runs that log 50 metrics per second each: p99; alone": "≤ 1.5 × alone",
    "  mutations with one delivery each; alone": "> 0.8 × alone",
    "  one request of a logging run, median / worst; lost points": "–; 0",
}


def _run_cells(found: RunFigures) -> Mapping[str, str]:
    cells = (
        "{:.0f} / {:.0f} ms".format(*found.list_ms),
        "{:.0f} / {:.0f} ms".format(*found.series_ms) + f" ({found.points:,} points)",
        f"{found.beside_p99_ms:.1f}; {found.alone_p99_ms:.1f} ms",
        f"{found.beside_per_second:.0f}; {found.alone_per_second:.0f}/s",
        "{:.1f} / {:.1f} ms".format(*found.log_ms) + f"; {found.lost_points:,} of {found.logged_points:,}",
    )
    return dict(zip(_RUN_ROWS, cells, strict=True))


def _memory_cell(processes: Mapping[str, Mapping[str, float]]) -> str:
    totals = [f"{sum(sizes.get(kind, 0.0) for sizes in processes.values()):.0f} MB" for kind in ("rss_mb", "pss_mb")]
    return "; ".join(totals) + "\n" + ", ".join(f"{name} {sizes['rss_mb']:.0f}" for name, sizes in processes.items())


def machine() -> Mapping[str, Any]:
    """Describe the machine that the figures were measured on."""
    return {
        "cores": f"{os.cpu_count()} cores",
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"Python {platform.python_version()}",
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
