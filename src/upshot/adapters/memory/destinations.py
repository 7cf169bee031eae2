"""Destinations in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from typing_extensions import override

from upshot.adapters.destinations import combine
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.domain.event import Event
from upshot.ids import WorkerId
from upshot.ports.destinations import Destination, DestinationReport, DestinationStore


class MemoryDestinations(DestinationStore):
    """
    `DestinationStore` in memory.

    Args:
        executions: The executions that can wait for a destination.
    """

    def __init__(self, executions: MemoryExecutions) -> None:
        self._executions = executions
        self._reports: dict[tuple[str, WorkerId], tuple[DestinationReport, datetime]] = {}
        self._released: set[tuple[str, WorkerId]] = set()

    @override
    def report(self, worker_id: WorkerId, reports: Sequence[DestinationReport], now: datetime) -> tuple[str, ...]:
        released = sorted(name for name, owner in self._released if owner == worker_id)
        self._released -= {(name, worker_id) for name in released}
        was_up = {name for name in released if not self._reports[name, worker_id][0].is_down}
        reports = [replace(report, is_down=report.is_down and report.name not in was_up) for report in reports]
        self._reports = {key: value for key, value in self._reports.items() if key[1] != worker_id}
        self._reports |= {(report.name, worker_id): (report, now) for report in reports}
        return tuple(released)

    @override
    def change(self, worker_id: WorkerId, report: DestinationReport, event: Event, *, seen_since: datetime) -> bool:
        before = self._is_down(report.name, seen_since)
        self._reports[report.name, worker_id] = (report, event.time)
        if not report.is_down:
            for key, (other, seen_at) in self._reports.items():
                if key[0] == report.name and other.is_down:
                    self._reports[key] = (replace(other, is_down=False, reason=None, probe_at=None), seen_at)
                    self._released.add(key)
        is_changed = before != self._is_down(report.name, seen_since)
        if is_changed:
            self._executions.accept(event)
        return is_changed

    def _is_down(self, name: str, seen_since: datetime) -> bool:
        return any(
            report.is_down and seen_at >= seen_since
            for (reported, _), (report, seen_at) in self._reports.items()
            if reported == name
        )

    @override
    def list(self, *, seen_since: datetime) -> tuple[Destination, ...]:
        reports = [report for report, seen_at in self._reports.values() if seen_at >= seen_since]
        return combine(reports, self._executions.count_waits())

    @override
    def release(self, name: str, now: datetime) -> None:
        self._released |= {key for key in self._reports if key[0] == name}
