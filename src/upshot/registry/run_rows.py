"""Read the history of a run as rows: the values of several keys at each step."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upshot.domain.metric_history import ChunkInfo, Columns, Point
from upshot.ports.registry import RegistryView
from upshot.registry.run_lookup import find_run
from upshot.registry.run_metrics import PointReader, Span
from upshot.registry.transaction import RegistryTransactions

MAX_PAGE_VALUES = 100_000  #: of all rows of a page together, unless one row has more
_EXACT_POINTS = 200_000  #: of all keys; a longer history is sampled at the steps of its longest key
_STEP, _TIMESTAMP = "_step", "_timestamp"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowPage:
    """Rows of a history."""

    rows: Sequence[Row]
    next_step: int | None  #: where the next page begins; None if there is none


class RunRows(RegistryTransactions):
    """Methods that read rows of histories."""

    def history_page(
        self, project: str, run_id: str, keys: Sequence[str], *, from_step: int, to_step: int | None, limit: int
    ) -> RowPage:
        """
        Return rows in the order of their steps, exactly as they were logged.

        Args:
            project: Name of the project.
            run_id: Id of the run.
            keys: Only rows that have all of these, and only their values; empty for all rows and keys.
            from_step: The first step.
            to_step: The last step; None means to the end.
            limit: Number of rows to look at.

        Raises:
            NotFound: The run does not exist.
        """

        def work(view: RegistryView) -> RowPage:
            reader = PointReader(view, find_run(view, project, run_id), keys or None)
            wanted = list(dict.fromkeys(keys)) or reader.keys()
            rows_at_most = max(1, min(limit, MAX_PAGE_VALUES // max(1, len(wanted))))
            infos = reader.infos(wanted)
            found: list[tuple[str, list[Point]]] = []
            until: int | None = to_step
            for key in wanted:
                points, is_cut = _first_points(
                    reader, key, infos.get(key, ()), Span(from_step, until), steps=rows_at_most
                )
                if is_cut:  # later rows are not complete
                    until = points[-1].step
                found.append((key, points))
            rows = _rows(found, until)
            has_more = len(rows) > rows_at_most or until != to_step
            rows = rows[:rows_at_most]
            next_step = rows[-1][_STEP] + 1 if rows and has_more else None
            return RowPage(_with_all(rows, keys), next_step)

        return self._store.read(work)

    def sampled_history(
        self, project: str, run_id: str, keys: Sequence[str], *, samples: int, from_step: int, to_step: int | None
    ) -> tuple[Row, ...]:
        """
        Return up to `samples` rows that are spread evenly over the history.

        Args:
            project: Name of the project.
            run_id: Id of the run.
            keys: Only rows that have all of these, and only their values; empty for all rows and keys.
            samples: Number of rows.
            from_step: The first step.
            to_step: The last step; None means to the end.

        Raises:
            NotFound: The run does not exist.
        """

        def work(view: RegistryView) -> tuple[Row, ...]:
            reader = PointReader(view, find_run(view, project, run_id), keys or None)
            wanted = list(dict.fromkeys(keys)) or reader.keys()
            infos = reader.infos(wanted)
            steps = _sampled_steps(
                reader, infos, wanted, Span(from_step, to_step), must_have_all=bool(keys), samples=samples
            )
            found = [(key, _points_at(reader, key, infos.get(key, ()), steps)) for key in wanted]
            return tuple(_with_all(_rows(found, None), keys))

        return self._store.read(work)


def _first_points(
    reader: PointReader, key: str, infos: Sequence[ChunkInfo], span: Span, *, steps: int
) -> tuple[list[Point], bool]:
    """Return the points of the first `steps` steps of a key, and whether there are more."""
    found: list[Point] = []
    seen = 0
    wanted = [info for info in infos if span.overlaps(info)]
    packed = (point for info in wanted for part in reader.columns(key, [info]) for point in part.points())
    for points in (packed, reader.unpacked.get(key, ())):
        for point in points:
            if point.step not in span:
                continue
            if not found or point.step != found[-1].step:
                if seen == steps:
                    return found, True
                seen += 1
            found.append(point)
    return found, False


def _rows(found: Iterable[tuple[str, Sequence[Point]]], until: int | None) -> list[Row]:
    """Return points as rows. Of several values at one step, the last one counts."""
    rows: defaultdict[int, Row] = defaultdict(dict)
    for key, points in found:
        for step, time, value in points:
            if until is None or step <= until:
                row = rows[step]
                row[key] = value
                row[_TIMESTAMP] = max(time, row.get(_TIMESTAMP, time))
    return [{_STEP: step, _TIMESTAMP: rows[step].pop(_TIMESTAMP), **rows[step]} for step in sorted(rows)]


def _with_all(rows: Sequence[Row], keys: Sequence[str]) -> Sequence[Row]:
    return [row for row in rows if all(key in row for key in keys)] if keys else rows


def _steps_of(reader: PointReader, key: str, infos: Sequence[ChunkInfo], span: Span) -> list[float]:
    wanted = [info for info in infos if span.overlaps(info)]
    steps: list[float] = [step for columns in reader.columns(key, wanted) for step in columns.steps]
    steps.extend(point.step for point in reader.unpacked.get(key, ()))
    return [step for step in dict.fromkeys(steps) if step in span]


def _sampled_steps(
    reader: PointReader,
    infos: Mapping[str, Sequence[ChunkInfo]],
    keys: Sequence[str],
    span: Span,
    *,
    must_have_all: bool,
    samples: int,
) -> list[float]:
    counts = {key: sum(info.count for info in infos.get(key, ())) + len(reader.unpacked.get(key, ())) for key in keys}
    if not keys or (must_have_all and not all(counts.values())):
        return []
    if must_have_all:  # the steps that the key with the fewest points shares with the others
        rarest = min(counts, key=lambda key: counts[key])
        steps = _steps_of(reader, rarest, infos.get(rarest, ()), span)
        for key in keys:
            if key != rarest:
                shared = set(_steps_of(reader, key, infos.get(key, ()), span))
                steps = [step for step in steps if step in shared]
    elif sum(counts.values()) <= _EXACT_POINTS:
        steps = sorted({step for key in keys for step in _steps_of(reader, key, infos.get(key, ()), span)})
    else:
        longest = max(counts, key=lambda key: counts[key])
        steps = _steps_of(reader, longest, infos.get(longest, ()), span)
    if len(steps) <= samples:
        return steps
    return [steps[index * (len(steps) - 1) // max(1, samples - 1)] for index in range(samples)]


def _points_at(reader: PointReader, key: str, infos: Sequence[ChunkInfo], steps: Sequence[float]) -> list[Point]:
    """Return the points of a key at these steps."""
    if not steps:
        return []
    wanted = set(steps)

    def has_one(info: ChunkInfo) -> bool:
        index = bisect_left(steps, info.first_step)
        return index < len(steps) and steps[index] <= info.last_step

    found: list[Point] = []
    for columns in reader.columns(key, [info for info in infos if has_one(info)]):
        found += _pick(columns, wanted)
    return found + [point for point in reader.unpacked.get(key, ()) if point.step in wanted]


def _pick(columns: Columns, wanted: set[float]) -> list[Point]:
    indexes = [index for index, step in enumerate(columns.steps) if step in wanted]
    values = columns.json_values(indexes)
    return [
        Point(int(columns.steps[index]), columns.times[index], value)
        for index, value in zip(indexes, values, strict=True)
    ]
