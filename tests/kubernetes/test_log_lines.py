"""A log that is read on adds up to the whole, however lines and reads fall."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from upshot.backends.kubernetes.logs import Line, Position, newest, parse, position_after, unread

START = 1_767_268_800 * 10**9  # 2026-01-01T12:00:00Z
SECOND = 10**9


def stamped(lines: list[tuple[int, bytes]]) -> bytes:
    """As a kubelet gives them."""
    return b"".join(stamp(at) + b" " + text for at, text in lines)


def stamp(at: int) -> bytes:
    seconds, rest = divmod(at, SECOND)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%09dZ" % rest


class File:
    """The log of a container: what is there, and how it is given from a time on."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []

    def read(self, position: str | None) -> tuple[bytes, str | None]:
        before = Position.of(position)
        since = 0 if before is None else int(datetime.fromisoformat(before.since).timestamp()) * SECOND
        lines = parse(stamped([line for line in self.lines if line[0] >= since]))
        after = position_after(lines, before)
        return newest(unread(lines, before), 10**9)[0], None if after is None else str(after)


# Steps of time between lines: none, a little backwards as of two streams, a moment, beyond a second.
STEPS = st.sampled_from([0, 0, -1, -40_000, 1, 1000, SECOND // 100, SECOND, 3 * SECOND])
EVENTS = st.lists(st.one_of(st.tuples(st.just("line"), STEPS), st.just(("read", 0)), st.just(("more", 0))), max_size=60)


@given(EVENTS)
def test_increments_add_up(events):
    """Equal times, streams that overtake each other, lines that grow while they are read: each byte comes once."""
    file, got, wanted = File(), [], b""
    position, at, number = None, START, 0
    for what, step in events:
        number += 1
        is_open = bool(file.lines) and not file.lines[-1][1].endswith(b"\n")
        if what == "read":
            data, position = file.read(position)
            got.append(data)
            continue
        if is_open:  # a runtime writes the rest of a line before it begins another
            text = b"rest %d\n" % number if what == "line" else b"more %d " % number
            file.lines[-1] = (file.lines[-1][0], file.lines[-1][1] + text)
        else:
            at += step
            text = b"line %d\n" % number if what == "line" else b"begin %d " % number
            file.lines.append((at, text))
        wanted += text
    got.append(file.read(position)[0])

    assert b"".join(got) == wanted


@given(st.lists(STEPS.filter(lambda step: step > 0), min_size=3, max_size=30), st.data())
def test_a_log_that_was_rotated(steps, data):
    """When what was read is no longer there, all that is younger comes, and nothing twice."""
    file, at = File(), START
    for number, step in enumerate(steps):
        at += step
        file.lines.append((at, b"line %d\n" % number))
    read = data.draw(st.integers(1, len(steps) - 1))
    whole, file.lines = file.lines, file.lines[:read]
    _, position = file.read(None)
    file.lines = whole[data.draw(st.integers(read, len(steps))) :]

    assert file.read(position)[0] == b"".join(text for _, text in file.lines)


def test_positions_are_short_and_come_back():
    """A position is written and read again, in fewer characters than a store keeps."""
    position = position_after([Line(START + number, b"x" * 16_384) for number in range(5000)], None)

    assert Position.of(str(position)) == position
    assert len(str(position)) < 150


def test_positions_that_are_none():
    """What another backend, or nobody, has written is no position: the log is read from its beginning."""
    assert [Position.of(text) for text in (None, "", "17", "a.b.c.d.e")] == [None] * 4


def test_times_of_all_zones():
    """Kubelets write times in the zone of their node."""
    log = b"2026-01-01T14:00:00.5+02:00 a\n2026-01-01T12:00:00.500000001Z b\n2026-01-01T12:00:01Z c\n"

    assert parse(log) == [
        Line(START + SECOND // 2, b"a\n"),
        Line(START + SECOND // 2 + 1, b"b\n"),
        Line(START + SECOND, b"c\n"),
    ]


def test_what_is_no_line():
    """Words of the kubelet's own are no part of a log; a carriage return ends no line."""
    log = b"unable to retrieve container logs\n" + stamp(START) + b" 10%\r20%\r\n" + stamp(START) + b" end"

    assert parse(log) == [Line(START, b"10%\r20%\r\n"), Line(START, b"end")]
    assert parse(b"") == []


def test_the_newest_text():
    """Whole lines where there is one, and at most so many bytes."""
    lines = [Line(START, b"one\n"), Line(START, b"two\n"), Line(START, b"three\n")]

    assert newest(lines, 100) == (b"one\ntwo\nthree\n", False)
    assert newest(lines, 12) == (b"two\nthree\n", True)
    assert newest(lines, 4) == (b"ree\n", True)
