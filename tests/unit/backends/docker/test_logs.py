"""Reads of a growing log add up to the whole log, whatever the engine writes and whenever it is read."""

import asyncio
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.backends.docker.logs import START, read_by_count, read_by_time
from upshot.backends.protocol import LogRead

BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@dataclass
class FakeEngineLog:
    """The log of a container, in the engine's stream format."""

    entries: list[tuple[int, int, bytes]] = field(default_factory=list)  #: stream, nanoseconds since BEGIN, text
    requested: list[int] = field(default_factory=list)  #: number of entries in each request
    chunk_bytes: int = 70  #: small, so that frames are split

    def write(self, stream: int, time: int, text: bytes) -> None:
        """Add an entry."""
        self.entries.append((stream, time, text))

    async def newest(self, count: int):
        """Yield the newest entries."""
        self.requested.append(count)
        async for chunk in self.since(None, self.entries[-count:]):
            yield chunk

    async def since(self, begin: int | None, entries: list[tuple[int, int, bytes]] | None = None):
        """Yield the entries after a Unix time."""
        frames = []
        for stream, time, text in self.entries if entries is None else entries:
            if begin is None or BEGIN + time // 10**9 > begin:
                seconds, rest = divmod(time, 10**9)
                payload = f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}.{rest:09}Z ".encode() + text
                frames.append(struct.pack(">BxxxL", stream, len(payload)) + payload)
        body = b"".join(frames)
        for start in range(0, len(body), self.chunk_bytes):
            yield body[start : start + self.chunk_bytes]

    def read(self, position: str | None, limit_bytes: int = 10_000) -> LogRead:
        """Read from a position on, as from Docker."""
        return asyncio.run(read_by_count(self.newest, position, limit_bytes=limit_bytes))

    def read_from_podman(self, position: str | None) -> LogRead:
        """Read from a position on, as from Podman."""
        return asyncio.run(read_by_time(self.since, position, limit_bytes=10_000))


WRITES = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),  # stream
        st.integers(0, 2),  # time since the previous entry of the stream
        st.sampled_from([b"a\n", b"b\n", b"chunk", b"another", b"\n"]),
        st.booleans(),  # whether the log is read afterwards
    ),
    max_size=60,
)


def write_and_read(writes, read, *, in_seconds: bool) -> tuple[bytes, bytes]:
    """Write all entries and read now and then. Return what was written and what was read."""
    log, chunks, position = FakeEngineLog(), [], None
    times, is_line_open = {1: 0, 2: 0}, {1: False, 2: False}
    for stream, step, text, is_read in writes:
        if in_seconds:
            times[1] = times[2] = times[stream] + step * 10**9  # one process writes both streams
        elif not is_line_open[stream]:
            times[stream] += step + 1
        is_line_open[stream] = not text.endswith(b"\n")  # the next chunk of the line has the same timestamp
        log.write(stream, times[stream], text)
        if is_read:
            result = read(log, position)
            assert not result.skipped
            chunks.append(result.data)
            position = result.position
    chunks.append(read(log, position).data)
    return b"".join(text for _, _, text in log.entries), b"".join(chunks)


@given(WRITES)
def test_increments_add_up(writes):
    """Reads at any moments add up to the whole log, even if entries are equal."""
    written, read = write_and_read(writes, FakeEngineLog.read, in_seconds=False)

    assert read == written


@given(WRITES)
def test_increments_from_podman_add_up(writes):
    """Reads from Podman, whose timestamps are whole seconds, add up to the whole log."""
    written, read = write_and_read(writes, FakeEngineLog.read_from_podman, in_seconds=True)

    assert read == written


@given(WRITES, st.integers(1, 40))
def test_limit_keeps_the_newest_text(writes, limit):
    """Text beyond the limit is dropped from the beginning and reported, and the next read returns nothing."""
    log = FakeEngineLog()
    for number, (stream, _, text, _) in enumerate(writes):
        log.write(stream, number, text)
    written = b"".join(text for _, _, text in log.entries)

    read = log.read(None, limit)

    assert len(read.data) <= limit
    assert written.endswith(read.data)
    assert read.skipped == (read.data != written)
    assert log.read(read.position, limit) == LogRead(b"", read.position)


def test_new_line_in_a_long_log():
    """A new line in a long log is found by requesting only a few entries."""
    log = FakeEngineLog()
    for number in range(10_000):
        log.write(1, number, b"line\n")
    position = log.read(None, 100).position
    log.requested.clear()
    log.write(2, 20_000, b"new\n")

    read = log.read(position)

    assert (read.data, read.skipped) == (b"new\n", False)
    assert sum(log.requested) < 100


def test_many_new_lines():
    """All new text up to the limit is read, however many entries it has."""
    log = FakeEngineLog()
    log.write(1, 1, b"first\n")
    position = log.read(None).position
    for number in range(500):
        log.write(1 + number % 2, 2 + number, b"line\n")

    assert log.read(position).data == b"line\n" * 500
    assert log.read(None).data == b"first\n" + b"line\n" * 500


@pytest.mark.parametrize("read_before", [1, 2, 30])
def test_chunks_of_a_long_line(read_before):
    """The chunks of a long line share a timestamp and may be equal, so they are counted from the first one."""
    log = FakeEngineLog()
    log.write(1, 1, b"before\n")
    for _ in range(read_before):
        log.write(1, 2, b"x" * 10)
    position = log.read(None).position
    for number in range(100):
        log.write(1, 2, b"x" * 10)
        log.write(2, 3 + number, b"between\n")

    assert log.read(position).data == (b"x" * 10 + b"between\n") * 100


def test_line_that_continues_after_others():
    """A position counts all chunks of its line, including those before the requested entries."""
    log = FakeEngineLog()
    for _ in range(50):
        log.write(1, 1, b"x" * 10)
    log.write(2, 2, b"between\n")
    position = log.read(None).position
    log.write(1, 1, b"x" * 10)

    read = log.read(position)

    assert read.data == b"x" * 10
    assert log.read(read.position) == LogRead(b"", read.position)


def test_flood_of_empty_lines():
    """A read handles at most 32 Ki entries, and reports that older ones were skipped."""
    log = FakeEngineLog(chunk_bytes=64 * 1024)
    log.entries = [(1, number, b"\n") for number in range(40_000)]

    read = log.read(None, 1_000_000)

    assert (len(read.data), read.skipped) == (32 * 1024, True)
    assert log.read(read.position, 1_000_000).data == b""


def test_clock_that_is_set_back():
    """New entries are found by their order, so a clock that is set back hides none of them."""
    log = FakeEngineLog()
    log.write(1, 5 * 10**9, b"before\n")
    position = log.read(None).position
    log.write(1, 10**9, b"after\n")
    log.write(1, 10**9 + 1, b"after\n")

    assert log.read(position).data == b"after\nafter\n"


def test_rotated_log():
    """If the entry that was read last is no longer in the log, the rest is read and the loss is reported."""
    log = FakeEngineLog()
    log.write(1, 1, b"old\n")
    position = log.read(None).position
    log.entries = []
    log.write(1, 3, b"newest\n")

    read = log.read(position)

    assert (read.data, read.skipped) == (b"newest\n", True)


@pytest.mark.parametrize(
    "position", [None, "", START, "nonsense", "1 2 3", "1 yesterday ff 1", "1 2026-01-01T00:00:00Z zz 1"]
)
def test_invalid_position(position):
    """An invalid position is read as the beginning of the log."""
    log = FakeEngineLog()
    log.write(1, 1, b"all\n")

    assert log.read(position).data == b"all\n"


def test_errors_of_the_engine():
    """The engine's own error messages, on a third stream, are not part of the log."""
    log = FakeEngineLog()
    log.write(1, 1, b"job\n")
    log.write(3, 2, b"Error grabbing logs\n")

    assert log.read(None).data == b"job\n"
