"""Read the metrics of a run: which there are, and the points of one."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from upshot.domain.metric_history import (
    ChunkInfo,
    ChunkKind,
    Columns,
    Point,
    decode_chunk,
    decode_entry,
    number_of,
    only_numbers,
    thin,
    to_columns,
)
from upshot.domain.run import Run
from upshot.errors import NotFound
from upshot.ports.registry import RegistryView
from upshot.registry.run_lookup import find_run
from upshot.registry.transaction import RegistryTransactions
from upshot.suggestions import did_you_mean

MAX_SUGGESTED = 1_000  # keys that are searched for a similar one


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """What is known of one key of a run's history."""

    key: str
    count: int  #: points
    nan_count: int
    minimum: float | None  #: of the numbers that are not NaN; None if there are none
    maximum: float | None
    last: Any  #: JSON
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one key, in the order in which they were logged."""

    key: str
    count: int  #: points of the key, whatever was asked for
    columns: Columns
    next_index: int | None  #: where the next page begins; None if there is none


@dataclass(frozen=True, slots=True)
class Span:
    """Steps from the first to the last one, both included."""

    first: int = 0
    last: int | None = None  #: None means to the end

    def __contains__(self, step: float) -> bool:
        return step >= self.first and (self.last is None or step <= self.last)

    def overlaps(self, info: ChunkInfo) -> bool:
        """Return whether a chunk may have some of these steps."""
        return info.last_step >= self.first and (self.last is None or info.first_step <= self.last)

    def contains(self, info: ChunkInfo) -> bool:
        """Return whether all steps of a chunk are among these."""
        return info.first_step in self and info.last_step in self


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """Which points of a key to read."""

    key: str
    points: int | None = None  #: how many to keep of all; None reads a page of exactly what was logged
    span: Span = Span()
    start: int = 0  #: index of the first point of the page
    limit: int = 10_000  #: points of the page


class PointReader:
    """
    Reads the points of a run, packed or not.

    Args:
        view: In one transaction, in which both kinds are read.
        run: The run.
        only: The keys whose points are read; None for all.
    """

    def __init__(self, view: RegistryView, run: Run, only: Collection[str] | None = None) -> None:
        self._view = view
        self._id = run.summary.id
        self._only = only

    @cached_property
    def unpacked(self) -> Mapping[str, Sequence[Point]]:
        """The points that are not packed, by key."""
        found: defaultdict[str, list[Point]] = defaultdict(list)
        for entry in self._view.log_entries(self._id):
            for key, points in decode_entry(entry, self._only).items():
                found[key] += points
        return found

    def infos(self, keys: Collection[str] | None = None) -> Mapping[str, Sequence[ChunkInfo]]:
        """Return the chunks of these keys, or of all."""
        found: defaultdict[str, list[ChunkInfo]] = defaultdict(list)
        for info in self._view.chunk_infos(self._id, keys):
            found[info.key].append(info)
        return found

    def columns(self, key: str, infos: Sequence[ChunkInfo]) -> Iterator[Columns]:
        """Yield the points of these chunks of a key."""
        yield from map(decode_chunk, self._view.chunks(self._id, key, [info.number for info in infos]))

    def newest_numbers(self, key: str, count: int) -> Sequence[float]:
        """Return the newest points of a key that are numbers, oldest first, at most so many."""
        if count <= 0:
            return ()
        values = (number_of(point.value) for point in self.unpacked.get(key, ()))
        found = [number for number in values if number is not None]
        for info in reversed(self.infos([key]).get(key, ())):
            if len(found) >= count:
                break
            (columns,) = self.columns(key, [info])
            found[:0] = only_numbers(columns).values
        return found[-count:]

    def keys(self) -> list[str]:
        """Return all keys that are read, sorted."""
        return sorted({*self.infos(), *self.unpacked})


class RunMetrics(RegistryTransactions):
    """Methods that read metrics."""

    def metrics(self, project: str, run_id: str) -> tuple[MetricSummary, ...]:
        """
        Return what is known of each key of a run's history, sorted by key.

        Raises:
            NotFound: The run does not exist.
        """

        def work(view: RegistryView) -> tuple[MetricSummary, ...]:
            reader = PointReader(view, find_run(view, project, run_id))
            infos, unpacked = reader.infos(), reader.unpacked
            return tuple(
                _summarize(key, infos.get(key, ()), unpacked.get(key, ())) for key in sorted({*infos, *unpacked})
            )

        return self._store.read(work)

    def series(self, project: str, run_id: str, query: SeriesQuery) -> Series:
        """
        Return points of one key: few that keep each bucket's minimum and maximum, or a page of all.

        Raises:
            NotFound: The run does not exist, or has no such key.
        """

        def work(view: RegistryView) -> Series:
            run = find_run(view, project, run_id)
            reader = PointReader(view, run, [query.key])
            infos = reader.infos([query.key]).get(query.key, ())
            unpacked = reader.unpacked.get(query.key, ())
            count = sum(info.count for info in infos) + len(unpacked)
            if not count:
                raise _no_key(PointReader(view, run), query.key)
            if query.points is None:
                return _page(reader, query, infos, count)
            return Series(query.key, count, _thinned(reader, query, infos), None)

        return self._store.read(work)


def _no_key(reader: PointReader, key: str) -> NotFound:
    keys = reader.keys()
    return NotFound(f"the run has logged no metric {key[:128]!r}{did_you_mean(key, keys[:MAX_SUGGESTED])}")


def _summarize(key: str, infos: Sequence[ChunkInfo], unpacked: Sequence[Point]) -> MetricSummary:
    numbers = [number for point in unpacked if (number := number_of(point.value)) is not None]
    comparable = [number for number in numbers if not math.isnan(number)]
    low = [info.minimum for info in infos if info.minimum is not None] + comparable
    high = [info.maximum for info in infos if info.maximum is not None] + comparable
    return MetricSummary(
        key=key,
        count=sum(info.count for info in infos) + len(unpacked),
        nan_count=sum(info.nan_count for info in infos) + len(numbers) - len(comparable),
        minimum=min(low, default=None),
        maximum=max(high, default=None),
        last=unpacked[-1].value if unpacked else infos[-1].last,
        first_step=infos[0].first_step if infos else unpacked[0].step,
        last_step=unpacked[-1].step if unpacked else infos[-1].last_step,
    )


def _page(reader: PointReader, query: SeriesQuery, infos: Sequence[ChunkInfo], count: int) -> Series:
    """Return a page of all points. Their indexes stay the same when points are packed, and when more are logged."""
    found: list[Point] = []
    index = 0
    for info in [*infos, None]:  # None stands for the points that are not packed
        unpacked = reader.unpacked.get(query.key, ()) if info is None else ()
        length = len(unpacked) if info is None else info.count
        if index + length > query.start and (info is None or query.span.overlaps(info)):
            points = unpacked if info is None else list(next(reader.columns(query.key, [info])).points())
            for offset in range(max(0, query.start - index), length):
                if points[offset].step in query.span:
                    if len(found) == query.limit:
                        return Series(query.key, count, to_columns(found), index + offset)
                    found.append(points[offset])
        index += length
    return Series(query.key, count, to_columns(found), None)


def _thinned(reader: PointReader, query: SeriesQuery, infos: Sequence[ChunkInfo]) -> Columns:
    wanted = [info for info in infos if query.span.overlaps(info)]
    unpacked = _within(only_numbers(to_columns(reader.unpacked.get(query.key, ()))), query.span)

    def parts() -> Iterator[Columns]:
        for columns in reader.columns(query.key, wanted):
            yield _within(only_numbers(columns), query.span)
        yield unpacked

    points = query.points or 0
    if all(query.span.contains(info) and info.kind is not ChunkKind.JSON for info in wanted):
        return thin(parts(), count=sum(info.count for info in wanted) + len(unpacked.steps), wanted=points)
    kept = list(parts())  # how many there are is known only after reading them
    return thin(kept, count=sum(len(part.steps) for part in kept), wanted=points)


def _within(columns: Columns, span: Span) -> Columns:
    """Return the points whose steps are in the span. Steps are sorted."""
    start = bisect_left(columns.steps, span.first)
    end = len(columns.steps) if span.last is None else bisect_right(columns.steps, span.last)
    if (start, end) == (0, len(columns.steps)):
        return columns
    return Columns(
        columns.steps[start:end],
        columns.times[start:end],
        columns.values[start:end],
        is_json=columns.is_json,
        are_integers=columns.are_integers,
    )
