"""
The history of a run's metrics.

A point is a step, a time and a value. A request stores its points as one log entry. Later, the points of many entries
are packed into chunks: up to 10,000 points of one key, as compressed columns. Both give back exactly what was logged.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from upshot.json_numbers import NOT_FINITE, to_json_number

MAX_CHUNK_POINTS = 10_000
MAX_STEP = 2**53  #: the integers up to here are exact as a float64

_NUMBER_BYTES = 8  # of a float64
_COMPRESSED = b"z"
_MIN_COMPRESSED_BYTES = 1_000
_LEVEL = 6
_CHUNKS_OF_ENTRY = 1_000_000  # more than the chunks that one pack makes


class Point(NamedTuple):
    """One value of a key."""

    step: int
    time: float  #: seconds since 1970
    value: Any  #: JSON; NaN and the infinities are texts


@dataclass(frozen=True, slots=True)
class LogRow:
    """The values of one step, as a client logs them."""

    step: int
    time: float  #: seconds since 1970
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """The points of one request."""

    number: int  #: entries of a run are numbered in the order in which they came
    points: int
    keys: int
    data: bytes  #: `encode_rows`


class ChunkKind(StrEnum):
    """What the values of a chunk are."""

    FLOAT = "float"  #: numbers; a column of float64
    INTEGER = "integer"  #: the same, but all of them were logged as integers
    JSON = "json"  #: texts, lists, …, and numbers among them


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """What is known of a chunk without reading its columns."""

    key: str
    number: int  #: chunks of a key are numbered in the order of their points
    kind: ChunkKind
    first_step: int
    last_step: int
    count: int  #: points
    nan_count: int
    minimum: float | None  #: of the numbers that are not NaN; None if there are none
    maximum: float | None
    last: Any  #: value of the last point, as JSON


@dataclass(frozen=True, slots=True)
class Chunk:
    """Packed points of one key."""

    info: ChunkInfo
    steps: bytes
    times: bytes
    values: bytes


@dataclass(frozen=True, slots=True)
class Columns:
    """Points of one key as columns of the same length."""

    steps: Sequence[float]
    times: Sequence[float]
    values: Sequence[Any]  #: numbers, NaN and the infinities as floats; or JSON values if `is_json`
    is_json: bool = False
    are_integers: bool = False

    def json_values(self, indexes: Iterable[int] | None = None) -> list[Any]:
        """Return values for JSON: all, or those at the indexes."""
        values = list(self.values) if indexes is None else [self.values[index] for index in indexes]
        if self.is_json:
            return values
        if self.are_integers:
            return [int(value) for value in values]
        return [value if math.isfinite(value) else to_json_number(value) for value in values]

    def points(self) -> Iterator[Point]:
        """Yield the points."""
        for step, time, value in zip(self.steps, self.times, self.json_values(), strict=True):
            yield Point(int(step), time, value)


def number_of(value: Any) -> float | None:
    """Return the number that a logged value is, or None if it is none, or has no exact float64."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        return float(value) if -MAX_STEP <= value <= MAX_STEP else None
    return NOT_FINITE.get(value) if isinstance(value, str) else None


# --- log entries --------------------------------------------------------------------------------


def encode_rows(rows: Sequence[LogRow]) -> bytes:
    """Return the data of a log entry: its steps, its times, and for each key the rows that have it and their values."""
    keys: defaultdict[str, tuple[list[int], list[Any]]] = defaultdict(lambda: ([], []))
    for index, row in enumerate(rows):
        for key, value in row.values.items():
            indexes, values = keys[key]
            indexes.append(index)
            values.append(value)
    columns = {
        key: values if len(indexes) == len(rows) else [indexes, values] for key, (indexes, values) in keys.items()
    }
    everywhere = [key for key, (indexes, _) in keys.items() if len(indexes) == len(rows)]
    data = orjson.dumps([[row.step for row in rows], [row.time for row in rows], everywhere, columns])
    return data if len(data) < _MIN_COMPRESSED_BYTES else _COMPRESSED + zlib.compress(data, 1)


def decode_entry(entry: LogEntry, keys: Collection[str] | None = None) -> dict[str, list[Point]]:
    """Return the points of a log entry by key: of these keys, or of all."""
    data = zlib.decompress(entry.data[1:]) if entry.data.startswith(_COMPRESSED) else entry.data
    steps, times, everywhere, columns = orjson.loads(data)
    found: dict[str, list[Point]] = {}
    in_all = frozenset(everywhere)
    for key in columns if keys is None else columns.keys() & keys:
        column = columns[key]
        if key in in_all:
            found[key] = list(map(Point, steps, times, column))
        else:
            found[key] = [Point(steps[index], times[index], value) for index, value in zip(*column, strict=True)]
    return found


# --- chunks -------------------------------------------------------------------------------------


def pack(entries: Sequence[LogEntry]) -> list[Chunk]:
    """Return the points of log entries as chunks. The entries are in the order of their numbers."""
    by_key: defaultdict[str, list[Point]] = defaultdict(list)
    for entry in entries:
        for key, points in decode_entry(entry).items():
            by_key[key] += points
    number = entries[0].number * _CHUNKS_OF_ENTRY
    return [
        encode_chunk(key, number + part, points[start : start + MAX_CHUNK_POINTS])
        for key, points in by_key.items()
        for part, start in enumerate(range(0, len(points), MAX_CHUNK_POINTS))
    ]


def encode_chunk(key: str, number: int, points: Sequence[Point]) -> Chunk:
    """Return points of one key as a chunk."""
    numbers = [number_of(point.value) for point in points]
    found = [number for number in numbers if number is not None]
    comparable = [number for number in found if not math.isnan(number)]
    if len(found) < len(points):
        kind = ChunkKind.JSON
        values = zlib.compress(orjson.dumps([point.value for point in points]), _LEVEL)
    else:
        is_integer = all(isinstance(point.value, int) for point in points)
        kind = ChunkKind.INTEGER if is_integer else ChunkKind.FLOAT
        values = _compress(found)
    info = ChunkInfo(
        key=key,
        number=number,
        kind=kind,
        first_step=points[0].step,
        last_step=points[-1].step,
        count=len(points),
        nan_count=len(found) - len(comparable),
        minimum=min(comparable, default=None),
        maximum=max(comparable, default=None),
        last=points[-1].value,
    )
    return Chunk(info, _compress(point.step for point in points), _compress(point.time for point in points), values)


def decode_chunk(chunk: Chunk) -> Columns:
    """Return the columns of a chunk."""
    kind = chunk.info.kind
    steps, times = _decompress(chunk.steps), _decompress(chunk.times)
    if kind is ChunkKind.JSON:
        return Columns(steps, times, orjson.loads(zlib.decompress(chunk.values)), is_json=True)
    return Columns(steps, times, _decompress(chunk.values), are_integers=kind is ChunkKind.INTEGER)


def to_columns(points: Sequence[Point]) -> Columns:
    """Return points that are not packed yet as columns."""
    return Columns(
        [point.step for point in points],
        [point.time for point in points],
        [point.value for point in points],
        is_json=True,
    )


def only_numbers(columns: Columns) -> Columns:
    """Return the points whose values are numbers."""
    if not columns.is_json:
        return columns
    numbers = [number_of(value) for value in columns.values]
    kept = [index for index, number in enumerate(numbers) if number is not None]
    return Columns(
        array("d", [columns.steps[index] for index in kept]),
        array("d", [columns.times[index] for index in kept]),
        array("d", [number for number in numbers if number is not None]),
        are_integers=all(isinstance(columns.values[index], int) for index in kept),
    )


def _compress(numbers: Iterable[float]) -> bytes:
    """Compress float64 numbers. The first bytes of all numbers come first: neighbours share them."""
    data = array("d", numbers).tobytes()
    return zlib.compress(b"".join(data[index::_NUMBER_BYTES] for index in range(_NUMBER_BYTES)), _LEVEL)


def _decompress(column: bytes) -> array[float]:
    planes = zlib.decompress(column)
    count = len(planes) // _NUMBER_BYTES
    data = bytearray(len(planes))
    for index in range(_NUMBER_BYTES):
        data[index::_NUMBER_BYTES] = planes[index * count : (index + 1) * count]
    numbers = array("d")
    numbers.frombytes(data)
    return numbers


# --- fewer points -------------------------------------------------------------------------------


def thin(parts: Iterable[Columns], *, count: int, wanted: int) -> Columns:
    """
    Keep the minimum and the maximum of each bucket of consecutive points, and the first and the last point.

    NaN is neither a minimum nor a maximum. A bucket that has nothing else keeps its first one.

    Args:
        parts: Points of one key, in order. They are numbers.
        count: Number of points in all parts.
        wanted: Number of points to keep, at least 4.
    """
    bucket = 1 if count <= wanted else -(-count // ((wanted - 2) // 2))
    steps, times, values, kept = array("d"), array("d"), array("d"), _Kept()
    for part in parts:
        steps.extend(part.steps)
        times.extend(part.times)
        values.extend(part.values)
        kept.are_integers &= part.are_integers
        end = max(0, len(values) - 1) // bucket * bucket  # the last bucket may grow, and its last point is kept
        if end:
            indexes = [index for start in range(0, end, bucket) for index in _extremes(values, start, start + bucket)]
            kept.add(steps, times, values, indexes)
        del steps[:end], times[:end], values[:end]
    if values:
        kept.add(steps, times, values, sorted({*_extremes(values, 0, len(values)), len(values) - 1}))
    return Columns(kept.steps, kept.times, kept.values, are_integers=kept.are_integers)


class _Kept:
    """The points that `thin` keeps."""

    def __init__(self) -> None:
        self.steps, self.times, self.values = array("d"), array("d"), array("d")
        self.are_integers = True

    def add(self, steps: array[float], times: array[float], values: array[float], indexes: Sequence[int]) -> None:
        """Keep the points at the indexes, and the very first one."""
        if values and not self.values and 0 not in indexes[:1]:
            indexes = [0, *indexes]
        self.steps.extend(steps[index] for index in indexes)
        self.times.extend(times[index] for index in indexes)
        self.values.extend(values[index] for index in indexes)


def _extremes(values: array[float], start: int, end: int) -> Sequence[int]:
    """Return where the minimum and the maximum are, in order."""
    if end - start == 1:
        return (start,)
    part = values[start:end]
    skipped = 0
    while math.isnan(part[skipped]):  # `min` and `max` pass over a NaN, unless it comes first
        skipped += 1
        if skipped == len(part):
            return (start,)
    comparable = part[skipped:] if skipped else part
    first = start + skipped + comparable.index(min(comparable))
    second = start + skipped + comparable.index(max(comparable))
    return (first,) if first == second else (min(first, second), max(first, second))
