"""Results as a table for people and as JSON for comparing runs."""

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

from bench.measures import Latency, Rate

# Row, what must be reached, where it is going; on two cores with everything on them.
_TARGETS = {
    "latency": ("REST mutation begun → webhook received, 10/s, p50 / p95 / p99", "12 / – / 30 ms", "6 / – / 15 ms"),
    "mutations": ("REST mutations with one delivery each, 8 writers", "200/s", "500/s"),
    "backlog": ("from a standing backlog, two workers", "2,000/s", "8,000/s"),
    "backlog-slow": ("the same, 5 % of the receivers taking 2 s", "1,500/s", "5,000/s"),
    "memory": ("memory idle: worker + web + Redis (resident; proportional)", "300 MB", "180 MB"),
}
_MATCHING_TARGETS = {10_000: ("50 µs", "15 µs")}


@dataclass(slots=True)
class Report:
    """What was measured; latency, rates and memory by database."""

    machine: Mapping[str, Any]
    quick: bool
    latency: dict[str, Latency] = field(default_factory=dict)
    rates: dict[str, dict[str, Rate]] = field(default_factory=dict)  #: by database, by measurement
    memory: dict[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)  #: by database, by part
    matching: Mapping[int, float] = field(default_factory=dict)  #: microseconds an event, by number of automations
    notes: list[str] = field(default_factory=list)

    def add_rate(self, database: str, measurement: str, rate: Rate) -> None:
        """Keep one rate of one database."""
        self.rates.setdefault(database, {})[measurement] = rate

    @property
    def is_clean(self) -> bool:
        """Every audit found none missing and none double."""
        audits = [latency.audit for latency in self.latency.values()]
        audits += [rate.audit for rates in self.rates.values() for rate in rates.values()]
        return all(audit.is_clean for audit in audits)

    def print(self) -> None:
        """The table."""
        console = Console(width=150 if not os.isatty(1) else None)
        databases = list(dict.fromkeys([*self.latency, *self.rates, *self.memory]))
        table = Table(title=", ".join(str(value) for value in self.machine.values()))
        for title in ("what", *databases, "must reach", "goal"):
            table.add_column(title, overflow="fold")
        for row, (what, spine, goal) in _TARGETS.items():
            cells = [self._cell(row, database) for database in databases]
            if any(cells):
                table.add_row(what, *cells, spine, goal)
        for count, microseconds in self.matching.items():
            spine, goal = _MATCHING_TARGETS.get(count, ("", ""))
            cells = [f"{microseconds:.1f} µs"] + [""] * (len(databases) - 1) if databases else []
            table.add_row(f"match one event against {count:,} automations, one matches", *cells, spine, goal)
        console.print(table)
        for note in self.notes:
            console.print(f"note: {note}")

    def write(self, folder: Path) -> Path:
        """Write JSON, named after the time; returns the file."""
        now = datetime.now(UTC)
        path = folder / f"{now:%Y%m%dT%H%M%SZ}.json"
        form = {"measured_at": now.isoformat(), "clean": self.is_clean, **asdict(self)}
        path.write_text(json.dumps(form, indent=2) + "\n")
        return path

    def _cell(self, row: str, database: str) -> str:
        if row == "latency" and database in self.latency:
            latency = self.latency[database]
            numbers = f"{latency.p50:.1f} / {latency.p95:.1f} / {latency.p99:.1f} ms (worst {latency.worst:.0f})"
            return f"{numbers}\n{latency.audit}"
        if row == "memory" and database in self.memory:
            return _memory_cell(self.memory[database])
        if rate := self.rates.get(database, {}).get(row):
            cpu = ", ".join(f"{part} {used:.2f}" for part, used in rate.cpu_ms.items())
            return f"{rate.per_second:,.0f}/s over {rate.took_seconds:.1f} s\n{rate.audit}\nms of processor each: {cpu}"
        return ""


def _memory_cell(parts: Mapping[str, Mapping[str, float]]) -> str:
    whole = [f"{sum(sizes.get(kind, 0.0) for sizes in parts.values()):.0f} MB" for kind in ("rss_mb", "pss_mb")]
    return "; ".join(whole) + "\n" + ", ".join(f"{part} {sizes['rss_mb']:.0f}" for part, sizes in parts.items())


def machine() -> Mapping[str, Any]:
    """What the numbers were measured on."""
    return {
        "cores": f"{os.cpu_count()} cores",
        "processor": _processor(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"Python {platform.python_version()}",
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
