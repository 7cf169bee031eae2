"""The stores in memory and in SQL return the same for any sequence of calls, and ended jobs never change."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.contract.job_stores import NOW, capacity, ended, event, ids, job, memory_stores, sql_stores
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.migrate import migrate
from upshot.domain.execution import ExecutionState
from upshot.domain.job import FailureKind, JobState
from upshot.errors import RegistryError
from upshot.ids import JobId
from upshot.ports.jobs import ConcurrencyLimits, JobQuery, JobUpdate

JOBS = st.integers(1, 6).map(lambda number: f"job_{number}")
EXECUTIONS = st.integers(1, 3).map(lambda number: f"exe_{number}")
WORKER_IDS = st.sampled_from(["w1", "w2"])
QUEUES = st.sampled_from(["a", "b"])
LIMITS = st.none() | st.integers(0, 2)
SECONDS = st.integers(0, 40).map(lambda seconds: timedelta(seconds=seconds))


class MemoryMatchesSql(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.database = Database("sqlite://")
        migrate(self.database)
        self.both_stores = (memory_stores(), sql_stores(self.database))
        self.now = NOW
        self.final = {}

    def teardown(self):
        self.database.close()

    def both(self, call):
        """Call both stores, and return their common result."""
        results = []
        for stores in self.both_stores:
            try:
                results.append(call(stores))
            except RegistryError as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]
        return results[0]

    @rule(by=SECONDS)
    def advance(self, by):
        self.now += by

    # --- executions -------------------------------------------------------------------------------

    @rule(
        name=JOBS,
        queue=QUEUES,
        step_id=st.sampled_from(["s", "t"]),
        priority=st.integers(-1, 1),
        concurrency=st.none() | st.integers(1, 2),
        backend=st.sampled_from(["docker", "process"]),
    )
    def queue(self, name, **fields):
        execution = f"exe_{int(name[-1]) % 3 + 1}"  # a job's id is derived from its execution's
        wanted = job(name, execution_id=execution, **fields)
        found = self.both(lambda stores: stores.executions.find(execution))
        if found is None or found[0].state is ExecutionState.WAITING:
            self.both(lambda stores: stores.queue(wanted) if found is None else stores.queue_again(wanted))

    @rule(name=EXECUTIONS, how=st.sampled_from(["cancel", "succeed", "retry", "claim"]))
    def change(self, name, how):
        ways: dict[str, dict[str, Any]] = {
            "cancel": {"state": ExecutionState.CANCELLED, "finished_at": self.now, "due_at": None},
            "succeed": {"state": ExecutionState.SUCCEEDED, "finished_at": self.now, "due_at": None},
            "retry": {"state": ExecutionState.WAITING, "finished_at": None, "due_at": self.now},
            "claim": {"state": ExecutionState.RUNNING, "finished_at": None, "due_at": None},
        }
        self.both(lambda stores: stores.executions.amend(name, lambda execution: replace(execution, **ways[how])))

    # --- workers ----------------------------------------------------------------------------------

    @rule(
        worker_id=WORKER_IDS,
        machine=st.sampled_from(["m1", "m2"]),
        queues=st.dictionaries(QUEUES, st.builds(ConcurrencyLimits, LIMITS, LIMITS)),
        machine_limit=LIMITS,
        max_jobs=st.integers(1, 4),
        engine_ids=st.sampled_from([{"docker": "e1"}, {"docker": "e1", "process": "e2"}]),
    )
    def claim(self, worker_id, **changes):
        own = capacity(worker_id, **changes)
        until = self.now + timedelta(seconds=30)
        self.both(lambda stores: stores.jobs.claim_queued(own, now=self.now, until=until))

    @rule(worker_id=WORKER_IDS, engine_ids=st.sampled_from([["e1"], ["e2"], ["e1", "e2"]]))
    def claim_abandoned(self, worker_id, engine_ids):
        lease = {"worker_id": worker_id, "now": self.now, "until": self.now + timedelta(seconds=30)}
        self.both(lambda stores: stores.jobs.claim_abandoned(engine_ids, **lease))

    @rule(worker_id=WORKER_IDS, unseen_for=SECONDS)
    def claim_lost(self, worker_id, unseen_for):
        lease = {"worker_id": worker_id, "now": self.now, "until": self.now + timedelta(seconds=30)}
        self.both(lambda stores: stores.jobs.claim_lost(seen_before=self.now - unseen_for, **lease))

    @rule(
        name=JOBS,
        to=st.sampled_from(["running", "stopping", "queued", "succeeded", "failed"]),
        missed_claims=st.sampled_from([0, 0, 0, 1]),
        with_event=st.booleans(),
    )
    def record(self, name, to, missed_claims, with_event):
        stored = self.both(lambda stores: stores.jobs.find(name))
        if stored is None or not stored.state.is_active:
            return
        current = replace(stored, fence=stored.fence - missed_claims)
        if to in {"running", "stopping"}:
            # The worker's record of its lease and of stop requests is outdated.
            after = replace(current, state=JobState(to), lease_until=NOW, seen_at=None, stop_requested_at=None)
        elif to == "queued":
            after = replace(current, state=JobState.QUEUED, due_at=self.now, attempt=current.attempt + 1)
        else:
            after = replace(
                ended(current, JobState(to), failure=FailureKind.EXITED), finished_at=self.now, outputs={"a": 1}
            )
        events = (event(f"evt_{name}_{to}_{stored.fence}"),) if with_event else ()
        progress = [JobUpdate(after, events, wakes_execution=after.state.is_final)]
        self.both(lambda stores: stores.jobs.record(progress))
        self.both(lambda stores: stores.events.get([caused.id for caused in events]))

    @rule(names=st.lists(JOBS, max_size=3), worker_id=WORKER_IDS, seen=st.booleans())
    def renew(self, names, worker_id, seen):
        until, seen_at = self.now + timedelta(seconds=30), self.now if seen else None
        self.both(lambda stores: stores.jobs.renew(names, worker_id=worker_id, until=until, seen_at=seen_at))

    @rule(worker_id=WORKER_IDS)
    def expire(self, worker_id):
        self.both(lambda stores: stores.jobs.expire(worker_id, self.now))

    @rule(name=JOBS, text=st.text(max_size=5), keep_bytes=st.integers(1, 12))
    def append_log(self, name, text, keep_bytes):
        self.both(lambda stores: stores.jobs.append_log(name, text, position=text, now=self.now, keep_bytes=keep_bytes))

    # --- users ------------------------------------------------------------------------------------

    @rule(name=JOBS, who=st.sampled_from(["ann", "bob"]))
    def request_stop(self, name, who):
        self.both(lambda stores: stores.jobs.request_stop(name, who, self.now))

    @rule()
    def cancel_unneeded(self):
        self.both(lambda stores: stores.jobs.cancel_unneeded(self.now))

    @rule(age=SECONDS)
    def prune(self, age):
        self.both(lambda stores: stores.jobs.prune(finished_before=self.now - age))

    # --- invariants -------------------------------------------------------------------------------

    @invariant()
    def both_stores_have_the_same_jobs(self):
        listed = self.both(lambda stores: stores.jobs.page(JobQuery(), cursor=None, limit=100)).items
        for item in listed:
            found = self.both(lambda stores, item=item: stores.jobs.find(item.id))
            self.both(lambda stores, item=item: stores.jobs.queue_position(item))
            self.both(lambda stores, item=item: stores.jobs.log_chunks(item.id, after=0, limit=100))
            self.both(lambda stores, item=item: stores.jobs.log_position(item.id))
            self.both(lambda stores, item=item: stores.executions.find(item.execution_id))
            assert found.state.is_active == (found.lease_until is not None), "an active job has a lease"
        self.both(lambda stores: stores.jobs.stop_requests(ids(listed)))

    @invariant()
    def ended_jobs_do_not_change(self):
        stored = self.both_stores[1].jobs.get([JobId(f"job_{number}") for number in range(1, 7)])
        assert all(stored[job_id] == final for job_id, final in self.final.items() if job_id in stored)
        self.final = {job_id: found for job_id, found in stored.items() if found.state.is_final}

    @invariant()
    def no_execution_waits_for_an_ended_job(self):
        for job_id, final in self.final.items():
            assert self.both_stores[1].execution(final.execution_id).awaited_job_id != job_id


def test_memory_matches_sql():
    """Jobs are queued, claimed, recorded, stopped and pruned in random order."""
    run_state_machine_as_test(MemoryMatchesSql, settings=settings(max_examples=40, stateful_step_count=40))
