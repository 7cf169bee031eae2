"""Many workers claim the same jobs, on SQLite and PostgreSQL: no limit is exceeded, no job is lost or repeated."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.databases import KINDS, open_database
from tests.contract.job_stores import LATER, NOW, SECOND, ended, ids, job, sql_stores, waiting_execution
from tests.contract.job_workers import exceeded_limits, has_queued_jobs, limited_capacity
from upshot.adapters.sql.installation import SqlInstallation
from upshot.domain.execution import ExecutionState
from upshot.domain.job import JobState
from upshot.errors import Conflict
from upshot.ids import new_id
from upshot.ports.executions import ExecutionUpdate
from upshot.ports.jobs import Installation, JobQuery, JobUpdate

MACHINES = ("m1", "m2", "m3")


@pytest.fixture(params=KINDS)
def database(request):
    return open_database(request.param, request)


@pytest.fixture
def stores(database):
    return sql_stores(database)


def mixed_jobs(count):
    """Return jobs of three queues and four steps. Three of the steps have limits, and every fifth job a priority."""
    limits = {"one": 1, "two": 2, "three": 3, "any": None}
    steps = list(limits)
    return [
        job(
            f"job_{number:03}",
            queue="abc"[number % 3],
            step_id=steps[number % 4],
            concurrency=limits[steps[number % 4]],
            priority=int(number % 5 == 0),
        )
        for number in range(count)
    ]


def in_threads(work, count=8):
    """Call the work with 0, 1, 2, … in as many threads at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_processes_and_threads_empty_the_queues(database, stores):
    """All limits hold at every moment. Each job has its attempts, and wakes its execution."""
    stores.queue(*mixed_jobs(120))
    program = [sys.executable, "-m", "tests.contract.job_workers", database.url.render_as_string(hide_password=False)]
    workers = [
        subprocess.Popen(
            [*program, f"w-{machine}-", machine], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True
        )
        for machine in MACHINES
    ]
    errors = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(MACHINES), "\n".join(errors)

    done = stores.jobs.page(JobQuery(), cursor=None, limit=200).items
    assert Counter(item.state for item in done) == {JobState.SUCCEEDED: 120}
    assert all(item.fence == item.attempt == 1 + item.priority for item in done)
    assert all(stores.execution(item.execution_id).due_at == NOW + SECOND for item in done)


def test_concurrent_claims_share_the_free_slots(database, stores):
    """Together, the workers claim as many jobs as one worker would, in every round."""
    stores.queue(*mixed_jobs(60))

    def claim(number):
        capacity = limited_capacity(f"w{number}", MACHINES[number % 3])
        return stores.jobs.claim_queued(capacity, now=NOW, until=LATER)

    while has_queued_jobs(stores.jobs):
        claimed = [item for claims in in_threads(claim) for item in claims]
        assert claimed
        assert len(set(ids(claimed))) == len(claimed)
        assert exceeded_limits(database) == []
        assert [claim(number) for number in range(3)] == [(), (), ()]
        assert stores.jobs.record([JobUpdate(ended(item)) for item in claimed]) == frozenset()


def test_an_abandoned_job_is_adopted_by_one_worker(stores):
    """Many workers reach its engine, and others consider the job lost."""
    stores.queue(*(job(f"job_{number}") for number in range(20)))
    stores.claim()

    def adopt(number):
        lease = {"worker_id": f"w{number}", "now": LATER, "until": LATER + SECOND}
        if number % 2:
            return stores.jobs.claim_lost(seen_before=LATER, **lease)
        return stores.jobs.claim_abandoned(["engine-1"], **lease)

    adopted = [item for claims in in_threads(adopt) for item in claims]
    assert sorted(ids(adopted)) == sorted(f"job_{number}" for number in range(20))
    assert all(stores.jobs.find(item.id) == item for item in adopted)


def test_an_execution_does_not_miss_the_end_of_its_job(stores):
    """The job ends while the execution starts to wait. Whichever is written first, the execution is due."""
    rounds = 20
    stores.queue(*(job(f"job_{number}") for number in range(rounds)))
    for claimed in stores.claim():
        execution_id = claimed.execution_id
        running = {"state": ExecutionState.RUNNING, "lease_owner_id": "w1", "lease_until": LATER}
        stores.executions.amend(execution_id, lambda execution, running=running: replace(execution, **running))
        waiting = waiting_execution(job(claimed.id), fence=2)

        def work(number, claimed=claimed, waiting=waiting):
            if number:
                return stores.jobs.record([JobUpdate(ended(claimed), wakes_execution=True)])
            return stores.executions.record([ExecutionUpdate(waiting)])

        assert in_threads(work, count=2) == [frozenset(), frozenset()]
        assert stores.execution(execution_id).due_at == NOW + SECOND


def test_concurrent_workers_and_users_end_each_job_once(stores):
    """Claims, ends, stop requests and cancelled executions come in any order, and no execution waits forever."""
    stores.queue(*(job(f"job_{number:02}") for number in range(40)))

    def claim_and_end(worker_id):
        while claimed := stores.claim(worker_id=worker_id, max_jobs=3):
            stores.jobs.record([JobUpdate(ended(item), wakes_execution=True) for item in claimed])

    def request_stop(number):
        try:
            stores.jobs.request_stop(f"job_{number:02}", "ann", NOW)
        except Conflict:
            return

    def cancel_execution(number):
        cancelled = {"state": ExecutionState.CANCELLED, "finished_at": NOW, "due_at": None}
        stores.executions.amend(f"exe_{number:02}", lambda execution: replace(execution, **cancelled))

    def work(thread):
        if thread < 3:
            claim_and_end(f"w{thread}")
            return
        for number in range(thread, 40, 4):
            request_stop(number)
            cancel_execution(number - 1)
            stores.jobs.cancel_unneeded(NOW)

    in_threads(work, count=6)
    stores.jobs.cancel_unneeded(NOW)
    done = stores.jobs.page(JobQuery(), cursor=None, limit=100).items
    assert {item.state for item in done} <= {JobState.SUCCEEDED, JobState.CANCELLED}
    for item in done:
        execution = stores.execution(item.execution_id)
        assert execution.state.is_final or execution.due_at is not None


def test_concurrent_callers_get_the_same_installation(database):
    """One of them creates it."""
    stores = SqlInstallation(database)

    def get_or_create(number):
        return stores.get_or_create(lambda: Installation(new_id("ins", NOW), bytes([number] * 32)))

    found = in_threads(get_or_create)
    assert len(set(found)) == 1
    assert SqlInstallation(database).get_or_create(lambda: found[0]) == found[0]


def test_concurrent_writers_share_a_log(stores):
    """If two workers supervise a job for a moment, the numbers of chunks stay unique and the size limit holds."""
    stores.queue(job())

    def write(number):
        for chunk in range(20):
            text = f"{number}.{chunk:02}\n"
            stores.jobs.append_log("job_1", text, position=text, now=NOW, keep_bytes=100)

    in_threads(write, count=4)
    chunks = stores.jobs.log_chunks("job_1", after=0, limit=100)
    assert [chunk.number for chunk in chunks] == list(range(61, 81))
