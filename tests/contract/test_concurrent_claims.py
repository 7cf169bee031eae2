"""Many workers at the same jobs, on SQLite and on PostgreSQL: no limit is exceeded, nothing is done twice or lost."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.databases import KINDS, open_database
from tests.contract.job_stores import LATER, NOW, SECOND, ended, held, ids, job, sql_stores
from tests.contract.job_workers import breaches, is_left, limited_offer
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
    """Jobs of three queues and four steps, each of which has a limit of its own but for one; every fifth is urgent."""
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


def at_once(work, count=8):
    """Run the work for 0, 1, 2, … in as many threads."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_processes_and_threads_work_the_queues_dry(database, stores):
    """Under every limit at every moment; each job runs as often as it asks for, and wakes its execution."""
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
    assert Counter(one.state for one in done) == {JobState.SUCCEEDED: 120}
    assert all(one.fence == one.attempt == 1 + one.priority for one in done)
    assert all(stores.execution(one.execution_id).due_at == NOW + SECOND for one in done)


def test_workers_that_claim_at_the_same_time_share_what_fits(database, stores):
    """Together they take as much as one alone would, and not one job more; again and again."""
    stores.queue(*mixed_jobs(60))

    def claim(number):
        mine = limited_offer(f"w{number}", MACHINES[number % 3])
        return stores.jobs.claim_queued(mine, now=NOW, until=LATER)

    while is_left(stores.jobs):
        claimed = [one for claims in at_once(claim) for one in claims]
        assert claimed
        assert len(set(ids(claimed))) == len(claimed)
        assert breaches(database) == []
        assert [claim(number) for number in range(3)] == [(), (), ()]
        assert stores.jobs.record([JobUpdate(ended(one)) for one in claimed]) == frozenset()


def test_an_abandoned_job_is_taken_over_by_one(stores):
    """Of many that reach its engine, and whoever else takes it for lost."""
    stores.queue(*(job(f"job_{number}") for number in range(20)))
    stores.claim()

    def take(number):
        lease = {"worker_id": f"w{number}", "now": LATER, "until": LATER + SECOND}
        if number % 2:
            return stores.jobs.claim_lost(seen_before=LATER, **lease)
        return stores.jobs.claim_abandoned(["engine-1"], **lease)

    taken = [one for claim in at_once(take) for one in claim]
    assert sorted(ids(taken)) == sorted(f"job_{number}" for number in range(20))
    assert all(stores.jobs.find(one.id) == one for one in taken)


def test_the_end_of_a_job_and_the_beginning_of_the_wait_for_it_do_not_miss_each_other(stores):
    """Whichever is written first: the execution is due."""
    rounds = 20
    stores.queue(*(job(f"job_{number}") for number in range(rounds)))
    for claimed in stores.claim():
        name = claimed.execution_id
        busy = {"state": ExecutionState.RUNNING, "lease_owner_id": "w1", "lease_until": LATER}
        stores.executions.amend(name, lambda one, busy=busy: replace(one, **busy))
        waits = replace(held(job(claimed.id)), fence=2)

        def work(turn, claimed=claimed, waits=waits):
            if turn:
                return stores.jobs.record([JobUpdate(ended(claimed), wakes=True)])
            return stores.executions.record([ExecutionUpdate(waits)])

        assert at_once(work, count=2) == [frozenset(), frozenset()]
        assert stores.execution(name).due_at == NOW + SECOND


def test_whatever_people_and_workers_do_at_once_each_job_ends_once(stores):
    """Claims, ends, wishes to stop and the ends of executions, in no order; nobody waits for ever."""
    stores.queue(*(job(f"job_{number:02}") for number in range(40)))

    def claim_and_end(owner):
        while claimed := stores.claim(owner=owner, max_jobs=3):
            stores.jobs.record([JobUpdate(ended(one), wakes=True) for one in claimed])

    def stop(number):
        try:
            stores.jobs.request_stop(f"job_{number:02}", "ann", NOW)
        except Conflict:
            return

    def end_execution(number):
        end = {"state": ExecutionState.CANCELLED, "finished_at": NOW, "due_at": None}
        stores.executions.amend(f"exe_{number:02}", lambda one: replace(one, **end))

    def work(turn):
        if turn < 3:
            claim_and_end(f"w{turn}")
            return
        for number in range(turn, 40, 4):
            stop(number)
            end_execution(number - 1)
            stores.jobs.cancel_unneeded(NOW)

    at_once(work, count=6)
    stores.jobs.cancel_unneeded(NOW)
    done = stores.jobs.page(JobQuery(), cursor=None, limit=100).items
    assert {one.state for one in done} <= {JobState.SUCCEEDED, JobState.CANCELLED}
    for one in done:
        execution = stores.execution(one.execution_id)
        assert execution.state.is_final or execution.due_at is not None


def test_an_installation_is_made_by_one_of_many(database):
    """The others find it, whatever they would have made."""
    stores = SqlInstallation(database)
    found = at_once(lambda number: stores.get_or_create(lambda: Installation(new_id("ins", NOW), bytes([number] * 32))))
    assert len(set(found)) == 1
    assert SqlInstallation(database).get_or_create(lambda: found[0]) == found[0]


def test_a_log_is_written_from_several_sides(stores):
    """Two workers that both take the job for theirs, for a moment: numbers stay unique, and the cap holds."""
    stores.queue(job())

    def write(number):
        for piece in range(20):
            text = f"{number}.{piece:02}\n"
            stores.jobs.append_log("job_1", text, position=text, now=NOW, keep_bytes=100)

    at_once(write, count=4)
    pieces = stores.jobs.log_chunks("job_1", after=0, limit=100)
    assert [one.number for one in pieces] == list(range(61, 81))
