"""Combine what several workers know of the same destinations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from upshot.ports.destinations import Destination, DestinationReport


def combine(reports: Iterable[DestinationReport], waiting: Mapping[str, int]) -> tuple[Destination, ...]:
    """
    Return one record for each destination, by name.

    Args:
        reports: Of all workers that are alive.
        waiting: Number of executions that wait, by what they wait for.
    """
    by_name: dict[str, list[DestinationReport]] = defaultdict(list)
    for report in reports:
        by_name[report.name].append(report)
    names = by_name.keys() | {name for name in waiting if "://" in name}
    return tuple(_combine_one(name, by_name.get(name, []), waiting.get(name, 0)) for name in sorted(names))


def _combine_one(name: str, reports: list[DestinationReport], waiting: int) -> Destination:
    down = [report for report in reports if report.is_down]
    return Destination(
        name=name,
        is_down=bool(down),
        reason=down[0].reason if down else None,
        in_progress=sum(report.in_progress for report in reports),
        limit=sum(report.limit for report in reports),
        waiting=waiting,
        probe_at=min((report.probe_at for report in down if report.probe_at), default=None),
    )
