"""Redis is not called again and again while it fails or hangs."""

import threading

import pytest

from upshot.adapters import hold_off
from upshot.adapters.hold_off import HoldOff


@pytest.fixture
def seconds(monkeypatch):
    """Replace the monotonic clock by a list whose only item is the time."""
    now = [100.0]
    monkeypatch.setattr(hold_off, "stopwatch", lambda: now[0])
    return now


def fail():
    raise ConnectionError("no")


def ignore(_error):
    """Do nothing."""


def test_after_a_failure_one_caller_tries_at_a_time(seconds):
    """All others go on at once, until the first call succeeds."""
    guard = HoldOff((ConnectionError,), try_seconds=4)
    assert not guard.attempt(fail, ignore)
    assert not guard.attempt(lambda: None, ignore)
    seconds[0] += 0.6
    assert guard.attempt(lambda: not guard.attempt(lambda: None, ignore), ignore)
    assert guard.attempt(lambda: None, ignore)


def test_nobody_waits_behind_a_call_that_hangs(seconds):
    """The second caller goes on at once, although the first call has not failed yet."""
    guard = HoldOff((ConnectionError,), try_seconds=4)
    hangs, go_on = threading.Event(), threading.Event()

    def hang():
        hangs.set()
        assert go_on.wait(10)

    thread = threading.Thread(target=guard.attempt, args=[hang, ignore])
    thread.start()
    assert hangs.wait(10)
    seconds[0] += 1
    assert not guard.attempt(lambda: None, ignore)
    go_on.set()
    thread.join(10)
    assert guard.attempt(lambda: None, ignore)


def test_another_error_is_raised(seconds):
    """A mistake in the program is no outage."""
    guard = HoldOff((ConnectionError,), try_seconds=4)
    with pytest.raises(ZeroDivisionError):
        guard.attempt(lambda: 1 / 0, ignore)
    assert guard.attempt(lambda: None, ignore)
