"""Expired leases are taken over only if their workers could have renewed them."""

import pytest

from upshot.clock import FrozenClock
from upshot.errors import Unavailable
from upshot.worker import lease_guard
from upshot.worker.lease_guard import LeaseGuard


class Stopwatch:
    """A monotonic clock that a test advances."""

    def __init__(self, clock: FrozenClock) -> None:
        self.seconds = 1000.0
        self._clock = clock

    def __call__(self) -> float:
        return self.seconds

    def pass_time(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.seconds += seconds
        self._clock.advance(seconds)


@pytest.fixture
def clock() -> FrozenClock:
    """Return the clock that leases are compared with."""
    return FrozenClock()


@pytest.fixture
def stopwatch(clock: FrozenClock, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """Replace the monotonic clock of the guard."""
    stopwatch = Stopwatch(clock)
    monkeypatch.setattr(lease_guard, "stopwatch", stopwatch)
    return stopwatch


@pytest.fixture
def guard(clock: FrozenClock, stopwatch: Stopwatch) -> LeaseGuard:
    """Return the guard of a worker with leases of 30 s and a heartbeat every 5 s."""
    guard = LeaseGuard(clock, lease_seconds=30, heartbeat_seconds=5)
    with guard.heartbeat():
        pass
    stopwatch.pass_time(20)
    return guard


def test_a_worker_that_starts_waits_until_every_worker_has_had_time(clock, stopwatch):
    """It may start just when the database is back, and find only leases that nobody could renew."""
    guard = LeaseGuard(clock, lease_seconds=30, heartbeat_seconds=5)
    stopwatch.pass_time(60)  # the database is still down
    assert not guard.may_take_over()
    with guard.heartbeat():
        stopwatch.pass_time(0.1)
    assert not guard.may_take_over()
    stopwatch.pass_time(5)
    with guard.heartbeat():
        stopwatch.pass_time(0.1)
    assert not guard.may_take_over()
    stopwatch.pass_time(6)
    assert guard.may_take_over()


def test_a_worker_that_replaces_a_dead_one_takes_its_leases_at_once(clock, stopwatch):
    """Its supervisor has ended the other process."""
    guard = LeaseGuard(clock, lease_seconds=30, heartbeat_seconds=5, replaces_worker=True)
    assert guard.may_take_over()
    with guard.heartbeat():
        stopwatch.pass_time(0.1)
    assert guard.may_take_over()


def test_prompt_heartbeats_allow_it(guard, stopwatch):
    """A worker whose lease expires while others renew theirs is dead."""
    for _ in range(5):
        with guard.heartbeat():
            stopwatch.pass_time(0.2)
        stopwatch.pass_time(5)
        assert guard.may_take_over()


def test_a_slow_heartbeat_forbids_it_until_every_worker_has_had_time(guard, stopwatch):
    """All leases expired while the database was slow. Their workers renew them within a heartbeat."""
    with guard.heartbeat():
        stopwatch.pass_time(4)
        assert guard.may_take_over()
        stopwatch.pass_time(16)
        assert not guard.may_take_over()
    assert not guard.may_take_over()
    stopwatch.pass_time(10)
    assert not guard.may_take_over()
    stopwatch.pass_time(1.1)
    assert guard.may_take_over()


def test_a_failed_heartbeat_forbids_it(guard, stopwatch):
    """The database was down."""
    with pytest.raises(Unavailable), guard.heartbeat():
        raise Unavailable("the database is unavailable")
    assert not guard.may_take_over()
    stopwatch.pass_time(12)
    assert guard.may_take_over()


def test_a_clock_that_was_set_forbids_it(guard, clock, stopwatch):
    """All leases seem to have expired when the machine's clock is set forward."""
    assert guard.may_take_over()
    clock.advance(3600)
    assert not guard.may_take_over()
    stopwatch.pass_time(12)
    assert guard.may_take_over()
