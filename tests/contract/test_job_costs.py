"""The cost of what workers do every second does not depend on the number of queued and finished jobs."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from tests.contract.databases import open_database
from tests.contract.job_stores import LATER, LEASE, NOW, ended, job, sql_stores
from upshot.ports.jobs import ConcurrencyLimits, JobUpdate

HANDLER_INTERVAL = 10  # steps of SQLite's virtual machine between two calls of the progress handler


@pytest.fixture
def database(request):
    return open_database("sqlite", request)


@pytest.fixture
def count_steps(database):
    """Return a function that counts the steps SQLite needs for a call."""
    count = [0]

    def add_steps():
        count[0] += HANDLER_INTERVAL

    database.engine.dispose()  # so that all connections have the handler

    @sa.event.listens_for(database.engine, "connect")
    def _add_handler(connection, _record):
        connection.set_progress_handler(add_steps, HANDLER_INTERVAL)

    def count_steps_of(call):
        before = count[0]
        call()
        return count[0] - before

    return count_steps_of


def add_jobs(stores, name, *, waiting, finished, **changes):
    """Add queued and finished jobs to one execution."""
    stores.queue(*(job(f"job_{name}_e{number:05}", execution_id="exe_1", **changes) for number in range(finished)))
    claimed = stores.claim(queues={changes["queue"]: ConcurrencyLimits()}, max_jobs=finished)
    assert stores.jobs.record([JobUpdate(ended(job)) for job in claimed]) == frozenset()
    stores.queue(*(job(f"job_{name}_q{number:05}", execution_id="exe_1", **changes) for number in range(waiting)))


LIMITED = {"busy": ConcurrencyLimits(concurrency=2), "idle": ConcurrencyLimits()}
PERIODIC_CALLS = {
    "claim from a full queue": lambda s: s.claim(queues=LIMITED),
    "claim from another queue": lambda s: s.claim(queues={"idle": ConcurrencyLimits()}),
    "claim for another backend": lambda s: s.claim(queues=LIMITED, engine_ids={"kubernetes": "cluster-1"}),
    "claim abandoned jobs": lambda s: s.jobs.claim_abandoned(["engine-1"], worker_id="w2", now=NOW, until=LATER),
    "claim lost jobs": lambda s: s.jobs.claim_lost(seen_before=LATER, worker_id="w2", now=NOW, until=LATER),
    "cancel unneeded jobs": lambda s: s.jobs.cancel_unneeded(NOW),
    "stop requests": lambda s: s.jobs.stop_requests(["job_0", "job_1"]),
    "renew": lambda s: s.jobs.renew(["job_0", "job_1"], worker_id="w1", until=LEASE, seen_at=None),
    "record": lambda s: s.record(replace(s.jobs.find("job_0"), reason="again")),
    "expire": lambda s: s.jobs.expire("w3", NOW),
}


@pytest.mark.parametrize("call", PERIODIC_CALLS.values(), ids=PERIODIC_CALLS.keys())
def test_the_cost_does_not_grow_with_the_number_of_jobs(database, count_steps, call):
    """With thirty times as many jobs, the call needs less than twice the steps."""
    stores = sql_stores(database)
    stores.queue(job("job_0", execution_id="exe_1", queue="busy"), job("job_1", execution_id="exe_1", queue="busy"))
    stores.claim(queues=LIMITED)
    add_jobs(stores, "few", queue="busy", waiting=50, finished=50)
    call(stores)  # the first call opens a connection and reads the schema
    with_few = count_steps(lambda: call(stores))
    add_jobs(stores, "many", queue="busy", waiting=1500, finished=1500)
    with_many = count_steps(lambda: call(stores))
    assert 0 < with_many < 2 * with_few + 100


def test_the_cost_of_a_claim_depends_on_the_claimed_jobs(database, count_steps):
    """It does not depend on the length of the queue, nor on the number of jobs whose step is full."""
    stores = sql_stores(database)
    stores.queue(*(job(f"job_0_{number}", execution_id="exe_1", concurrency=1, step_id="full") for number in range(2)))
    stores.claim()
    few = count_steps(lambda: stores.claim(max_jobs=1))
    add_jobs(stores, "many", queue="default", waiting=2000, finished=10)
    many = count_steps(lambda: stores.claim(max_jobs=1))
    assert 0 < many < 10 * few + 2000
