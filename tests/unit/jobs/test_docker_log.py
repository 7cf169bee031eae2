"""Reading on in an engine's log: whatever the engine writes, and whenever it is asked, nothing is lost or doubled."""

import asyncio
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.backends.docker.logs import NOTHING, read_on, read_since
from upshot.backends.protocol import LogRead

BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@dataclass
class EngineLog:
    """Entries of an engine, as it gives the newest of them."""

    entries: list[tuple[int, int, bytes]] = field(default_factory=list)  #: stream, time, text
    asked: list[int] = field(default_factory=list)
    piece: int = 70  #: bytes that arrive at once, so that frames are cut

    def say(self, stream: int, time: int, text: bytes) -> None:
        self.entries.append((stream, time, text))

    async def newest(self, most: int):
        self.asked.append(most)
        async for piece in self.since(None, self.entries[-most:]):
            yield piece

    async def since(self, begin: int | None, entries: list[tuple[int, int, bytes]] | None = None):
        frames = []
        for stream, time, text in self.entries if entries is None else entries:
            if begin is None or BEGIN + time // 10**9 > begin:
                seconds, rest = divmod(time, 10**9)
                payload = f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}.{rest:09}Z ".encode() + text
                frames.append(struct.pack(">BxxxL", stream, len(payload)) + payload)
        sent = b"".join(frames)
        for at in range(0, len(sent), self.piece):
            yield sent[at : at + self.piece]

    def read(self, position: str | None, limit_bytes: int = 10_000) -> LogRead:
        return asyncio.run(read_on(self.newest, position, limit_bytes=limit_bytes))


SAID = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.integers(0, 2),  # how far its time goes on
        st.sampled_from([b"a\n", b"b\n", b"piece", b"another", b"\n"]),
        st.booleans(),  # whether somebody reads after it
    ),
    max_size=60,
)


def play(said, read, *, in_seconds: bool) -> tuple[bytes, bytes]:
    """Say it all and read now and then; what was said, and what was read."""
    log, pieces, position = EngineLog(), [], None
    times, is_begun = {1: 0, 2: 0}, {1: False, 2: False}
    for stream, later, text, is_read in said:
        if in_seconds:
            times[1] = times[2] = times[stream] + later * 10**9  # one process writes both
        elif not is_begun[stream]:
            times[stream] += later + 1
        is_begun[stream] = not text.endswith(b"\n")  # what follows is of the same line, and has its time
        log.say(stream, times[stream], text)
        if is_read:
            one = read(log, position)
            assert not one.skipped
            pieces.append(one.data)
            position = one.position
    pieces.append(read(log, position).data)
    return b"".join(text for _, _, text in log.entries), b"".join(pieces)


@given(SAID)
def test_increments_add_up_to_the_log(said):
    """Read at any moments, the pieces are the whole log, whatever is the same in it."""
    whole, read = play(said, lambda log, position: log.read(position), in_seconds=False)

    assert read == whole


@given(SAID)
def test_increments_add_up_where_the_engine_is_asked_by_time(said):
    """The same for an engine that counts seconds, and whose newest entries cannot be had in order."""

    def read(log: EngineLog, position: str | None) -> LogRead:
        return asyncio.run(read_since(log.since, position, limit_bytes=10_000))

    whole, pieces = play(said, read, in_seconds=True)

    assert pieces == whole


@given(SAID, st.integers(1, 40))
def test_a_limit_keeps_the_newest(said, limit):
    """What does not fit is left out at the beginning, that is told, and reading goes on after the newest."""
    log = EngineLog()
    for number, (stream, _, text, _) in enumerate(said):
        log.say(stream, number, text)
    whole = b"".join(text for _, _, text in log.entries)

    read = log.read(None, limit)

    assert len(read.data) <= limit
    assert whole.endswith(read.data)
    assert read.skipped == (read.data != whole)
    assert log.read(read.position, limit) == LogRead(b"", read.position)


def test_what_is_new_is_found_without_reading_everything():
    """In a long log that grew by a line, a few entries are asked for."""
    log = EngineLog()
    for number in range(10_000):
        log.say(1, number, b"line\n")
    position = log.read(None, 100).position
    log.asked.clear()
    log.say(2, 20_000, b"new\n")

    read = log.read(position)

    assert (read.data, read.skipped) == (b"new\n", False)
    assert sum(log.asked) < 100


def test_everything_that_is_new_is_found():
    """However much was said since, it is read as long as it fits."""
    log = EngineLog()
    log.say(1, 1, b"first\n")
    position = log.read(None).position
    for number in range(500):
        log.say(1 + number % 2, 2 + number, b"line\n")

    assert log.read(position).data == b"line\n" * 500
    assert log.read(None).data == b"first\n" + b"line\n" * 500


@pytest.mark.parametrize("read_before", [1, 2, 30])
def test_the_pieces_of_a_long_line(read_before):
    """They share their time and may be the same, so they are counted back to the line's first one."""
    log = EngineLog()
    log.say(1, 1, b"before\n")
    for _ in range(read_before):
        log.say(1, 2, b"x" * 10)
    position = log.read(None).position
    for number in range(100):
        log.say(1, 2, b"x" * 10)
        log.say(2, 3 + number, b"between\n")

    assert log.read(position).data == (b"x" * 10 + b"between\n") * 100


def test_a_line_that_goes_on_after_others():
    """A position counts all pieces of its line, also those that came before what was asked for."""
    log = EngineLog()
    for _ in range(50):
        log.say(1, 1, b"x" * 10)
    log.say(2, 2, b"between\n")
    position = log.read(None).position
    log.say(1, 1, b"x" * 10)

    read = log.read(position)

    assert read.data == b"x" * 10
    assert log.read(read.position) == LogRead(b"", read.position)


def test_a_flood_of_empty_lines():
    """What says as little as possible as often as possible costs no more than a limit of entries, and that is told."""
    log = EngineLog(piece=64 * 1024)
    log.entries = [(1, number, b"\n") for number in range(40_000)]

    read = log.read(None, 1_000_000)

    assert (len(read.data), read.skipped) == (32 * 1024, True)
    assert log.read(read.position, 1_000_000).data == b""


def test_a_clock_that_is_set_back_hides_nothing():
    """Entries are known by their order; their times may be what they like."""
    log = EngineLog()
    log.say(1, 5 * 10**9, b"before\n")
    position = log.read(None).position
    log.say(1, 10**9, b"after\n")
    log.say(1, 10**9 + 1, b"after\n")

    assert log.read(position).data == b"after\nafter\n"


def test_a_log_that_was_rotated_away_meanwhile():
    """What is left is read, and it is told that something is missing."""
    log = EngineLog()
    log.say(1, 1, b"old\n")
    position = log.read(None).position
    log.entries = []
    log.say(1, 3, b"newest\n")

    read = log.read(position)

    assert (read.data, read.skipped) == (b"newest\n", True)


@pytest.mark.parametrize(
    "position", [None, "", NOTHING, "nonsense", "1 2 3", "1 yesterday ff 1", "1 2026-01-01T00:00:00Z zz 1"]
)
def test_a_position_that_is_none(position):
    """Everything is read."""
    log = EngineLog()
    log.say(1, 1, b"all\n")

    assert log.read(position).data == b"all\n"


def test_the_engines_own_complaints_are_no_part_of_the_log():
    """What an engine says on a third stream was not said by the job."""
    log = EngineLog()
    log.say(1, 1, b"job\n")
    log.say(3, 2, b"Error grabbing logs\n")

    assert log.read(None).data == b"job\n"
