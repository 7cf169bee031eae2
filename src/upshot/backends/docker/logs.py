"""
Continue reading a container's log where the last read stopped.

An engine does not number the entries of a log. An entry has a stream, a timestamp (which several entries may share)
and a text. The entries are in order, and the oldest are dropped when the file is full.

So a read requests the newest entries, a few at first and then more, until the entry that was read last is among them.
The cost does not depend on the length of the log. A clock that is set back cannot hide an entry, as it can if the
engine is asked for the entries since a given time.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from upshot.backends.protocol import LogRead
from upshot.clock import parse_time

START = "0"  #: position before the first entry

_HEADER = struct.Struct(">BxxxL")  # stream, length: https://docs.docker.com/reference/api/engine, ContainerAttach
_STDOUT, _STDERR = 1, 2
_FIRST_COUNT = 16
_GROWTH = 8
_MAX_COUNT = 32 * 1024  # bounds the work for a job that writes nothing but line breaks as fast as it can


@dataclass(frozen=True, slots=True)
class LogCursor:
    """The entry that was read last."""

    stream: int
    timestamp: bytes  #: as the engine writes it
    checksum: int  #: of the text
    #: How many entries with this stream, timestamp and text were read, this one included. Docker counts nanoseconds,
    #: but cuts a long line into chunks with one timestamp, and they may have the same text. Podman 4 counts seconds.
    occurrence: int

    @classmethod
    def parse(cls, position: str | None) -> LogCursor | None:
        """Parse a position; None for the beginning, and for a text that `str` of a cursor did not write."""
        try:
            stream, timestamp, checksum, occurrence = (position or "").split(" ")
            parse_time(timestamp)
            return cls(int(stream), timestamp.encode(), int(checksum, 16), int(occurrence))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.stream} {self.timestamp.decode('ascii', 'replace')} {self.checksum:08x} {self.occurrence}"


@dataclass(slots=True)
class _TimestampGroup:
    """The entries of one stream that share its newest timestamp."""

    timestamp: bytes = b""
    is_complete: bool = False  #: its first entry is among the entries that were requested
    counts: dict[int, int] = field(default_factory=dict)  #: number of entries by the checksum of their text

    def add(self, timestamp: bytes, checksum: int) -> int:
        """Add the next entry of the stream, and return how many entries of the group have its text."""
        if timestamp != self.timestamp:
            self.is_complete = bool(self.timestamp)
            self.timestamp = timestamp
            self.counts.clear()
        self.counts[checksum] = count = self.counts.get(checksum, 0) + 1
        return count


@dataclass(slots=True)
class LogTail:
    """
    The newest entries of a log, added in order.

    Args:
        cursor: The entry that was read last; None: nothing was read.
        limit_bytes: Maximum size of the text that is kept.
    """

    cursor: LogCursor | None
    limit_bytes: int
    entry_count: int = 0
    _new: deque[bytes] = field(default_factory=deque)  # texts after the cursor
    _new_bytes: int = 0
    _is_truncated: bool = False  # new text was dropped because of the limit
    _is_cursor_found: bool = False  # an entry that equals the cursor was added
    _is_cursor_certain: bool = False  # all entries before it that equal it were added, too
    _groups: dict[int, _TimestampGroup] = field(default_factory=lambda: defaultdict(_TimestampGroup))  # by stream
    _last: tuple[int, bytes, int, int] | None = None  # the fields of a cursor
    _is_last_certain: bool = False  # all entries before the last one that equal it were added, too

    def add(self, stream: int, payload: bytes) -> None:
        """Add the next entry."""
        timestamp, _, text = payload.partition(b" ")
        group = self._groups[stream]
        checksum = zlib.crc32(text)
        occurrence = group.add(timestamp, checksum)
        # Of the chunks of one line, only the last one ends with a line break, so no other can equal it. Other entries
        # are certain if their group is complete.
        is_certain = group.is_complete or text.endswith(b"\n")
        self._last, self._is_last_certain = (stream, timestamp, checksum, occurrence), is_certain
        self.entry_count += 1
        cursor = self.cursor
        if (
            cursor is not None
            and (stream, timestamp, checksum) == (cursor.stream, cursor.timestamp, cursor.checksum)
            and occurrence <= cursor.occurrence
        ):
            # Everything up to here was read before.
            self._is_cursor_found, self._is_cursor_certain = True, is_certain
            self._new.clear()
            self._new_bytes, self._is_truncated = 0, False
            return
        self._new.append(text)
        self._new_bytes += len(text)
        while self._new_bytes > self.limit_bytes:
            self._is_truncated = True
            oldest = self._new.popleft()
            self._new_bytes -= len(oldest)
            if not self._new:  # a single entry exceeds the limit
                self._new.append(oldest[-self.limit_bytes :])
                self._new_bytes = len(self._new[0])

    def is_sufficient(self, requested: int) -> bool:
        """Return whether requesting more entries than `requested` would not change the result."""
        if self.entry_count < requested or requested >= _MAX_COUNT:
            return True
        return self._is_last_certain and (self._is_truncated or (self._is_cursor_found and self._is_cursor_certain))

    def next_count(self, requested: int) -> int:
        """Return how many entries to request next: many more, but hardly more than can be kept."""
        count = max(2 * requested, min(_GROWTH * requested, requested + self.limit_bytes - self._new_bytes + 1))
        return min(count, _MAX_COUNT)

    def result(self, *, is_complete: bool) -> LogRead:
        """
        Return the new text and the position after it.

        Args:
            is_complete: All entries of the log were added.
        """
        if self._last is None:
            return LogRead(b"", str(self.cursor or START))
        is_lost = not (is_complete if self.cursor is None else self._is_cursor_found)
        return LogRead(b"".join(self._new), str(LogCursor(*self._last)), skipped=self._is_truncated or is_lost)


async def read_by_count(
    newest: Callable[[int], AsyncIterator[bytes]], position: str | None, *, limit_bytes: int
) -> LogRead:
    """
    Read the log from a position on.

    Args:
        newest: Requests this many of the newest entries, and yields them in the engine's stream format.
        position: Position that an earlier read returned.
        limit_bytes: Maximum size of the data. If there is more, the newest is returned.
    """
    cursor = LogCursor.parse(position)
    requested = _FIRST_COUNT + (cursor.occurrence if cursor else 0)
    while True:
        tail = LogTail(cursor, limit_bytes)
        async for stream, payload in _entries(newest(requested)):
            tail.add(stream, payload)
        if tail.is_sufficient(requested):
            return tail.result(is_complete=tail.entry_count < requested)
        requested = tail.next_count(requested)


async def read_by_time(
    since: Callable[[int | None], AsyncIterator[bytes]], position: str | None, *, limit_bytes: int
) -> LogRead:
    """
    Read the log of Podman from a position on. Podman does not return its newest entries in order.

    Args:
        since: Requests all entries, or those after a Unix time, and yields them in the engine's stream format.
        position: Position that an earlier read returned.
        limit_bytes: Maximum size of the data. If there is more, the newest is returned.
    """
    tail = LogTail(LogCursor.parse(position), limit_bytes)
    # Podman's timestamps are whole seconds, and it leaves out the entries of the requested second itself.
    begin = None if tail.cursor is None else int(parse_time(tail.cursor.timestamp.decode()).timestamp()) - 1
    async for stream, payload in _entries(since(begin)):
        tail.add(stream, payload)
    return tail.result(is_complete=True)


async def _entries(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Yield stream and payload of each frame in the engine's stream format."""
    data = b""
    async for chunk in chunks:
        data += chunk
        start = 0
        while start + _HEADER.size <= len(data):
            stream, length = _HEADER.unpack_from(data, start)
            begin = start + _HEADER.size
            if begin + length > len(data):
                break
            start = begin + length
            if stream in (_STDOUT, _STDERR):  # the third stream contains the engine's own error messages
                yield stream, data[begin:start]
        data = data[start:]
