"""
Find the new lines of a container's log: pure functions over lines with timestamps.

The API returns the log since a time, in whole seconds. Timestamps alone cannot tell which lines were read: two lines
may share one, and since each stream gets its timestamps before it is written, a line may follow a line that is slightly
newer. So a position contains the number of lines that were read from shortly before its end, and a checksum of their
timestamps. If those lines are no longer at the beginning of the response because the log has been rotated, the newest
timestamp that was read decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from upshot.clock import parse_time

_NANOSECONDS = 10**9
_WINDOW = 50_000_000  # nanoseconds within which lines may be out of order; the two streams differ by microseconds
_SECONDS_CHARS = len("2026-01-01T12:00:00")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log. The last line may be incomplete."""

    time: int  #: nanoseconds since 1970
    text: bytes  #: including its line break, if there is one


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log was read."""

    latest: int  #: newest timestamp that was read
    window: int  #: start of the window: lines with this timestamp or a newer one are identified individually
    count: int  #: number of lines in the window that were read
    checksum: int  #: of their timestamps
    partial_bytes: int  #: bytes that were read of an incomplete last line; 0 if it was complete

    @classmethod
    def parse(cls, text: str | None) -> Position | None:
        """Parse what `str` of a position has written; None for any other text."""
        if text is None:
            return None
        try:
            latest, back, count, checksum, partial_bytes = map(int, text.split("."))
        except ValueError:
            return None
        return cls(latest, latest - back, count, checksum, partial_bytes)

    def __str__(self) -> str:
        return f"{self.latest}.{self.latest - self.window}.{self.count}.{self.checksum}.{self.partial_bytes}"

    @property
    def since(self) -> str:
        """The time to request the log from. The API accepts only whole seconds."""
        return datetime.fromtimestamp(self.window // _NANOSECONDS, UTC).isoformat().replace("+00:00", "Z")


def parse_lines(log: bytes) -> list[Line]:
    """Parse a log with timestamps. A line without a timestamp is the kubelet's own message and is left out."""
    lines: list[Line] = []
    # Not `splitlines`: the carriage return of a progress bar does not end a line.
    for raw in log.split(b"\n"):
        timestamp, space, text = raw.partition(b" ")
        time = _parse_nanoseconds(timestamp) if space else None
        if time is not None:
            lines.append(Line(time, text + b"\n"))
    if lines and not log.endswith(b"\n"):
        lines[-1] = Line(lines[-1].time, lines[-1].text[:-1])
    return lines


def _parse_nanoseconds(timestamp: bytes) -> int | None:
    """Parse 2026-01-01T12:00:00.123456789Z, or the same with +02:00 in place of Z."""
    text = timestamp.decode("ascii", "replace")
    fraction, zone = _SECONDS_CHARS, _SECONDS_CHARS
    if text[fraction : fraction + 1] == ".":
        fraction, zone = fraction + 1, fraction + 1
        while text[zone : zone + 1].isdigit():
            zone += 1
    seconds = _parse_seconds(text[:_SECONDS_CHARS], text[zone:])
    return None if seconds is None else seconds * _NANOSECONDS + int(text[fraction:zone].ljust(9, "0")[:9] or 0)


@lru_cache(maxsize=256)
def _parse_seconds(text: str, zone: str) -> int | None:
    try:
        return int(parse_time(text + zone).timestamp()) if zone else None
    except ValueError:
        return None


def unread_lines(lines: Sequence[Line], position: Position | None) -> list[Line]:
    """Return the lines after a position, including the rest of a line that was incomplete."""
    if position is None:
        return list(lines)
    window = [line for line in lines if line.time >= position.window]
    read = window[: position.count]
    if len(read) < position.count or _checksum(read) != position.checksum:
        return [line for line in window if line.time > position.latest]
    unread = window[position.count :]
    if position.partial_bytes and (rest := read[-1].text[position.partial_bytes :]):
        unread.insert(0, Line(read[-1].time, rest))
    return unread


def next_position(lines: Sequence[Line], before: Position | None) -> Position | None:
    """
    Return the position after the given lines.

    Args:
        lines: All lines that the API returned, including those that were read before.
        before: The position that they were requested with.
    """
    if not lines:
        return before
    latest = max(line.time for line in lines)
    if before is not None and latest < before.latest:
        return before
    window = [line for line in lines if line.time >= latest - _WINDOW]
    last = window[-1]
    return Position(
        latest=latest,
        window=latest - _WINDOW,
        count=len(window),
        checksum=_checksum(window),
        partial_bytes=0 if last.text.endswith(b"\n") else len(last.text),
    )


def _checksum(lines: Iterable[Line]) -> int:
    return zlib.crc32(b",".join(b"%d" % line.time for line in lines))


def newest_text(lines: Sequence[Line], limit_bytes: int) -> tuple[bytes, bool]:
    """Return the text of the newest lines up to the limit, and whether older text was left out."""
    text = b"".join(line.text for line in lines)
    if len(text) <= limit_bytes:
        return text, False
    text = text[len(text) - limit_bytes :]
    begin = text.find(b"\n") + 1  # of the first complete line, if there is one
    return text[begin:] if 0 < begin < len(text) else text, True
