"""What the stores of jobs promise, in memory, on SQLite and on PostgreSQL."""

from dataclasses import replace

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
    held,
    ids,
    job,
    memory_stores,
    sql_stores,
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
    """The stores, with one event accepted: `evt_1`."""
    return memory_stores() if request.param == "memory" else sql_stores(open_database(request.param, request))


# --- queued with their execution ------------------------------------------------------------------


FULL = job(
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


@pytest.mark.parametrize("queued", [job(), FULL], ids=["defaults", "everything"])
def test_a_job_is_queued_with_its_execution(stores, queued):
    """Every field comes back as it was written."""
    stores.queue(queued)
    assert stores.jobs.find("job_1") == queued
    assert stores.jobs.get(["job_1", "job_none"]) == {"job_1": queued}
    assert stores.execution().state is ExecutionState.WAITING
    assert stores.jobs.find("job_none") is None


def test_what_a_try_has_found_out_comes_back(stores):
    """Every field that its holder writes."""
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


def test_no_job_is_queued_by_a_worker_that_lost_its_execution(stores):
    """Never a job without its execution, and never one that another worker asks for in turn."""
    stores.executions.admit([Admission(EventId("evt_1"), (execution(),))], NOW)
    late = replace(held(job()), fence=7)
    assert stores.executions.record([ExecutionUpdate(late, jobs=(job(),))]) == {"exe_1"}
    assert stores.jobs.find("job_1") is None


def test_queueing_a_job_again_changes_nothing(stores):
    """A worker that dies after the commit repeats the step, which asks for the same job."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.executions.record([ExecutionUpdate(held(job()), jobs=(job(priority=5),))])
    assert stores.jobs.find("job_1") == claimed


def test_an_execution_does_not_begin_to_wait_for_a_job_that_has_ended(stores):
    """Its worker looked before the job ended, and writes after it: nothing would wake it any more."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.executions.amend("exe_1", lambda one: replace(one, state=ExecutionState.RUNNING))
    assert stores.record(ended(claimed), wakes=True)
    assert stores.execution().state is ExecutionState.RUNNING
    assert stores.executions.record([ExecutionUpdate(replace(held(job()), fence=2))]) == frozenset()
    assert stores.execution().due_at == NOW + SECOND


# --- claims ---------------------------------------------------------------------------------------


def test_a_claim_leases_what_is_queued(stores):
    """Under the name of who made the offer, on its machine, with the engine of the job's backend."""
    queued = job(reason="try 1 of 3 ended")
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
    assert stores.claim(owner="w2") == ()


def test_higher_priority_goes_first_then_the_older(stores):
    """Over all queues that are offered."""
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


def test_extreme_priorities_are_no_trouble(stores):
    """Whatever number an author writes."""
    stores.queue(job("job_1", priority=-(10**30)), job("job_2", priority=10**30), job("job_3"))
    assert ids(stores.claim()) == ["job_2", "job_3", "job_1"]
    assert stores.jobs.find("job_3").priority == 0


def test_a_job_that_is_not_due_waits(stores):
    """As one does before its next try; one without a time is due."""
    stores.queue(job("job_1", due_at=NOW + SECOND), job("job_2", due_at=None))
    assert ids(stores.claim()) == ["job_2"]
    assert ids(stores.claim(now=NOW + SECOND)) == ["job_1"]


def test_only_what_the_offer_can_run_is_claimed(stores):
    """Queues that the worker takes, backends whose engine answers."""
    stores.queue(job("job_1", queue="gpu"), job("job_2", backend="kubernetes"), job("job_3"))
    assert stores.claim(queues={}) == ()
    assert stores.claim(engines={}) == ()
    assert ids(stores.claim()) == ["job_3"]
    (claimed,) = stores.claim(engines={"kubernetes": "cluster-1", "docker": "engine-1"})
    assert (claimed.id, claimed.engine_id) == ("job_2", "cluster-1")


@pytest.mark.parametrize(
    ("limits", "on_m1", "on_m2"),
    [
        pytest.param({"queues": {"default": ConcurrencyLimits(concurrency=3)}}, 3, 0, id="queue"),
        pytest.param({"queues": {"default": ConcurrencyLimits(per_machine=2)}}, 2, 2, id="queue on a machine"),
        pytest.param({"queues": {"default": ConcurrencyLimits(concurrency=3, per_machine=2)}}, 2, 1, id="both"),
        pytest.param({"queues": {"default": ConcurrencyLimits(concurrency=0)}}, 0, 0, id="nothing"),
        pytest.param({"machine_limit": 2}, 2, 2, id="machine"),
        pytest.param({"max_jobs": 4}, 4, 2, id="at one time"),
        pytest.param({}, 6, 0, id="none"),
    ],
)
def test_limits_are_kept(stores, limits, on_m1, on_m2):
    """Counted over what is active, whichever worker holds it."""
    stores.queue(*(job(f"job_{number}") for number in range(6)))
    assert len(stores.claim(**limits)) == on_m1
    if "max_jobs" not in limits:
        assert stores.claim(owner="w3", **limits) == ()
    assert len(stores.claim(owner="w2", machine="m2", **limits)) == on_m2


def test_the_machines_limit_counts_all_queues(stores):
    """Also those that this worker does not take."""
    stores.queue(job("job_1", queue="gpu"), job("job_2"), job("job_3"))
    assert len(stores.claim(queues={"gpu": ConcurrencyLimits()})) == 1
    assert ids(stores.claim(owner="w2", machine_limit=2)) == ["job_2"]


def test_a_steps_own_limit_is_kept_over_all_machines(stores):
    """Jobs of another step, or of another automation, do not count; and one without a limit goes by."""
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


def test_what_may_not_run_holds_up_nothing_behind_it(stores):
    """However long the line of a step that is full."""
    many = [job(f"job_{number:04}", concurrency=1, priority=1) for number in range(300)]
    few = [job(f"job_9{number:03}", step_id="other", concurrency=2) for number in range(3)]
    stores.queue(*many, *few)
    assert ids(stores.claim()) == ["job_0000", "job_9000", "job_9001"]
    assert stores.claim() == ()


def test_a_place_is_free_when_a_job_ends_or_waits_for_its_next_try(stores):
    """And not before: what is being stopped still holds it."""
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


def test_the_end_of_a_job_wakes_its_execution_and_is_told(stores):
    """State, event and wake in one go."""
    stores.queue(job())
    (claimed,) = stores.claim()
    assert stores.record(ended(claimed), event("evt_end"), wakes=True)
    assert set(stores.events.get(["evt_end"])) == {"evt_end"}
    assert stores.execution().due_at == NOW + SECOND
    (due,) = stores.executions.take_due(now=NOW + SECOND, notified_before=NOW, limit=9)
    assert due.execution_id == "exe_1"
    (claim,) = stores.executions.claim(["exe_1"], worker_id="w2", now=NOW + SECOND, until=LATER)
    assert claim.execution.steps[0].job_id == "job_1"


def test_only_an_execution_that_waits_without_a_time_is_woken(stores):
    """Neither one that a worker holds nor one that waits for a retry nor one that has ended is changed."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    busy = {"state": ExecutionState.RUNNING, "lease_owner_id": "w9", "lease_until": LATER}
    stores.executions.amend("exe_1", lambda one: replace(one, **busy))
    stores.executions.amend("exe_2", lambda one: replace(one, due_at=LATER))
    stores.executions.amend("exe_3", lambda one: replace(one, state=ExecutionState.CANCELLED, finished_at=NOW))
    before = [stores.execution(f"exe_{number}") for number in (1, 2, 3)]
    stores.jobs.cancel_unneeded(NOW)  # of the cancelled one
    stores.jobs.record([JobUpdate(ended(one), wakes=True) for one in stores.claim()])
    assert [stores.execution(f"exe_{number}") for number in (1, 2, 3)] == before


def test_a_write_behind_the_fence_is_refused_with_all_that_belongs_to_it(stores):
    """The worker that was taken for dead tells nobody anything."""
    stores.queue(job())
    (first,) = stores.claim()
    (second,) = stores.jobs.claim_abandoned(["engine-1"], worker_id="w2", now=LATER, until=LATER + SECOND)
    assert not stores.record(ended(first), event("evt_end"), wakes=True)
    assert stores.jobs.find("job_1") == second
    assert stores.events.get(["evt_end"]) == {}
    assert stores.execution().due_at is None


def test_a_batch_is_written_whole_though_one_is_refused(stores):
    """One refusal does not hold up the others; a job that does not exist is refused."""
    stores.queue(job("job_1"), job("job_2"))
    first, second = stores.claim()
    refused = stores.jobs.record(
        [
            JobUpdate(ended(second), (event("evt_2"),), wakes=True),
            JobUpdate(replace(ended(first), fence=7), (event("evt_1x"),), wakes=True),
            JobUpdate(job("job_none"), (event("evt_none"),)),
        ]
    )
    assert refused == {"job_1", "job_none"}
    assert stores.jobs.find("job_2").state is JobState.SUCCEEDED
    assert set(stores.events.get(["evt_1x", "evt_2", "evt_none"])) == {"evt_2"}
    assert (stores.execution("exe_1").due_at, stores.execution("exe_2").due_at) == (None, NOW + SECOND)
    assert stores.jobs.record([]) == frozenset()


def test_a_lease_that_was_renewed_is_not_taken_back_by_a_record(stores):
    """The holder's own picture of its lease is as old as its claim."""
    stores.queue(job())
    (claimed,) = stores.claim()
    assert stores.jobs.renew(["job_1"], worker_id="w1", until=LATER, seen_at=NOW + SECOND) == {"job_1"}
    assert stores.record(replace(claimed, state=JobState.RUNNING, started_at=NOW))
    found = stores.jobs.find("job_1")
    assert (found.lease_owner_id, found.lease_until, found.seen_at) == ("w1", LATER, NOW + SECOND)


def test_a_job_goes_back_to_its_queue_for_another_try(stores):
    """It keeps its row and is claimed again, with a higher fence."""
    stores.queue(job())
    (claimed,) = stores.claim()
    again = replace(claimed, state=JobState.QUEUED, attempt=2, due_at=LATER, machine=None, engine_id=None)
    assert stores.record(again)
    waiting = stores.jobs.find("job_1")
    assert (waiting.lease_owner_id, waiting.lease_until, waiting.state) == (None, None, JobState.QUEUED)
    assert stores.execution().due_at is None
    (second,) = stores.claim(now=LATER, owner="w2")
    assert (second.attempt, second.fence) == (2, 2)
    assert not stores.record(again)


NASTY = {
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
TAMED = {
    "nul": "a\ufffdb",
    "half": "\ufffd",
    "pair": "\U0001f600",
    "key\ufffd\ufffd": 1,
    "large": 2.0**64,
    "small": -(2.0**63),
    "huge": f"{10**400:#x}",
    "nan": None,
    "inf": [None, [1, 2]],
    "edge": [2**64 - 1, -(2**63)],
}


def test_what_a_database_refuses_does_not_hold_up_the_end(stores):
    """Texts of engines and jobs may hold anything; it is replaced, and the rest is kept."""
    text = "a\x00b\ud800c"
    stores.queue(job(spec=JobSpec(env={"A": text}, kubernetes=NASTY)))
    (claimed,) = stores.claim()
    after = ended(claimed, JobState.FAILED, reason=text, log_tail=text, handle=text, outputs=NASTY, machine=text)
    assert stores.record(after, event("evt_end", outputs=NASTY, reason=text), wakes=True)
    found = stores.jobs.find("job_1")
    tamed = "a\ufffdb\ufffdc"
    assert (found.reason, found.log_tail, found.handle, found.machine) == (tamed,) * 4
    assert (found.spec.env, found.spec.options, found.outputs) == ({"A": tamed}, TAMED, TAMED)
    assert stores.events.get(["evt_end"])["evt_end"].data == {"outputs": TAMED, "reason": tamed}


# --- leases ---------------------------------------------------------------------------------------


def test_a_lease_is_renewed_by_its_owner_while_the_job_is_active(stores):
    """The ids that come back are those that are still held; without a look at the engine it was not seen."""
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


def test_an_abandoned_job_is_claimed_by_who_reaches_its_engine(stores):
    """Once, with its state and its engine as they are."""
    stores.queue(job())
    (claimed,) = stores.claim()
    running = replace(claimed, state=JobState.RUNNING, started_at=NOW)
    stores.record(running)

    def claim(*engines, now=LATER):
        return stores.jobs.claim_abandoned(engines, worker_id="w2", now=now, until=now + SECOND)

    assert claim("engine-1", now=LEASE) == ()
    assert claim() == claim("engine-2") == ()
    assert claim("engine-2", "engine-1") == (replace(running, lease_owner_id="w2", lease_until=LATER + SECOND, fence=2),)
    assert claim("engine-1") == ()
    assert not stores.record(ended(running))


def test_what_has_ended_or_is_queued_is_not_abandoned(stores):
    """Nor lost."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    stores.record(ended(stores.claim(max_jobs=1)[0]))
    (second,) = stores.claim(max_jobs=1)
    stores.record(replace(second, state=JobState.QUEUED, due_at=LATER))
    assert stores.jobs.claim_abandoned(["engine-1"], worker_id="w2", now=LATER, until=LATER + SECOND) == ()
    assert stores.jobs.claim_lost(seen_before=LATER, worker_id="w2", now=LATER, until=LATER + SECOND) == ()


def test_a_lost_job_is_claimed_by_anybody(stores):
    """Its lease has run out, and nobody has reached its engine for long."""
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


def test_a_dead_workers_leases_are_ended(stores):
    """They can be claimed a moment later, without waiting for their end."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"))
    stores.claim(max_jobs=1)
    (second,) = stores.claim(max_jobs=1)
    stores.record(ended(second))
    stores.claim(owner="w2")
    assert stores.jobs.expire("w1", NOW + SECOND) == 1
    assert stores.jobs.expire("w1", NOW + SECOND) == 0
    taken = stores.jobs.claim_abandoned(["engine-1"], worker_id="w3", now=NOW + 2 * SECOND, until=LATER)
    assert ids(taken) == ["job_1"]


# --- wishes to stop -------------------------------------------------------------------------------


def test_a_queued_job_is_stopped_at_once(stores):
    """Its execution goes on, and a write that is still under way cannot bring it back."""
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
    """The wish is kept, the first one, beside what the worker goes on writing."""
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


def test_a_job_that_cannot_be_stopped_says_why(stores):
    """It has ended, or never was."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.record(ended(claimed))
    before = stores.jobs.find("job_1")
    with pytest.raises(Conflict, match="job job_1 is succeeded and cannot be stopped"):
        stores.jobs.request_stop("job_1", "ann", LATER)
    with pytest.raises(NotFound, match="there is no job 'job_none'; see `upshot jobs list`"):
        stores.jobs.request_stop("job_none", "ann", LATER)
    assert stores.jobs.find("job_1") == before


def test_a_job_that_waits_for_its_next_try_when_it_is_asked_to_stop_is_dropped(stores):
    """The wish came while it ran; its engine was lost before it could be stopped."""
    stores.queue(job())
    (claimed,) = stores.claim()
    stores.jobs.request_stop("job_1", "a\x00nn", NOW)
    assert stores.record(replace(claimed, state=JobState.QUEUED, due_at=NOW, attempt=2))
    assert stores.claim() == ()
    assert stores.jobs.cancel_unneeded(LATER) == 1
    dropped = stores.jobs.find("job_1")
    assert (dropped.state, dropped.reason, dropped.finished_at) == (
        JobState.CANCELLED,
        "cancelled by a\ufffdnn",
        LATER,
    )
    assert stores.execution().due_at == LATER
    assert stores.jobs.cancel_unneeded(LATER) == 0


def cancel(stores):
    stores.executions.amend(
        "exe_1", lambda one: replace(one, state=ExecutionState.CANCELLED, finished_at=LATER, due_at=None)
    )


def fail(stores):
    failed = held(job(), state=ExecutionState.FAILED, finished_at=LATER)
    assert stores.executions.record([ExecutionUpdate(failed)]) == frozenset()


@pytest.mark.parametrize("end", [cancel, fail])
def test_the_end_of_an_execution_stops_its_jobs(stores, end):
    """Nobody waits for what they would give; the jobs of other executions go on."""
    stores.queue(job("job_1"), job("job_1b", execution_id="exe_1"), job("job_2"))
    (active,) = stores.claim(max_jobs=1)
    end(stores)
    assert stores.claim(max_jobs=1)[0].id == "job_2"
    assert stores.jobs.stop_requests(["job_1", "job_2"]) == {"job_1": END_OF_EXECUTION}
    assert stores.record(replace(active, state=JobState.RUNNING))
    before = stores.execution()
    assert stores.jobs.cancel_unneeded(LATER) == 1
    dropped = stores.jobs.find("job_1b")
    assert (dropped.state, dropped.reason) == (JobState.CANCELLED, f"cancelled by {END_OF_EXECUTION}")
    assert stores.execution() == before


def test_who_asked_first_is_remembered(stores):
    """Also when the execution ends afterwards."""
    stores.queue(job())
    stores.claim()
    stores.jobs.request_stop("job_1", "ann", NOW)
    cancel(stores)
    assert stores.jobs.stop_requests(["job_1"]) == {"job_1": "ann"}
    assert stores.jobs.find("job_1").stop_requested_at == NOW


def test_an_execution_that_is_retried_leaves_its_old_jobs_behind(stores):
    """However soon: it asks for new ones, and must not have both."""
    stores.queue(job())
    stores.claim()
    cancel(stores)
    waiting = {"state": ExecutionState.WAITING, "finished_at": None, "due_at": LATER}
    stores.executions.amend("exe_1", lambda one: replace(one, **waiting))
    assert stores.jobs.stop_requests(["job_1"]) == {"job_1": END_OF_EXECUTION}


# --- the desk -------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_and_page_by_page(stores):
    """Walking the cursor gives everything once, without what may be large."""
    stores.queue(*(job(f"job_{number}") for number in range(5)))
    for claimed in stores.claim():
        stores.record(ended(claimed, outputs={"a": 1}, log_tail="said"))
    first = stores.jobs.page(JobQuery(), cursor=None, limit=2)
    second = stores.jobs.page(JobQuery(), cursor=first.next, limit=2)
    third = stores.jobs.page(JobQuery(), cursor=second.next, limit=2)
    found = [one for page in (first, second, third) for one in page.items]
    assert ids(found) == [f"job_{number}" for number in (4, 3, 2, 1, 0)]
    assert third.next is None
    assert found[0] == replace(stores.jobs.find("job_4"), outputs=None, log_tail="")
    with pytest.raises(InvalidInput, match="cursor"):
        stores.jobs.page(JobQuery(), cursor="%%%", limit=2)


def test_jobs_are_found_by_state_queue_automation_and_execution(stores):
    """Each filter alone and all together."""
    stores.queue(job("job_1"), job("job_2", queue="gpu"), job("job_3", automation="tell"), job("job_4"))
    stores.claim(max_jobs=1)

    def found(**query):
        return ids(stores.jobs.page(JobQuery(**query), cursor=None, limit=9).items)

    assert found(state=JobState.STARTING) == ["job_1"]
    assert found(queue="gpu") == ["job_2"]
    assert found(automation="tell") == ["job_3"]
    assert found(execution_id="exe_4") == ["job_4"]
    assert found(state=JobState.QUEUED, queue="default", automation="promote", execution_id="exe_4") == ["job_4"]
    assert found(state=JobState.FAILED) == found(queue="none") == []


def test_a_queued_job_knows_its_place(stores):
    """How many go first, and how many of its queue hold a place; not what other queues do."""
    stores.queue(job("job_1"), job("job_2"), job("job_3"), job("job_4", priority=1), job("job_5", queue="gpu"))
    stores.claim(max_jobs=1)  # job_4
    assert stores.jobs.queue_position(job("job_1")) == QueuePosition(ahead=0, active=1)
    assert stores.jobs.queue_position(job("job_3")) == QueuePosition(ahead=2, active=1)
    assert stores.jobs.queue_position(job("job_5", queue="gpu")) == QueuePosition(ahead=0, active=0)
    assert stores.jobs.queue_position(job("job_4")) is None
    assert stores.jobs.queue_position(job("job_none")) is None


def test_old_jobs_go_with_their_logs_when_their_execution_has_ended(stores):
    """Not those that ended lately, nor those whose execution goes on."""
    stores.queue(*(job(f"job_{number}", execution_id=f"exe_{number % 2}") for number in range(4)), job("job_5"))
    for claimed in stores.claim(max_jobs=4):
        age = SECOND if claimed.id in {"job_0", "job_1", "job_2"} else 10 * SECOND
        stores.record(replace(ended(claimed), finished_at=NOW + age))
        stores.jobs.append_log(claimed.id, "said", position="1", now=NOW, keep_bytes=10)
    done = held(job("job_0", execution_id="exe_0"), state=ExecutionState.SUCCEEDED, finished_at=NOW)
    stores.executions.record([ExecutionUpdate(done)])
    assert stores.jobs.prune(finished_before=NOW + 5 * SECOND) == 2
    left = {one.id for one in stores.jobs.page(JobQuery(), cursor=None, limit=9).items}
    assert left == {"job_1", "job_3", "job_5"}
    assert stores.jobs.log_chunks("job_0", after=0, limit=9) == ()
    assert stores.jobs.log_chunks("job_1", after=0, limit=9) == (LogChunk(1, "said"),)
    assert stores.jobs.prune(finished_before=NOW + 5 * SECOND) == 0


def test_any_number_of_old_jobs_goes(stores):
    """More than fit in one transaction."""
    stores.queue(*(job(f"job_{number:03}", execution_id="exe_1") for number in range(120)))
    stores.jobs.record([JobUpdate(ended(one)) for one in stores.claim(max_jobs=200)])
    stores.executions.amend("exe_1", lambda one: replace(one, state=ExecutionState.SUCCEEDED, finished_at=NOW))
    assert stores.jobs.prune(finished_before=LATER) == 120


# --- logs -----------------------------------------------------------------------------------------


def append(stores, text, *, position="1", keep_bytes=1000):
    stores.jobs.append_log("job_1", text, position=position, now=NOW, keep_bytes=keep_bytes)


def read(stores, *, after=0, limit=100):
    return [(piece.number, piece.text) for piece in stores.jobs.log_chunks("job_1", after=after, limit=limit)]


def test_a_log_is_read_in_pieces(stores):
    """From any number on, as many as are asked for."""
    stores.queue(job("job_1"), job("job_2"))
    assert read(stores) == []
    for text in ("one\n", "two\n", "three\n"):
        append(stores, text)
    stores.jobs.append_log("job_2", "other\n", position="1", now=NOW, keep_bytes=10)
    assert read(stores) == [(1, "one\n"), (2, "two\n"), (3, "three\n")]
    assert read(stores, after=1, limit=1) == [(2, "two\n")]
    assert read(stores, after=3) == read(stores, after=2**70) == []
    assert [one.text for one in stores.jobs.log_chunks("job_2", after=0, limit=9)] == ["other\n"]
    assert stores.jobs.log_chunks("job_none", after=0, limit=9) == ()


def test_the_oldest_pieces_go_when_there_are_too_many_bytes(stores):
    """The size in UTF-8 counts; numbers go on, so that a reader sees the gap."""
    stores.queue(job())
    for text in ("aaaa", "bb", "cc", "\u00fc\u00fc"):  # 4, 2, 2 and 4 bytes
        append(stores, text, keep_bytes=8)
    assert read(stores) == [(2, "bb"), (3, "cc"), (4, "\u00fc\u00fc")]
    append(stores, "d", keep_bytes=8)
    assert read(stores) == [(3, "cc"), (4, "\u00fc\u00fc"), (5, "d")]


def test_the_last_piece_is_kept_whatever_its_size(stores):
    """It is what was said last."""
    stores.queue(job())
    append(stores, "a")
    append(stores, "b" * 50, keep_bytes=10)
    assert read(stores) == [(2, "b" * 50)]
    append(stores, "c", keep_bytes=10)
    assert read(stores) == [(3, "c")]


def test_many_small_pieces_go_for_one_large_one(stores):
    """More than are looked at together."""
    stores.queue(job())
    for number in range(250):
        append(stores, f"{number:03}")
    append(stores, "x" * 997)
    assert read(stores) == [(250, "249"), (251, "x" * 997)]


def test_a_log_remembers_up_to_where_it_was_read(stores):
    """Also when nothing came with the position."""
    stores.queue(job())
    assert stores.jobs.log_position("job_1") is None
    append(stores, "one", position="1:a")
    append(stores, "", position="1:b")
    assert stores.jobs.log_position("job_1") == "1:b"
    assert read(stores) == [(1, "one")]
    assert stores.jobs.log_position("job_none") is None


def test_a_log_takes_any_text(stores):
    """What a database refuses is replaced; what is said of a job that is gone goes nowhere."""
    stores.queue(job())
    append(stores, "a\x00b\ud800c\U0001f600", position="x\x00")
    assert read(stores) == [(1, "a\ufffdb\ufffdc\U0001f600")]
    stores.jobs.append_log("job_none", "said", position="1", now=NOW, keep_bytes=10)
    assert stores.jobs.log_chunks("job_none", after=0, limit=9) == ()


def test_a_log_is_no_matter_of_the_fence(stores):
    """Writing one and the state at the same time, neither undoes the other."""
    stores.queue(job())
    (claimed,) = stores.claim()
    append(stores, "one", position="1:a")
    assert stores.record(replace(claimed, state=JobState.RUNNING))
    stores.jobs.request_stop("job_1", "ann", NOW)
    append(stores, "two", position="1:b")
    assert (read(stores), stores.jobs.log_position("job_1")) == ([(1, "one"), (2, "two")], "1:b")
    assert stores.jobs.find("job_1").state is JobState.RUNNING


# --- the installation -----------------------------------------------------------------------------


def test_an_installation_is_made_once(stores):
    """Whoever comes later finds it, and makes none."""
    first = Installation("ins_1", bytes(range(32)))
    assert stores.installation.get_or_create(lambda: first) == first

    def never():
        raise AssertionError("made again")

    assert stores.installation.get_or_create(never) == first
