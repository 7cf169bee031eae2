"""When the web process may conclude from silence that a run has ended."""

from datetime import timedelta

import pytest

from tests.web.conftest import API, ok_json
from upshot.web.silent_runs import SilentRuns

RUN = f"{API}/projects/demo/runs/ab12cd34"


class Process:
    """A web process that searches for silent runs every two seconds."""

    def __init__(self, registry, clock):
        self.clock, self.seconds, self.is_writable = clock, 0.0, True
        self.silent_runs = SilentRuns(registry, clock, lambda: self.is_writable, lambda: self.seconds)

    def run(self, seconds):
        """Let time pass, and return how many runs were ended."""
        ended = 0
        for _ in range(seconds // 2):
            self.seconds += 2
            self.clock.advance(2)
            ended += self.silent_runs.end()
        return ended


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def process(web, deps, clock):
    process = Process(deps.registry, clock)
    ok_json(web.put(RUN, json={"session": "s"}))
    return process


def test_a_silent_run_ends_after_a_minute(process):
    """The web process has listened for as long."""
    assert process.run(60) == 0
    assert process.run(6) == 1


def test_a_new_process_waits_a_minute(deps, process):
    """The run may have sent heartbeats while no web process was there."""
    process.clock.advance(600)
    restarted = Process(deps.registry, process.clock)
    assert restarted.run(58) == 0
    assert restarted.run(10) == 1


@pytest.mark.parametrize("jump", [3_600, -3_600])
def test_a_clock_that_jumps_ends_no_run(web, process, jump):
    """The run has a minute from then on, and its next heartbeat has the new time."""
    process.run(80)
    ok_json(web.post(f"{RUN}/heartbeat"))
    process.clock._now += timedelta(seconds=jump)
    assert process.run(50) == 0
    ok_json(web.post(f"{RUN}/heartbeat"))
    assert process.run(50) == 0


def test_a_process_that_slept_waits_a_minute(web, process):
    """No heartbeat could reach it meanwhile."""
    process.run(80)
    ok_json(web.post(f"{RUN}/heartbeat"))
    process.seconds += 300
    process.clock.advance(300)
    assert process.run(56) == 0


def test_an_outage_of_the_database_ends_no_run(process):
    """Heartbeats could not be stored meanwhile."""
    process.run(40)
    process.is_writable = False
    process.run(600)
    process.is_writable = True
    assert process.run(56) == 0
    assert process.run(10) == 1
