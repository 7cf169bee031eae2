"""Reads of a growing log add up to the whole log, however lines and reads interleave."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from upshot.backends.kubernetes.logs import Line, Position, newest_text, next_position, parse_lines, unread_lines

START = 1_767_268_800 * 10**9  # 2026-01-01T12:00:00Z
SECOND = 10**9


def timestamp(time: int) -> bytes:
    """Return a time as a kubelet writes it."""
    seconds, rest = divmod(time, SECOND)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%09dZ" % rest


class FakeLog:
    """The log of a container, which can be read from a time on."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []  #: time and text

    def read(self, position: str | None) -> tuple[bytes, str | None]:
        """Read from a position on; return the text and the next position."""
        before = Position.parse(position)
        since = 0 if before is None else int(datetime.fromisoformat(before.since).timestamp()) * SECOND
        body = b"".join(timestamp(time) + b" " + text for time, text in self.lines if time >= since)
        lines = parse_lines(body)
        after = next_position(lines, before)
        return newest_text(unread_lines(lines, before), 10**9)[0], None if after is None else str(after)


# Time between two lines: none, slightly negative (of two streams), a moment, and more than a second.
STEPS = st.sampled_from([0, 0, -1, -40_000, 1, 1000, SECOND // 100, SECOND, 3 * SECOND])
ACTIONS = st.lists(
    st.one_of(st.tuples(st.just("line"), STEPS), st.just(("read", 0)), st.just(("partial", 0))), max_size=60
)


@given(ACTIONS)
def test_increments_add_up(actions):
    """Each byte is read once, despite equal timestamps, streams that overtake each other, and incomplete lines."""
    log, reads, expected = FakeLog(), [], b""
    position, time = None, START
    for number, (action, step) in enumerate(actions):
        is_open = bool(log.lines) and not log.lines[-1][1].endswith(b"\n")
        if action == "read":
            data, position = log.read(position)
            reads.append(data)
            continue
        if is_open:  # a runtime completes a line before it starts another
            text = b"rest %d\n" % number if action == "line" else b"more %d " % number
            log.lines[-1] = (log.lines[-1][0], log.lines[-1][1] + text)
        else:
            time += step
            text = b"line %d\n" % number if action == "line" else b"begin %d " % number
            log.lines.append((time, text))
        expected += text
    reads.append(log.read(position)[0])

    assert b"".join(reads) == expected


@given(st.lists(STEPS.filter(lambda step: step > 0), min_size=3, max_size=30), st.data())
def test_rotated_log(steps, data):
    """If the lines that were read have been rotated away, a read returns all newer lines once."""
    log, time = FakeLog(), START
    for number, step in enumerate(steps):
        time += step
        log.lines.append((time, b"line %d\n" % number))
    read_count = data.draw(st.integers(1, len(steps) - 1))
    all_lines, log.lines = log.lines, log.lines[:read_count]
    _, position = log.read(None)
    log.lines = all_lines[data.draw(st.integers(read_count, len(steps))) :]

    assert log.read(position)[0] == b"".join(text for _, text in log.lines)


def test_positions_are_short():
    """A position can be written and parsed, and fits into a store."""
    position = next_position([Line(START + number, b"x" * 16_384) for number in range(5000)], None)

    assert Position.parse(str(position)) == position
    assert len(str(position)) < 150


def test_invalid_positions():
    """A text that is not a position, such as another backend's, is read as the beginning of the log."""
    assert [Position.parse(text) for text in (None, "", "17", "a.b.c.d.e")] == [None] * 4


def test_time_zones():
    """Kubelets may write timestamps in the time zone of their node."""
    log = b"2026-01-01T14:00:00.5+02:00 a\n2026-01-01T12:00:00.500000001Z b\n2026-01-01T12:00:01Z c\n"

    assert parse_lines(log) == [
        Line(START + SECOND // 2, b"a\n"),
        Line(START + SECOND // 2 + 1, b"b\n"),
        Line(START + SECOND, b"c\n"),
    ]


def test_lines():
    """The kubelet's own messages are left out, and a carriage return does not end a line."""
    log = b"unable to retrieve container logs\n" + timestamp(START) + b" 10%\r20%\r\n" + timestamp(START) + b" end"

    assert parse_lines(log) == [Line(START, b"10%\r20%\r\n"), Line(START, b"end")]
    assert parse_lines(b"") == []


def test_newest_text():
    """The newest text up to the limit begins with a complete line if there is one."""
    lines = [Line(START, b"one\n"), Line(START, b"two\n"), Line(START, b"three\n")]

    assert newest_text(lines, 100) == (b"one\ntwo\nthree\n", False)
    assert newest_text(lines, 12) == (b"two\nthree\n", True)
    assert newest_text(lines, 4) == (b"ree\n", True)
