"""Contract of the stores of workers, and of the backlog."""

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.contract.databases import KINDS, open_database
from tests.contract.job_stores import NOW, SECOND, ended, execution, job, sql_stores
from tests.waiting import until
from upshot.adapters.memory.workers import MemoryWorkers
from upshot.adapters.sql.workers import SlowCount, SqlBacklog, SqlWorkers
from upshot.domain.execution import ExecutionState
from upshot.domain.job import JobState
from upshot.ids import EventId
from upshot.ports.executions import Admission
from upshot.ports.workers import Backlog, Totals, WaitKind, WorkerRecord


@pytest.fixture(params=["memory", *KINDS])
def workers(request):
    return MemoryWorkers() if request.param == "memory" else SqlWorkers(open_database(request.param, request))


def worker(name="w1", **changes) -> WorkerRecord:
    record = WorkerRecord(
        id=name,
        host="here",
        pid=7,
        started_at=NOW,
        seen_at=NOW,
        in_progress=4,
        stream_read_at=None,
        automations=2,
        machine="gpu-1",
        queues=("gpu", "default"),
        engines={"docker": "engine-1"},
        secrets=("GITHUB_TOKEN",),
    )
    return replace(record, **changes)


def test_a_live_worker_is_listed_as_of_its_last_heartbeat(workers):
    """Every field is stored. The oldest worker comes first; workers that are silent or have stopped are left out."""
    workers.heartbeat(worker("w1", started_at=NOW + SECOND))
    workers.heartbeat(worker("w2"))
    workers.heartbeat(worker("silent", seen_at=NOW - SECOND))
    workers.heartbeat(worker("stopped"))
    workers.deregister("stopped")
    updated = worker("w2", in_progress=0, stream_read_at=NOW, queues=(), engines={}, secrets=None)
    workers.heartbeat(updated)
    assert workers.list(seen_since=NOW) == (updated, worker("w1", started_at=NOW + SECOND))


@pytest.fixture(params=KINDS)
def database(request):
    return open_database(request.param, request)


def test_the_backlog_counts_everything_unfinished(database):
    """Every state has a count, even 0. Queues are listed only if a job waits in them."""
    no_jobs = {state.value: 0 for state in JobState}
    backlog = SqlBacklog(database)
    no_executions = {state.value: 0 for state in ExecutionState}
    assert backlog.measure(NOW) == Backlog(0, None, 0, None)
    empty = Totals(0, no_executions, no_jobs, {}, dict.fromkeys(WaitKind, 0))
    until(lambda: backlog.count() == empty)

    stores = sql_stores(database)
    stores.queue(job("job_1"), job("job_2"), job("job_3", queue="gpu"), job("job_4", queue="gpu"), job("job_5"))
    first, _ = stores.claim(max_jobs=2)
    stores.record(ended(first), wakes_execution=True)
    stores.executions.admit([Admission(EventId("evt_1"), (execution("exe_9"),))], NOW)
    stores.accept("evt_2")

    found = backlog.measure(NOW + timedelta(seconds=2))
    assert (found.unmatched_events, found.oldest_unmatched_at) == (1, NOW)
    assert (found.due_executions, found.oldest_due_at) == (1, NOW + SECOND)
    totals = backlog.count()
    if totals.events != 2:  # the first count took long, so this one is not repeated at once
        totals = until(lambda: now if (now := SqlBacklog(database).count()).events is not None else None)
    assert totals.events == 2
    assert totals.executions == no_executions | {"waiting": 5, "running": 1}
    assert totals.jobs == no_jobs | {"queued": 3, "starting": 1, "succeeded": 1}
    assert totals.queued_jobs == {"gpu": 2, "default": 1}


def test_waiting_executions_are_counted_by_what_they_wait_for(database):
    """Time, room of a destination or an automation, a disabled automation, or a job."""
    stores = sql_stores(database)
    stores.queue(job("job_1"))
    waits: dict[str, dict[str, Any]] = {
        "exe_2": {"due_at": NOW},
        "exe_3": {"due_at": NOW},
        "exe_4": {"waits_for": "https://a.example"},
        "exe_5": {"waits_for": "automation:promote"},
        "exe_6": {"waits_for": "automation:zzz"},
        "exe_7": {"waits_for": "automation"},
        "exe_8": {"waits_for": "disabled:promote"},
    }
    for name, changes in waits.items():
        waiting = execution(name, state=ExecutionState.WAITING, automation=name, **changes)
        stores.executions.admit([Admission(EventId("evt_1"), (waiting,))], NOW)

    assert SqlBacklog(database).count().waiting == {
        WaitKind.TIME: 2,
        WaitKind.DESTINATION: 2,
        WaitKind.AUTOMATION: 2,
        WaitKind.DISABLED: 1,
        WaitKind.JOB: 1,
    }


def test_a_slow_count_does_not_keep_its_callers_waiting():
    """A caller gets the previous result of a count that takes long, and nothing during the first count."""
    may_finish = threading.Event()
    results = iter((1, 2))

    def count():
        assert may_finish.wait(30)
        return next(results)

    slow = SlowCount(count)
    assert slow.latest() is None
    may_finish.set()
    until(lambda: slow.latest() == 1)
    assert slow.latest() == 1  # not repeated at once, because it was slow


def test_a_fast_count_is_current():
    """A result that arrives within milliseconds is never an old one."""
    results = iter(range(100))
    slow = SlowCount(lambda: next(results))
    assert [slow.latest() for _ in range(3)] == [0, 1, 2]
