"""
Which lines of a container's log are new: pure functions over lines with their times.

The API gives the log from a time on, in whole seconds. Times alone cannot tell what was read: two
lines may share one, and as each stream is stamped before it is written, a line may come after one
that is a little younger. So a position remembers how many lines from shortly before its end on were
seen, and a check sum of their times. Where those lines are no longer at the head, for the log was
rotated meanwhile, the youngest time that was read decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from upshot.clock import parse_time

_NANOSECONDS = 10**9
_WINDOW = 50_000_000  # nanoseconds within which lines may come out of order; streams are microseconds apart
_SECONDS_CHARS = len("2026-01-01T12:00:00")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log; the last one may have no end yet."""

    at: int  #: nanoseconds since 1970
    text: bytes  #: with its line break, if it has one


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where a log was read."""

    latest: int  #: the youngest time that was read
    window: int  #: lines from this time on are told apart one by one
    count: int  #: of those, so many were read
    check: int  #: sum over their times
    of_last: int  #: bytes of the last one that were read, had it no end yet; 0: all of it

    @classmethod
    def of(cls, text: str | None) -> Position | None:
        """Read what `str` has written; None where it was not."""
        if text is None:
            return None
        try:
            latest, back, count, check, of_last = map(int, text.split("."))
        except ValueError:
            return None
        return cls(latest, latest - back, count, check, of_last)

    def __str__(self) -> str:
        return f"{self.latest}.{self.latest - self.window}.{self.count}.{self.check}.{self.of_last}"

    @property
    def since(self) -> str:
        """From when on the log must be read again, as the API takes it; it knows whole seconds only."""
        return datetime.fromtimestamp(self.window // _NANOSECONDS, UTC).isoformat().replace("+00:00", "Z")


def parse(log: bytes) -> list[Line]:
    """Read a log that was asked for with time stamps; a line without one is the kubelet's own, and left out."""
    lines: list[Line] = []
    # Not `splitlines`: a progress bar's carriage return ends no line.
    for raw in log.split(b"\n"):
        stamp, space, text = raw.partition(b" ")
        at = _nanoseconds(stamp) if space else None
        if at is not None:
            lines.append(Line(at, text + b"\n"))
    if lines and not log.endswith(b"\n"):
        lines[-1] = Line(lines[-1].at, lines[-1].text[:-1])
    return lines


def _nanoseconds(stamp: bytes) -> int | None:
    """2026-01-01T12:00:00.123456789Z, or with +02:00 in place of Z, in nanoseconds since 1970."""
    text = stamp.decode("ascii", "replace")
    fraction, zone = _SECONDS_CHARS, _SECONDS_CHARS
    if text[fraction : fraction + 1] == ".":
        fraction, zone = fraction + 1, fraction + 1
        while text[zone : zone + 1].isdigit():
            zone += 1
    seconds = _seconds(text[:_SECONDS_CHARS], text[zone:])
    return None if seconds is None else seconds * _NANOSECONDS + int(text[fraction:zone].ljust(9, "0")[:9] or 0)


@lru_cache(maxsize=256)
def _seconds(text: str, zone: str) -> int | None:
    try:
        return int(parse_time(text + zone).timestamp()) if zone else None
    except ValueError:
        return None


def unread(lines: Sequence[Line], position: Position | None) -> list[Line]:
    """Those that are new, the rest of a line that had no end yet included."""
    if position is None:
        return list(lines)
    near = [line for line in lines if line.at >= position.window]
    seen = near[: position.count]
    if len(seen) < position.count or _check(seen) != position.check:
        return [line for line in near if line.at > position.latest]
    rest = [Line(seen[-1].at, text)] if position.of_last and (text := seen[-1].text[position.of_last :]) else []
    return rest + near[position.count :]


def position_after(lines: Sequence[Line], before: Position | None) -> Position | None:
    """
    Where to go on from.

    Args:
        lines: All that the API gave, read ones included.
        before: The position that they were asked for with.
    """
    if not lines:
        return before
    latest = max(line.at for line in lines)
    if before is not None and latest < before.latest:
        return before
    near = [line for line in lines if line.at >= latest - _WINDOW]
    last = near[-1]
    return Position(
        latest=latest,
        window=latest - _WINDOW,
        count=len(near),
        check=_check(near),
        of_last=0 if last.text.endswith(b"\n") else len(last.text),
    )


def _check(lines: Iterable[Line]) -> int:
    return zlib.crc32(b",".join(b"%d" % line.at for line in lines))


def newest(lines: Sequence[Line], limit_bytes: int) -> tuple[bytes, bool]:
    """The text of the newest lines, at most so many bytes, and whether any had to be left out."""
    text = b"".join(line.text for line in lines)
    if len(text) <= limit_bytes:
        return text, False
    text = text[len(text) - limit_bytes :]
    whole = text.find(b"\n") + 1  # from the first whole line on, unless there is none
    return text[whole:] if 0 < whole < len(text) else text, True
