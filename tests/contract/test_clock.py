"""The clock that leases are compared with."""

from datetime import timedelta

import pytest

from tests.contract.databases import open_database
from upshot.adapters.sql.clock import DatabaseClock
from upshot.clock import FrozenClock, SystemClock


@pytest.mark.parametrize("ahead_seconds", [3600, -3600])
def test_two_machines_with_different_clocks_agree_on_postgres(request, ahead_seconds):
    """The clock of the database counts, and the difference is known."""
    database = open_database("postgresql", request)
    machine = FrozenClock(SystemClock().now() + timedelta(seconds=ahead_seconds))
    right, wrong = DatabaseClock(database), DatabaseClock(database, machine)
    assert abs((right.now() - wrong.now()).total_seconds()) < 1
    assert abs(right.skew_seconds) < 1
    assert abs(wrong.skew_seconds - ahead_seconds) < 5


def test_a_machine_whose_clock_is_set_does_not_jump_on_postgres(request):
    """The database's time runs on between two synchronizations."""
    machine = FrozenClock(SystemClock().now())
    clock = DatabaseClock(open_database("postgresql", request), machine)
    before = clock.now()
    machine.advance(3600)
    assert clock.now() - before < timedelta(seconds=60)
    clock.synchronize()
    assert clock.skew_seconds > 3000


def test_sqlite_uses_the_clock_of_its_machine(request):
    """All its processes share that clock."""
    machine = FrozenClock()
    clock = DatabaseClock(open_database("sqlite", request), machine)
    assert clock.now() == machine.now()
    assert clock.skew_seconds == 0
