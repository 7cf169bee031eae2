"""What workers ask every second costs the same however many jobs wait, and however many have been."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from tests.contract.databases import open_database
from tests.contract.job_stores import LATER, LEASE, NOW, ended, job, sql_stores
from upshot.ports.jobs import ConcurrencyLimits, JobUpdate

STEPS_AT_ONCE = 10  # of SQLite's virtual machine, between two calls of its progress handler


@pytest.fixture
def database(request):
    return open_database("sqlite", request)


@pytest.fixture
def steps(database):
    """Tells how many steps SQLite takes for something."""
    taken = [0]

    def note():
        taken[0] += STEPS_AT_ONCE

    database.engine.dispose()  # the next connections shall all count

    @sa.event.listens_for(database.engine, "connect")
    def _count(connection, _record):
        connection.set_progress_handler(note, STEPS_AT_ONCE)

    def of(work):
        before = taken[0]
        work()
        return taken[0] - before

    return of


def more_jobs(stores, name, *, waiting, finished, **changes):
    """Queue so many more jobs, and end others, all of one execution."""
    stores.queue(*(job(f"job_{name}_e{number:05}", execution_id="exe_1", **changes) for number in range(finished)))
    claimed = stores.claim(queues={changes["queue"]: ConcurrencyLimits()}, max_jobs=finished)
    assert stores.jobs.record([JobUpdate(ended(one)) for one in claimed]) == frozenset()
    stores.queue(*(job(f"job_{name}_q{number:05}", execution_id="exe_1", **changes) for number in range(waiting)))


LIMITED = {"busy": ConcurrencyLimits(concurrency=2), "idle": ConcurrencyLimits()}
ASKED_EVERY_SECOND = {
    "claim from a full queue": lambda s: s.claim(queues=LIMITED),
    "claim from another queue": lambda s: s.claim(queues={"idle": ConcurrencyLimits()}),
    "claim for another backend": lambda s: s.claim(queues=LIMITED, engines={"kubernetes": "cluster-1"}),
    "claim abandoned jobs": lambda s: s.jobs.claim_abandoned(["engine-1"], worker_id="w2", now=NOW, until=LATER),
    "claim lost jobs": lambda s: s.jobs.claim_lost(seen_before=LATER, worker_id="w2", now=NOW, until=LATER),
    "drop idle jobs": lambda s: s.jobs.cancel_unneeded(NOW),
    "who asked to stop": lambda s: s.jobs.stop_requests(["job_0", "job_1"]),
    "renew": lambda s: s.jobs.renew(["job_0", "job_1"], worker_id="w1", until=LEASE, seen_at=None),
    "record": lambda s: s.record(replace(s.jobs.find("job_0"), reason="again")),
    "expire": lambda s: s.jobs.expire("w3", NOW),
}


@pytest.mark.parametrize("ask", ASKED_EVERY_SECOND.values(), ids=ASKED_EVERY_SECOND.keys())
def test_its_cost_does_not_grow(database, steps, ask):
    """With thirty times as many jobs, less than twice the steps."""
    stores = sql_stores(database)
    stores.queue(job("job_0", execution_id="exe_1", queue="busy"), job("job_1", execution_id="exe_1", queue="busy"))
    stores.claim(queues=LIMITED)
    more_jobs(stores, "few", queue="busy", waiting=50, finished=50)
    ask(stores)  # what is done once: a connection, its schema
    with_few = steps(lambda: ask(stores))
    more_jobs(stores, "many", queue="busy", waiting=1500, finished=1500)
    with_many = steps(lambda: ask(stores))
    assert 0 < with_many < 2 * with_few + 100


def test_the_cost_of_a_claim_grows_with_what_is_taken_alone(database, steps):
    """From a line of thousands, among which whole steps are full."""
    stores = sql_stores(database)
    stores.queue(*(job(f"job_0_{number}", execution_id="exe_1", concurrency=1, step_id="full") for number in range(2)))
    stores.claim()
    few = steps(lambda: stores.claim(max_jobs=1))
    more_jobs(stores, "many", queue="default", waiting=2000, finished=10)
    many = steps(lambda: stores.claim(max_jobs=1))
    assert 0 < many < 10 * few + 2000
