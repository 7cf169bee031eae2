"""
Reads on in a log whose engine numbers nothing: entries have a time, which several may share, and a
text; they are in order, and the oldest go when the file is full.

So the newest entries are asked for, a few at first, then more, until the one is among them that was
read last. That costs the same whatever the log's length, and no clock that is set back can hide an
entry, as it does where the engine is asked for what came since a time.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from upshot.launch.protocol import LogRead

NOTHING = "0"  #: position before the first entry

_HEADER = struct.Struct(">BxxxL")  # stream, length: https://docs.docker.com/reference/api/engine, ContainerAttach
_STDOUT, _STDERR = 1, 2
_FIRST_ENTRIES = 16
_TIMES_MORE = 8


@dataclass(frozen=True, slots=True)
class Mark:
    """The entry that was read last."""

    stream: int
    stamp: bytes  #: its time, as the engine writes it
    check: int  #: of its text
    #: How many like it in every respect were read with it: pieces of a long line share its time, and may be the same.
    same: int = 1

    @classmethod
    def at(cls, position: str | None) -> Mark | None:
        """Read a position; None for the beginning, and for what is none of ours."""
        parts = (position or "").split(" ")
        try:
            stream, stamp, check, same = parts
            return cls(int(stream), stamp.encode(), int(check, 16), int(same))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.stream} {self.stamp.decode('ascii', 'replace')} {self.check:08x} {self.same}"

    def is_like(self, other: Mark | None) -> bool:
        """They cannot be told apart."""
        return other is not None and (self.stamp, self.stream, self.check) == (other.stamp, other.stream, other.check)


@dataclass(slots=True)
class Window:
    """
    The newest entries of a log, as they come in.

    Args:
        mark: What was read last; None: nothing.
        limit_bytes: Of what is kept.
    """

    mark: Mark | None
    limit_bytes: int
    entries: int = 0
    _fresh: deque[bytes] = field(default_factory=deque)
    _fresh_bytes: int = 0
    _is_cut: bool = False  # something fresh was let go
    _found: int = 0  # entries like the mark
    _is_sure: bool = False  # the first entry like the mark is among these
    _streams: set[int] = field(default_factory=set)
    _last: Mark | None = None
    _runs: dict[int, Mark] = field(default_factory=dict)

    def take(self, stream: int, payload: bytes) -> None:
        """Take in the next entry."""
        stamp, _, text = payload.partition(b" ")
        entry = Mark(stream, stamp, zlib.crc32(text))
        before = self._runs.get(stream)
        if before is not None and entry.is_like(before):
            entry = Mark(stream, stamp, entry.check, before.same + 1)
        self._runs[stream] = self._last = entry
        self.entries += 1
        if self.mark is not None and entry.is_like(self.mark) and self._found < self.mark.same:
            if not self._found:
                self._is_sure = stream in self._streams
            self._found += 1
            self._forget()
        else:
            self._keep(text)
        self._streams.add(stream)

    def is_enough(self, asked: int) -> bool:
        """Tell whether more entries than those that were asked for would change nothing."""
        if self.entries < asked or (self._found and self._is_sure):
            return True
        return self._is_cut

    def more_than(self, asked: int) -> int:
        """How many entries to ask for next: many more, but hardly more than can be kept."""
        return max(2 * asked, min(_TIMES_MORE * asked, asked + self.limit_bytes - self._fresh_bytes + 1))

    def read(self) -> LogRead:
        """What is new."""
        if self._last is None:
            return LogRead(b"", str(self.mark or NOTHING))
        is_gone = self.mark is not None and not self._found
        return LogRead(b"".join(self._fresh), str(self._last), skipped=self._is_cut or is_gone)

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
    mark = Mark.at(position)
    asked = _FIRST_ENTRIES + (mark.same if mark else 0)
    while True:
        window = Window(mark, limit_bytes)
        async for stream, payload in _entries(newest(asked)):
            window.take(stream, payload)
        if window.is_enough(asked):
            return window.read()
        asked = window.more_than(asked)


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
