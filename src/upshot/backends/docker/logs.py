"""
Reads on in a log whose engine numbers nothing: entries have a stream, a time, which several may share,
and a text; they are in order, and the oldest go when the file is full.

So the newest entries are asked for, a few at first, then more, until the one is among them that was
read last. That costs the same whatever the log's length, and no clock that is set back can hide an
entry, as it does where the engine is asked for what came since a time.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from upshot.backends.protocol import LogRead
from upshot.clock import parse_time

NOTHING = "0"  #: position before the first entry

_HEADER = struct.Struct(">BxxxL")  # stream, length: https://docs.docker.com/reference/api/engine, ContainerAttach
_STDOUT, _STDERR = 1, 2
_FIRST_ENTRIES = 16
_TIMES_MORE = 8
_MOST_ENTRIES = 32 * 1024  # a job that says nothing but ends of lines, as fast as it can, must not keep us busy


@dataclass(frozen=True, slots=True)
class LogCursor:
    """The entry that was read last."""

    stream: int
    stamp: bytes  #: its time, as the engine writes it
    check: int  #: of its text
    #: How many with the same stream, time and text were read, itself included. Docker, which counts nanoseconds,
    #: cuts a long line into pieces of one time, which may be the same; Podman 4 counts seconds.
    same: int

    @classmethod
    def at(cls, position: str | None) -> LogCursor | None:
        """Read a position; None for the beginning, and for what is none of ours."""
        try:
            stream, stamp, check, same = (position or "").split(" ")
            parse_time(stamp)
            return cls(int(stream), stamp.encode(), int(check, 16), int(same))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.stream} {self.stamp.decode('ascii', 'replace')} {self.check:08x} {self.same}"


@dataclass(slots=True)
class _TimestampGroup:
    """The newest time of a stream, and what was said in it."""

    stamp: bytes = b""
    is_whole: bool = False  #: it began among the entries that were asked for
    counts: dict[int, int] = field(default_factory=dict)  #: of entries with the same text

    def count(self, stamp: bytes, check: int) -> int:
        """Count one more entry; how many of its text there are now."""
        if stamp != self.stamp:
            self.is_whole = bool(self.stamp)
            self.stamp = stamp
            self.counts.clear()
        self.counts[check] = count = self.counts.get(check, 0) + 1
        return count


@dataclass(slots=True)
class LogTail:
    """
    The newest entries of a log, as they come in.

    Args:
        mark: What was read last; None: nothing.
        limit_bytes: Of what is kept.
    """

    mark: LogCursor | None
    limit_bytes: int
    entries: int = 0
    _fresh: deque[bytes] = field(default_factory=deque)
    _fresh_bytes: int = 0
    _is_cut: bool = False  # something fresh was let go
    _is_found: bool = False  # an entry like the mark was among them
    _is_sure: bool = False  # and the first one like it was, too
    _moments: dict[int, _TimestampGroup] = field(default_factory=lambda: defaultdict(_TimestampGroup))
    _last: tuple[int, bytes, int, int] | None = None  # as a mark has it
    _is_counted: bool = False  # all that are like the last one are among these

    def take(self, stream: int, payload: bytes) -> None:
        """Take in the next entry."""
        stamp, _, text = payload.partition(b" ")
        check = zlib.crc32(text)
        moment = self._moments[stream]
        same = moment.count(stamp, check)
        # Of the pieces of one time and line, one alone ends the line; others are counted from the first on.
        self._is_counted = moment.is_whole or text.endswith(b"\n")
        self._last = (stream, stamp, check, same)
        self.entries += 1
        mark = self.mark
        if mark is None or stamp != mark.stamp or (stream, check) != (mark.stream, mark.check) or same > mark.same:
            self._keep(text)
        else:
            self._is_found, self._is_sure = True, self._is_counted
            self._forget()

    def is_enough(self, asked: int) -> bool:
        """Tell whether more entries than those that were asked for would change nothing."""
        if self.entries < asked or asked >= _MOST_ENTRIES:
            return True
        return self._is_counted and (self._is_cut or (self._is_found and self._is_sure))

    def more_than(self, asked: int) -> int:
        """How many entries to ask for next: many more, but hardly more than can be kept."""
        more = max(2 * asked, min(_TIMES_MORE * asked, asked + self.limit_bytes - self._fresh_bytes + 1))
        return min(more, _MOST_ENTRIES)

    def read(self, *, is_whole: bool) -> LogRead:
        """
        What is new.

        Args:
            is_whole: These are all entries that the engine has.
        """
        if self._last is None:
            return LogRead(b"", str(self.mark or NOTHING))
        is_gone = not (is_whole if self.mark is None else self._is_found)
        return LogRead(b"".join(self._fresh), str(LogCursor(*self._last)), skipped=self._is_cut or is_gone)

    def _keep(self, text: bytes) -> None:
        self._fresh.append(text)
        self._fresh_bytes += len(text)
        while self._fresh_bytes > self.limit_bytes:
            self._is_cut = True
            oldest = self._fresh.popleft()
            self._fresh_bytes -= len(oldest)
            if not self._fresh:  # one entry alone is longer than the limit
                self._fresh.append(oldest[-self.limit_bytes :])
                self._fresh_bytes = len(self._fresh[0])

    def _forget(self) -> None:
        self._fresh.clear()
        self._fresh_bytes, self._is_cut = 0, False


async def read_on(newest: Callable[[int], AsyncIterator[bytes]], position: str | None, *, limit_bytes: int) -> LogRead:
    """
    Read what was said since.

    Args:
        newest: Gives so many of the newest entries, as the engine sends them.
        position: Of an earlier read.
        limit_bytes: At most so much; the newest.
    """
    mark = LogCursor.at(position)
    asked = _FIRST_ENTRIES + (mark.same if mark else 0)
    while True:
        window = LogTail(mark, limit_bytes)
        async for stream, payload in _entries(newest(asked)):
            window.take(stream, payload)
        if window.is_enough(asked):
            return window.read(is_whole=window.entries < asked)
        asked = window.more_than(asked)


async def read_since(
    since: Callable[[int | None], AsyncIterator[bytes]], position: str | None, *, limit_bytes: int
) -> LogRead:
    """
    Read what was said since, from an engine whose newest entries cannot be trusted: Podman's are not in order.

    Args:
        since: Gives the entries since a Unix time, or all, as the engine sends them.
        position: Of an earlier read.
        limit_bytes: At most so much; the newest.
    """
    window = LogTail(LogCursor.at(position), limit_bytes)
    # Its times are of seconds, and those at the very time are not given.
    begin = None if window.mark is None else int(parse_time(window.mark.stamp.decode()).timestamp()) - 1
    async for stream, payload in _entries(since(begin)):
        window.take(stream, payload)
    return window.read(is_whole=True)


async def _entries(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    rest = b""
    async for piece in pieces:
        data = rest + piece
        end = 0
        for stream, begin, end in _frames(data):
            if stream in (_STDOUT, _STDERR):  # a third one is the engine's own complaints
                yield stream, data[begin:end]
        rest = data[end:]


def _frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Stream, begin and end of each whole frame."""
    at = 0
    while at + _HEADER.size <= len(data):
        stream, length = _HEADER.unpack_from(data, at)
        begin = at + _HEADER.size
        if begin + length > len(data):
            return
        at = begin + length
        yield stream, begin, at
