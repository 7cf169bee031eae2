"""The contract of job stores, in memory, on SQLite and on PostgreSQL."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.contract.databases import KINDS, open_database
from tests.contract.job_stores import (
    LATER,
    LEASE,
    NOW,
    SECOND,
    ended,
    event,
    execution,
    ids,
    job,
    memory_stores,
    sql_stores,
    waiting_execution,
)
from upshot.domain.execution import ExecutionState
from upshot.domain.job import (
    FailureKind,
    ImagePullCredentials,
    JobRetryPolicy,
    JobSpec,
    JobState,
    MemoryGrowth,
    Mount,
    Network,
    Pull,
)
from upshot.errors import Conflict, InvalidInput, NotFound
from upshot.ids import EventId, WorkerId
from upshot.ports.executions import Admission, ExecutionUpdate
from upshot.ports.jobs import (
    END_OF_EXECUTION,
    ConcurrencyLimits,
    Installation,
    JobQuery,
    JobUpdate,
    LogChunk,
    QueuePosition,
)


@pytest.fixture(params=["memory", *KINDS])
def stores(request):
    """Return stores in which one event is accepted: `evt_1`."""
    return memory_stores() if request.param == "memory" else sql_stores(open_database(request.param, request))


# --- new jobs -------------------------------------------------------------------------------------


COMPLETE = job(
    spec=JobSpec(
        image="acme/evaluate:1",
        command=("python", "eval.py"),
        args=(),
        env={"A": "ü"},
        secret_files={"key.pem": "secret"},
        workdir="/work",
        cpus=1.5,
        memory_bytes=2**33,
        gpus=-1,
        shm_bytes=2**20,
        pids=10,
        timeout_seconds=12.5,
        grace_seconds=0.5,
        network=Network.NONE,
        user="1000:1000",
        read_only=True,
        privileged=True,
        mounts=(Mount("/data", "/mnt"), Mount("volume", "/out", read_only=False)),
        pull=Pull.NEVER,
        registry_auth=ImagePullCredentials("me", "mark"),
        labels={"team": "ml"},
        kubernetes={"node": {"selector": [1, None, True, 2.5]}},
    ),
    priority=-7,
    concurrency=3,
    retry=JobRetryPolicy(5, 2.0, 60.0, MemoryGrowth(1.5, 2**34)),
    save_metrics=True,
    version_reference="model/churn:v3",
    secrets=("KEY", "TOKEN"),
    nonce="Nx0",
    reason="why",
)


@pytest.mark.parametrize("queued", [job(), COMPLETE], ids=["defaults", "everything"])
def test_a_job_is_stored_with_its_execution(stores, queued):
    """Every field is read as it was written."""
    stores.queue(queued)
    assert stores.jobs.find("job_1") == queued
    assert stores.jobs.get(["job_1", "job_none"]) == {"job_1": queued}
    assert stores.execution().state is ExecutionState.WAITING
    assert stores.jobs.find("job_none") is None


def test_the_results_of_an_attempt_are_stored(stores):
    """Every field that the worker writes is read as it was written."""
    stores.queue(job())
    (claimed,) = stores.claim()
    after = ended(
        claimed,
        JobState.FAILED,
        failure=FailureKind.EXITED,
        reason="exit code 3",
        attempt=2,
        machine="m2",
        engine_id="engine-2",
        handle="abc",
        image_digest="sha256:1",
        started_at=NOW,
        exit_code=3,
        outputs={"accuracy": 0.93, "nested": {"list": [1, None, "ü"]}},
        log_tail="line\n" * 3,
        spec=replace(claimed.spec, memory_bytes=2**30),
    )
    assert stores.record(after)
    assert stores.jobs.find("job_1") == after


def test_a_worker_that_lost_an_execution_cannot_add_a_job_to_it(stores):
    """The worker that has the execution adds its own job."""
    stores.executions.admit([Admission(EventId("evt_1"), (execution(),))], NOW)
    late = replace(waiting_execution(job()), fence=7)
    assert stores.executions.record([ExecutionUpdate(late, jobs=(job(),))]) == {"exe_1"}
    assert stores.jobs.find("job_1") is None


def test_storing_a_job_again_changes_nothing(stores):
    """If a worker dies after the commit, the step is repeated and launches the same job."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.executions.record([ExecutionUpdate(waiting_execution(job()), jobs=(job(priority=5),))])
    assert stores.jobs.find("job_1") == claimed


def test_an_execution_that_starts_to_wait_for_an_ended_job_is_due(stores):
    """Its worker read the job before the end and writes after the end, so nothing would wake the execution later."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.executions.amend("exe_1", lambda execution: replace(execution, state=ExecutionState.RUNNING))
    assert stores.record(ended(claimed), wakes_execution=True)
    assert stores.execution().state is ExecutionState.RUNNING
    assert stores.executions.record([ExecutionUpdate(replace(waiting_execution(job()), fence=2))]) == frozenset()
    assert stores.execution().due_at == NOW + SECOND


# --- claims ---------------------------------------------------------------------------------------


def test_a_claim_leases_queued_jobs(stores):
    """The job has the worker, its machine, and the engine of the job's backend."""
    queued = job(reason="attempt 1 of 3 ended")
    stores.queue(queued)
    (claimed,) = stores.claim()
    assert claimed == replace(
        queued,
        state=JobState.STARTING,
        reason=None,
        due_at=None,
        machine="m1",
        engine_id="engine-1",
        lease_owner_id=WorkerId("w1"),
        lease_until=LEASE,
        seen_at=NOW,
        fence=1,
    )
    assert stores.jobs.find("job_1") == claimed
    assert stores.claim(worker_id="w2") == ()


def test_higher_priorities_are_claimed_first(stores):
    """Jobs with the same priority are claimed by age. The order holds over all queues of the worker."""
    stores.queue(
        job("job_1"),
        job("job_2", priority=5, queue="gpu"),
        job("job_3", priority=-1),
        job("job_4", priority=5),
        job("job_5", queue="gpu"),
    )
    queues = {"default": ConcurrencyLimits(), "gpu": ConcurrencyLimits()}
    assert ids(stores.claim(queues=queues, max_jobs=3)) == ["job_2", "job_4", "job_1"]
    assert ids(stores.claim(queues=queues)) == ["job_5", "job_3"]


def test_extreme_priorities_are_accepted(stores):
    """They are sorted like any other number."""
    stores.queue(job("job_1", priority=-(10**30)), job("job_2", priority=10**30), job("job_3"))
    assert ids(stores.claim()) == ["job_2", "job_3", "job_1"]
    assert stores.jobs.find("job_3").priority == 0


def test_a_job_that_is_not_due_is_not_claimed(stores):
    """A job waits before its next attempt. A job without a due time is due."""
    stores.queue(job("job_1", due_at=NOW + SECOND), job("job_2", due_at=None))
    assert ids(stores.claim()) == ["job_2"]
    assert ids(stores.claim(now=NOW + SECOND)) == ["job_1"]


def test_a_worker_claims_only_jobs_that_it_can_run(stores):
    """It must take the queue, and reach the engine of the backend."""
    stores.queue(job("job_1", queue="gpu"), job("job_2", backend="kubernetes"), job("job_3"))
    assert stores.claim(queues={}) == ()
    assert stores.claim(engine_ids={}) == ()
    assert ids(stores.claim()) == ["job_3"]
    (claimed,) = stores.claim(engine_ids={"kubernetes": "cluster-1", "docker": "engine-1"})
    assert (claimed.id, claimed.engine_id) == ("job_2", "cluster-1")


@pytest.mark.parametrize(
    ("limits", "on_m1", "on_m2"),
    [
        pytest.param({"queues": {"default": ConcurrencyLimits(concurrency=3)}}, 3, 0, id="queue"),
        pytest.param({"queues": {"default": ConcurrencyLimits(per_machine=2)}}, 2, 2, id="queue on a machine"),
        pytest.param({"queues": {"default": ConcurrencyLimits(concurrency=3, per_machine=2)}}, 2, 1, id="both"),
        pytest.param({"queues": {"default": ConcurrencyLimits(concurrency=0)}}, 0, 0, id="nothing"),
        pytest.param({"machine_limit": 2}, 2, 2, id="machine"),
        pytest.param({"max_jobs": 4}, 4, 2, id="jobs in one claim"),
        pytest.param({}, 6, 0, id="none"),
    ],
)
def test_limits_are_respected(stores, limits, on_m1, on_m2):
    """All active jobs count, whichever worker has them."""
    stores.queue(*(job(f"job_{number}") for number in range(6)))
    assert len(stores.claim(**limits)) == on_m1
    if "max_jobs" not in limits:
        assert stores.claim(worker_id="w3", **limits) == ()
    assert len(stores.claim(worker_id="w2", machine="m2", **limits)) == on_m2


def test_the_limit_of_a_machine_counts_all_queues(stores):
    """Queues that the worker does not take count too."""
    stores.queue(job("job_1", queue="gpu"), job("job_2"), job("job_3"))
    assert len(stores.claim(queues={"gpu": ConcurrencyLimits()})) == 1
    assert ids(stores.claim(worker_id="w2", machine_limit=2)) == ["job_2"]


def test_the_limit_of_a_step_applies_over_all_machines(stores):
    """Jobs of other steps and automations do not count, and a job without a limit is claimed."""
    stores.queue(
        *(job(f"job_{number}", concurrency=2) for number in range(1, 5)),
        job("job_5", concurrency=2, step_id="other"),
        job("job_6", concurrency=2, automation="other"),
        job("job_7"),
    )
    assert ids(stores.claim(max_jobs=1)) == ["job_1"]
    assert ids(stores.claim(machine="m2")) == ["job_2", "job_5", "job_6", "job_7"]
    assert stores.claim() == ()
    assert stores.record(ended(stores.jobs.find("job_1")))
    assert stores.claim() == ()  # job_2 and job_7 are active
    assert stores.record(ended(stores.jobs.find("job_7")))
    assert ids(stores.claim()) == ["job_3"]


def test_a_full_step_does_not_block_the_jobs_behind_it(stores):
    """This holds for any number of jobs of the full step."""
    many = [job(f"job_{number:04}", concurrency=1, priority=1) for number in range(300)]
    few = [job(f"job_9{number:03}", step_id="other", concurrency=2) for number in range(3)]
    stores.queue(*many, *few)
    assert ids(stores.claim()) == ["job_0000", "job_9000", "job_9001"]
    assert stores.claim() == ()


def test_a_slot_is_free_when_a_job_ends_or_waits_for_its_next_attempt(stores):
    """It is not free while the job is being stopped."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    limits = {"queues": {"default": ConcurrencyLimits(concurrency=1)}}
    (first,) = stores.claim(**limits)
    for state in (JobState.RUNNING, JobState.STOPPING):
        assert stores.record(replace(first, state=state))
        assert stores.claim(**limits) == ()
    assert stores.record(replace(first, state=JobState.QUEUED, due_at=LATER, lease_owner_id=None, lease_until=None))
    (second,) = stores.claim(**limits)
    assert second.id == "job_2"
    assert stores.record(ended(second))
    assert ids(stores.claim(**limits)) == ["job_3"]


# --- states ---------------------------------------------------------------------------------------


def test_the_end_of_a_job_wakes_its_execution(stores):
    """The state and the event are written in the same transaction."""
    stores.queue(job())
    (claimed,) = stores.claim()
    assert stores.record(ended(claimed), event("evt_end"), wakes_execution=True)
    assert set(stores.events.get(["evt_end"])) == {"evt_end"}
    assert stores.execution().due_at == NOW + SECOND
    (due,) = stores.executions.take_due(now=NOW + SECOND, notified_before=NOW, limit=9)
    assert due.execution_id == "exe_1"
    (claim,) = stores.executions.claim(["exe_1"], worker_id="w2", now=NOW + SECOND, until=LATER)
    assert claim.execution.steps[0].job_id == "job_1"


def test_only_an_execution_that_waits_without_a_due_time_is_woken(stores):
    """An execution does not change if it is running, waits for a retry, or has ended."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    busy = {"state": ExecutionState.RUNNING, "lease_owner_id": "w9", "lease_until": LATER}
    stores.executions.amend("exe_1", lambda execution: replace(execution, **busy))
    stores.executions.amend("exe_2", lambda execution: replace(execution, due_at=LATER))
    stores.executions.amend(
        "exe_3", lambda execution: replace(execution, state=ExecutionState.CANCELLED, finished_at=NOW)
    )
    before = [stores.execution(f"exe_{number}") for number in (1, 2, 3)]
    stores.jobs.cancel_unneeded(NOW)  # the job of the cancelled execution
    stores.jobs.record([JobUpdate(ended(claimed), wakes_execution=True) for claimed in stores.claim()])
    assert [stores.execution(f"exe_{number}") for number in (1, 2, 3)] == before


def test_a_write_with_an_old_fence_is_refused(stores):
    """A worker that lost its lease writes no state, publishes no event and wakes no execution."""
    stores.queue(job())
    (first,) = stores.claim()
    (second,) = stores.jobs.claim_abandoned(["engine-1"], worker_id="w2", now=LATER, until=LATER + SECOND)
    assert not stores.record(ended(first), event("evt_end"), wakes_execution=True)
    assert stores.jobs.find("job_1") == second
    assert stores.events.get(["evt_end"]) == {}
    assert stores.execution().due_at is None


def test_a_refused_update_does_not_affect_the_others(stores):
    """An update of a job that does not exist is refused."""
    stores.queue(job("job_1"), job("job_2"))
    first, second = stores.claim()
    refused = stores.jobs.record(
        [
            JobUpdate(ended(second), (event("evt_2"),), wakes_execution=True),
            JobUpdate(replace(ended(first), fence=7), (event("evt_1x"),), wakes_execution=True),
            JobUpdate(job("job_none"), (event("evt_none"),)),
        ]
    )
    assert refused == {"job_1", "job_none"}
    assert stores.jobs.find("job_2").state is JobState.SUCCEEDED
    assert set(stores.events.get(["evt_1x", "evt_2", "evt_none"])) == {"evt_2"}
    assert (stores.execution("exe_1").due_at, stores.execution("exe_2").due_at) == (None, NOW + SECOND)
    assert stores.jobs.record([]) == frozenset()


def test_writing_a_state_does_not_change_the_lease(stores):
    """The worker's record of the lease is outdated, because the lease has been renewed since the claim."""
    stores.queue(job())
    (claimed,) = stores.claim()
    assert stores.jobs.renew(["job_1"], worker_id="w1", until=LATER, seen_at=NOW + SECOND) == {"job_1"}
    assert stores.record(replace(claimed, state=JobState.RUNNING, started_at=NOW))
    found = stores.jobs.find("job_1")
    assert (found.lease_owner_id, found.lease_until, found.seen_at) == ("w1", LATER, NOW + SECOND)


def test_a_job_returns_to_its_queue_for_the_next_attempt(stores):
    """It is claimed again with a higher fence."""
    stores.queue(job())
    (claimed,) = stores.claim()
    again = replace(claimed, state=JobState.QUEUED, attempt=2, due_at=LATER, machine=None, engine_id=None)
    assert stores.record(again)
    waiting = stores.jobs.find("job_1")
    assert (waiting.lease_owner_id, waiting.lease_until, waiting.state) == (None, None, JobState.QUEUED)
    assert stores.execution().due_at is None
    (second,) = stores.claim(now=LATER, worker_id="w2")
    assert (second.attempt, second.fence) == (2, 2)
    assert not stores.record(again)


UNSTORABLE = {
    "nul": "a\x00b",
    "half": "\ud83d",
    "pair": "\ud83d\ude00",
    "key\x00\udfff": 1,
    "large": 2**64,
    "small": -(2**63) - 1,
    "huge": 10**400,
    "nan": float("nan"),
    "inf": [float("-inf"), (1, 2)],
    "edge": [2**64 - 1, -(2**63)],
}
REPLACED = {
    "nul": "a\ufffdb",
    "half": "\ufffd",
    "pair": "\U0001f600",
    "key\ufffd\ufffd": 1,
    "large": str(2**64),
    "small": str(-(2**63) - 1),
    "huge": str(10**400),
    "nan": None,
    "inf": [None, [1, 2]],
    "edge": [2**64 - 1, -(2**63)],
}


def test_values_that_a_database_refuses_are_replaced(stores):
    """Texts and outputs can contain anything, and the end of a job is recorded all the same."""
    text = "a\x00b\ud800c"
    stores.queue(job(spec=JobSpec(env={"A": text}, kubernetes=UNSTORABLE)))
    (claimed,) = stores.claim()
    after = ended(claimed, JobState.FAILED, reason=text, log_tail=text, handle=text, outputs=UNSTORABLE, machine=text)
    assert stores.record(after, event("evt_end", outputs=UNSTORABLE, reason=text), wakes_execution=True)
    found = stores.jobs.find("job_1")
    replaced = "a\ufffdb\ufffdc"
    assert (found.reason, found.log_tail, found.handle, found.machine) == (replaced,) * 4
    assert (found.spec.env, found.spec.kubernetes, found.outputs) == ({"A": replaced}, REPLACED, REPLACED)
    assert stores.events.get(["evt_end"])["evt_end"].data == {"outputs": REPLACED, "reason": replaced}


# --- leases ---------------------------------------------------------------------------------------


def test_a_worker_renews_its_leases_of_active_jobs(stores):
    """The result contains the jobs that it still has. `seen_at` changes only if the engine was reached."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    first, second, _ = stores.claim()
    stores.record(ended(first))
    stores.record(replace(second, state=JobState.RUNNING))
    asked = ["job_1", "job_2", "job_3", "job_none"]
    assert stores.jobs.renew(asked, worker_id="w2", until=LATER, seen_at=None) == frozenset()
    assert stores.jobs.renew(asked, worker_id="w1", until=LATER, seen_at=None) == {"job_2", "job_3"}
    assert stores.jobs.renew([], worker_id="w1", until=LATER, seen_at=None) == frozenset()
    found = stores.jobs.find("job_2")
    assert (found.lease_until, found.seen_at) == (LATER, NOW)
    assert stores.jobs.renew(["job_2"], worker_id="w1", until=LATER, seen_at=LATER) == {"job_2"}
    assert stores.jobs.find("job_2").seen_at == LATER


def test_an_abandoned_job_is_claimed_by_a_worker_that_reaches_its_engine(stores):
    """It is claimed once, and its state and engine stay."""
    stores.queue(job())
    (claimed,) = stores.claim()
    running = replace(claimed, state=JobState.RUNNING, started_at=NOW)
    stores.record(running)

    def claim(*engine_ids, now=LATER):
        return stores.jobs.claim_abandoned(engine_ids, worker_id="w2", now=now, until=now + SECOND)

    assert claim("engine-1", now=LEASE) == ()
    assert claim() == claim("engine-2") == ()
    assert claim("engine-2", "engine-1") == (
        replace(running, lease_owner_id="w2", lease_until=LATER + SECOND, fence=2),
    )
    assert claim("engine-1") == ()
    assert not stores.record(ended(running))


def test_ended_and_queued_jobs_are_neither_abandoned_nor_lost(stores):
    """They have no lease."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    stores.record(ended(stores.claim(max_jobs=1)[0]))
    (second,) = stores.claim(max_jobs=1)
    stores.record(replace(second, state=JobState.QUEUED, due_at=LATER))
    assert stores.jobs.claim_abandoned(["engine-1"], worker_id="w2", now=LATER, until=LATER + SECOND) == ()
    assert stores.jobs.claim_lost(seen_before=LATER, worker_id="w2", now=LATER, until=LATER + SECOND) == ()


def test_a_lost_job_is_claimed_by_any_worker(stores):
    """Its lease has run out, and no worker has reached its engine for a long time."""
    stores.queue(job("job_1"), job("job_2"))
    stores.claim()
    stores.jobs.renew(["job_2"], worker_id="w1", until=LEASE, seen_at=LEASE)

    def claim(now=LATER, seen_before=LEASE):
        return stores.jobs.claim_lost(seen_before=seen_before, worker_id="w2", now=now, until=now + SECOND)

    assert claim(now=LEASE) == ()
    assert claim(seen_before=NOW) == ()
    (lost,) = claim()
    assert (lost.id, lost.lease_owner_id, lost.fence, lost.engine_id) == ("job_1", "w2", 2, "engine-1")
    assert claim() == ()


def test_the_leases_of_a_dead_worker_are_ended(stores):
    """Its jobs can be claimed at once."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    stores.claim(max_jobs=1)
    (second,) = stores.claim(max_jobs=1)
    stores.record(ended(second))
    stores.claim(worker_id="w2")
    assert stores.jobs.expire("w1", NOW + SECOND) == 1
    assert stores.jobs.expire("w1", NOW + SECOND) == 0
    taken = stores.jobs.claim_abandoned(["engine-1"], worker_id="w3", now=NOW + 2 * SECOND, until=LATER)
    assert ids(taken) == ["job_1"]


# --- stop requests --------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(stores):
    """Its execution is woken, and a write that is still under way cannot queue the job again."""
    stores.queue(job())
    stopped = stores.jobs.request_stop("job_1", "ann", LATER)
    assert stopped == stores.jobs.find("job_1")
    assert (stopped.state, stopped.failure, stopped.reason) == (
        JobState.CANCELLED,
        FailureKind.CANCELLED,
        "cancelled by ann",
    )
    assert (stopped.finished_at, stopped.due_at, stopped.stop_requested_by) == (LATER, None, "ann")
    assert stores.execution().due_at == LATER
    assert stores.claim(now=LATER) == ()
    assert not stores.record(job())


def test_an_active_job_is_stopped_by_its_worker(stores):
    """The first request is stored, and stays when the worker writes the state."""
    stores.queue(job())
    (claimed,) = stores.claim()
    asked = stores.jobs.request_stop("job_1", "ann", LATER)
    assert asked == replace(claimed, stop_requested_at=LATER, stop_requested_by="ann")
    assert stores.jobs.request_stop("job_1", "bob", LATER + SECOND) == asked
    assert stores.execution().due_at is None
    assert stores.jobs.stop_requests(["job_1", "job_none"]) == {"job_1": "ann"}

    assert stores.record(replace(claimed, state=JobState.STOPPING, failure=FailureKind.CANCELLED))
    found = stores.jobs.find("job_1")
    assert (found.state, found.stop_requested_at, found.stop_requested_by) == (JobState.STOPPING, LATER, "ann")
    assert stores.jobs.cancel_unneeded(LATER) == 0
    assert stores.record(ended(found, JobState.CANCELLED))
    assert stores.jobs.stop_requests(["job_1"]) == {}


def test_a_job_that_cannot_be_stopped_is_an_error(stores):
    """The job has ended, or it does not exist."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.record(ended(claimed))
    before = stores.jobs.find("job_1")
    with pytest.raises(Conflict, match="job job_1 is succeeded and cannot be stopped"):
        stores.jobs.request_stop("job_1", "ann", LATER)
    with pytest.raises(NotFound, match="there is no job 'job_none'; see `upshot jobs list`"):
        stores.jobs.request_stop("job_none", "ann", LATER)
    assert stores.jobs.find("job_1") == before


def test_a_job_with_a_stop_request_is_not_attempted_again(stores):
    """The request came while the job ran, and its engine was lost before the job could be stopped."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.jobs.request_stop("job_1", "a\x00nn", NOW)
    assert stores.record(replace(claimed, state=JobState.QUEUED, due_at=NOW, attempt=2))
    assert stores.claim() == ()
    assert stores.jobs.cancel_unneeded(LATER) == 1
    cancelled = stores.jobs.find("job_1")
    assert (cancelled.state, cancelled.reason, cancelled.finished_at) == (
        JobState.CANCELLED,
        "cancelled by a\ufffdnn",
        LATER,
    )
    assert stores.execution().due_at == LATER
    assert stores.jobs.cancel_unneeded(LATER) == 0


def cancel_execution(stores):
    stores.executions.amend(
        "exe_1", lambda execution: replace(execution, state=ExecutionState.CANCELLED, finished_at=LATER, due_at=None)
    )


def fail_execution(stores):
    failed = waiting_execution(job(), state=ExecutionState.FAILED, finished_at=LATER)
    assert stores.executions.record([ExecutionUpdate(failed)]) == frozenset()


@pytest.mark.parametrize("end", [cancel_execution, fail_execution])
def test_the_end_of_an_execution_stops_its_jobs(stores, end):
    """No step waits for their outputs any more. The jobs of other executions run on."""
    stores.queue(job("job_1"), job("job_1b", execution_id="exe_1"), job("job_2"))
    (active,) = stores.claim(max_jobs=1)
    end(stores)
    assert stores.claim(max_jobs=1)[0].id == "job_2"
    assert stores.jobs.stop_requests(["job_1", "job_2"]) == {"job_1": END_OF_EXECUTION}
    assert stores.record(replace(active, state=JobState.RUNNING))
    before = stores.execution()
    assert stores.jobs.cancel_unneeded(LATER) == 1
    cancelled = stores.jobs.find("job_1b")
    assert (cancelled.state, cancelled.reason) == (JobState.CANCELLED, f"cancelled by {END_OF_EXECUTION}")
    assert stores.execution() == before


def test_the_first_stop_request_is_kept(stores):
    """A later end of the execution does not replace it."""
    stores.queue(job())
    stores.claim()
    stores.jobs.request_stop("job_1", "ann", NOW)
    cancel_execution(stores)
    assert stores.jobs.stop_requests(["job_1"]) == {"job_1": "ann"}
    assert stores.jobs.find("job_1").stop_requested_at == NOW


def test_retrying_an_execution_does_not_revive_its_old_jobs(stores):
    """The retry launches new jobs, and the old ones stop."""
    stores.queue(job())
    stores.claim()
    cancel_execution(stores)
    waiting = {"state": ExecutionState.WAITING, "finished_at": None, "due_at": LATER}
    stores.executions.amend("exe_1", lambda execution: replace(execution, **waiting))
    assert stores.jobs.stop_requests(["job_1"]) == {"job_1": END_OF_EXECUTION}


# --- lists ----------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_in_pages(stores):
    """The pages contain every job once, without outputs and log tails, which can be large."""
    stores.queue(*(job(f"job_{number}") for number in range(5)))
    for claimed in stores.claim():
        stores.record(ended(claimed, outputs={"a": 1}, log_tail="text"))
    first = stores.jobs.page(JobQuery(), cursor=None, limit=2)
    second = stores.jobs.page(JobQuery(), cursor=first.next, limit=2)
    third = stores.jobs.page(JobQuery(), cursor=second.next, limit=2)
    found = [item for page in (first, second, third) for item in page.items]
    assert ids(found) == [f"job_{number}" for number in (4, 3, 2, 1, 0)]
    assert third.next is None
    assert found[0] == replace(stores.jobs.find("job_4"), outputs=None, log_tail="")
    with pytest.raises(InvalidInput, match="cursor"):
        stores.jobs.page(JobQuery(), cursor="%%%", limit=2)


def test_jobs_can_be_filtered(stores):
    """The filters work alone and together."""
    stores.queue(job("job_1"), job("job_2", queue="gpu"), job("job_3", automation="tell"), job("job_4"))
    stores.claim(max_jobs=1)

    def found(**query):
        return ids(stores.jobs.page(JobQuery(**query), cursor=None, limit=9).items)

    assert found(states={JobState.STARTING}) == ["job_1"]
    assert found(states={JobState.STARTING, JobState.QUEUED}, since=NOW) == ["job_4", "job_3", "job_2", "job_1"]
    assert found(since=NOW + timedelta(days=1)) == []
    assert found(id_part="_2") == found(id_part="job_2") == ["job_2"]
    assert found(queue="gpu") == ["job_2"]
    assert found(automation="tell") == ["job_3"]
    assert found(execution_id="exe_4") == ["job_4"]
    assert found(states={JobState.QUEUED}, queue="default", automation="promote", execution_id="exe_4") == ["job_4"]
    assert found(states={JobState.FAILED}) == found(queue="none") == []


def test_the_position_of_a_queued_job(stores):
    """It counts the jobs that start first and the active jobs, both in the same queue."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"), job("job_4", priority=1), job("job_5", queue="gpu"))
    stores.claim(max_jobs=1)  # job_4
    assert stores.jobs.queue_position(job("job_1")) == QueuePosition(ahead=0, active=1)
    assert stores.jobs.queue_position(job("job_3")) == QueuePosition(ahead=2, active=1)
    assert stores.jobs.queue_position(job("job_5", queue="gpu")) == QueuePosition(ahead=0, active=0)
    assert stores.jobs.queue_position(job("job_4")) is None
    assert stores.jobs.queue_position(job("job_none")) is None


def test_old_jobs_are_removed_with_their_logs(stores):
    """Jobs that ended lately stay, and so do jobs whose execution has not ended."""
    stores.queue(*(job(f"job_{number}", execution_id=f"exe_{number % 2}") for number in range(4)), job("job_5"))
    for claimed in stores.claim(max_jobs=4):
        age = SECOND if claimed.id in {"job_0", "job_1", "job_2"} else 10 * SECOND
        stores.record(replace(ended(claimed), finished_at=NOW + age))
        stores.jobs.append_log(claimed.id, "text", position="1", now=NOW, keep_bytes=10)
    done = waiting_execution(job("job_0", execution_id="exe_0"), state=ExecutionState.SUCCEEDED, finished_at=NOW)
    stores.executions.record([ExecutionUpdate(done)])
    assert stores.jobs.prune(finished_before=NOW + 5 * SECOND) == 2
    remaining = {item.id for item in stores.jobs.page(JobQuery(), cursor=None, limit=9).items}
    assert remaining == {"job_1", "job_3", "job_5"}
    assert stores.jobs.log_chunks("job_0", after=0, limit=9) == ()
    assert stores.jobs.log_chunks("job_1", after=0, limit=9) == (LogChunk(1, "text"),)
    assert stores.jobs.prune(finished_before=NOW + 5 * SECOND) == 0


def test_any_number_of_old_jobs_is_removed(stores):
    """They do not have to fit into one transaction."""
    stores.queue(*(job(f"job_{number:03}", execution_id="exe_1") for number in range(120)))
    stores.jobs.record([JobUpdate(ended(claimed)) for claimed in stores.claim(max_jobs=200)])
    stores.executions.amend(
        "exe_1", lambda execution: replace(execution, state=ExecutionState.SUCCEEDED, finished_at=NOW)
    )
    assert stores.jobs.prune(finished_before=LATER) == 120


# --- logs -----------------------------------------------------------------------------------------


def append(stores, text, *, position="1", keep_bytes=1000):
    stores.jobs.append_log("job_1", text, position=position, now=NOW, keep_bytes=keep_bytes)


def read(stores, *, after=0, limit=100):
    return [(chunk.number, chunk.text) for chunk in stores.jobs.log_chunks("job_1", after=after, limit=limit)]


def test_a_log_is_read_in_chunks(stores):
    """A reader can start after any number, and limit the number of chunks."""
    stores.queue(job("job_1"), job("job_2"))
    assert read(stores) == []
    for text in ("one\n", "two\n", "three\n"):
        append(stores, text)
    stores.jobs.append_log("job_2", "other\n", position="1", now=NOW, keep_bytes=10)
    assert read(stores) == [(1, "one\n"), (2, "two\n"), (3, "three\n")]
    assert read(stores, after=1, limit=1) == [(2, "two\n")]
    assert read(stores, after=3) == read(stores, after=2**70) == []
    assert [chunk.text for chunk in stores.jobs.log_chunks("job_2", after=0, limit=9)] == ["other\n"]
    assert stores.jobs.log_chunks("job_none", after=0, limit=9) == ()


def test_the_oldest_chunks_are_removed_when_a_log_is_too_large(stores):
    """The size in UTF-8 counts. The numbers continue, so that a reader sees the gap."""
    stores.queue(job())
    for text in ("aaaa", "bb", "cc", "\u00fc\u00fc"):  # 4, 2, 2 and 4 bytes
        append(stores, text, keep_bytes=8)
    assert read(stores) == [(2, "bb"), (3, "cc"), (4, "\u00fc\u00fc")]
    append(stores, "d", keep_bytes=8)
    assert read(stores) == [(3, "cc"), (4, "\u00fc\u00fc"), (5, "d")]


def test_the_last_chunk_is_always_kept(stores):
    """It stays even if it alone exceeds the size limit."""
    stores.queue(job())
    append(stores, "a")
    append(stores, "b" * 50, keep_bytes=10)
    assert read(stores) == [(2, "b" * 50)]
    append(stores, "c", keep_bytes=10)
    assert read(stores) == [(3, "c")]


def test_a_large_chunk_can_replace_many_small_ones(stores):
    """They do not have to fit into one batch."""
    stores.queue(job())
    for number in range(250):
        append(stores, f"{number:03}")
    append(stores, "x" * 997)
    assert read(stores) == [(250, "249"), (251, "x" * 997)]


def test_the_position_of_a_log_is_stored(stores):
    """It is stored even if there is no text."""
    stores.queue(job())
    assert stores.jobs.log_position("job_1") is None
    append(stores, "one", position="1:a")
    append(stores, "", position="1:b")
    assert stores.jobs.log_position("job_1") == "1:b"
    assert read(stores) == [(1, "one")]
    assert stores.jobs.log_position("job_none") is None


def test_a_log_accepts_any_text(stores):
    """Characters that a database refuses are replaced. The log of a missing job is dropped."""
    stores.queue(job())
    append(stores, "a\x00b\ud800c\U0001f600", position="x\x00")
    assert read(stores) == [(1, "a\ufffdb\ufffdc\U0001f600")]
    stores.jobs.append_log("job_none", "text", position="1", now=NOW, keep_bytes=10)
    assert stores.jobs.log_chunks("job_none", after=0, limit=9) == ()


def test_the_log_and_the_state_are_independent(stores):
    """Writing one of them does not undo a write of the other."""
    stores.queue(job())
    (claimed,) = stores.claim()
    append(stores, "one", position="1:a")
    assert stores.record(replace(claimed, state=JobState.RUNNING))
    stores.jobs.request_stop("job_1", "ann", NOW)
    append(stores, "two", position="1:b")
    assert (read(stores), stores.jobs.log_position("job_1")) == ([(1, "one"), (2, "two")], "1:b")
    assert stores.jobs.find("job_1").state is JobState.RUNNING


# --- the installation -----------------------------------------------------------------------------


def test_an_installation_is_created_once(stores):
    """The next caller gets the stored installation."""
    first = Installation("ins_1", bytes(range(32)))
    assert stores.installation.get_or_create(lambda: first) == first

    def never():
        raise AssertionError("created again")

    assert stores.installation.get_or_create(never) == first
