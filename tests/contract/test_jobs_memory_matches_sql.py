"""Whatever is done to jobs in whatever order: memory and SQL answer alike, and nothing that has ended moves."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.contract.job_stores import NOW, ended, event, ids, job, memory_stores, offer, sql_stores
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.migrate import migrate
from upshot.domain.execution import ExecutionState
from upshot.domain.job import FailureKind, JobState
from upshot.errors import RegistryError
from upshot.ids import JobId
from upshot.ports.jobs import ConcurrencyLimits, JobQuery, JobUpdate

JOBS = st.integers(1, 6).map(lambda number: f"job_{number}")
EXECUTIONS = st.integers(1, 3).map(lambda number: f"exe_{number}")
OWNERS = st.sampled_from(["w1", "w2"])
QUEUES = st.sampled_from(["a", "b"])
LIMITS = st.none() | st.integers(0, 2)
SECONDS = st.integers(0, 40).map(lambda seconds: timedelta(seconds=seconds))


class SameStory(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.database = Database("sqlite://")
        migrate(self.database)
        self.both_stores = (memory_stores(), sql_stores(self.database))
        self.now = NOW
        self.final = {}

    def teardown(self):
        self.database.close()

    def both(self, act):
        """Do the same to both; the answer."""
        answers = []
        for stores in self.both_stores:
            try:
                answers.append(act(stores))
            except RegistryError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]
        return answers[0]

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
        self.both(lambda stores: stores.executions.amend(name, lambda one: replace(one, **ways[how])))

    # --- workers ----------------------------------------------------------------------------------

    @rule(
        owner=OWNERS,
        machine=st.sampled_from(["m1", "m2"]),
        queues=st.dictionaries(QUEUES, st.builds(ConcurrencyLimits, LIMITS, LIMITS)),
        machine_limit=LIMITS,
        max_jobs=st.integers(1, 4),
        engines=st.sampled_from([{"docker": "e1"}, {"docker": "e1", "process": "e2"}]),
    )
    def claim(self, owner, **changes):
        mine = offer(owner, **changes)
        until = self.now + timedelta(seconds=30)
        self.both(lambda stores: stores.jobs.claim_queued(mine, now=self.now, until=until))

    @rule(owner=OWNERS, engines=st.sampled_from([["e1"], ["e2"], ["e1", "e2"]]))
    def claim_abandoned(self, owner, engines):
        lease = {"worker_id": owner, "now": self.now, "until": self.now + timedelta(seconds=30)}
        self.both(lambda stores: stores.jobs.claim_abandoned(engines, **lease))

    @rule(owner=OWNERS, unseen_for=SECONDS)
    def claim_lost(self, owner, unseen_for):
        lease = {"worker_id": owner, "now": self.now, "until": self.now + timedelta(seconds=30)}
        self.both(lambda stores: stores.jobs.claim_lost(seen_before=self.now - unseen_for, **lease))

    @rule(
        name=JOBS,
        to=st.sampled_from(["running", "stopping", "queued", "succeeded", "failed"]),
        behind=st.sampled_from([0, 0, 0, 1]),
        tells=st.booleans(),
    )
    def record(self, name, to, behind, tells):
        standing = self.both(lambda stores: stores.jobs.find(name))
        if standing is None or not standing.state.is_active:
            return
        held = replace(standing, fence=standing.fence - behind)
        if to in {"running", "stopping"}:
            # What the holder believes of its lease and of wishes is old.
            after = replace(held, state=JobState(to), lease_until=NOW, seen_at=None, stop_requested_at=None)
        elif to == "queued":
            after = replace(held, state=JobState.QUEUED, due_at=self.now, attempt=held.attempt + 1)
        else:
            after = replace(ended(held, JobState(to), failure=FailureKind.EXITED), finished_at=self.now, outputs={"a": 1})
        events = (event(f"evt_{name}_{to}_{standing.fence}"),) if tells else ()
        progress = [JobUpdate(after, events, wakes=after.state.is_final)]
        self.both(lambda stores: stores.jobs.record(progress))
        self.both(lambda stores: stores.events.get([one.id for one in events]))

    @rule(names=st.lists(JOBS, max_size=3), owner=OWNERS, seen=st.booleans())
    def renew(self, names, owner, seen):
        until, seen_at = self.now + timedelta(seconds=30), self.now if seen else None
        self.both(lambda stores: stores.jobs.renew(names, worker_id=owner, until=until, seen_at=seen_at))

    @rule(owner=OWNERS)
    def expire(self, owner):
        self.both(lambda stores: stores.jobs.expire(owner, self.now))

    @rule(name=JOBS, text=st.text(max_size=5), keep_bytes=st.integers(1, 12))
    def append_log(self, name, text, keep_bytes):
        self.both(lambda stores: stores.jobs.append_log(name, text, position=text, now=self.now, keep_bytes=keep_bytes))

    # --- people -----------------------------------------------------------------------------------

    @rule(name=JOBS, who=st.sampled_from(["ann", "bob"]))
    def ask_stop(self, name, who):
        self.both(lambda stores: stores.jobs.request_stop(name, who, self.now))

    @rule()
    def drop_idle(self):
        self.both(lambda stores: stores.jobs.cancel_unneeded(self.now))

    @rule(age=SECONDS)
    def prune(self, age):
        self.both(lambda stores: stores.jobs.prune(finished_before=self.now - age))

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def the_same_is_there(self):
        everything = self.both(lambda stores: stores.jobs.page(JobQuery(), cursor=None, limit=100)).items
        for one in everything:
            found = self.both(lambda stores, one=one: stores.jobs.find(one.id))
            self.both(lambda stores, one=one: stores.jobs.queue_position(one))
            self.both(lambda stores, one=one: stores.jobs.log_chunks(one.id, after=0, limit=100))
            self.both(lambda stores, one=one: stores.jobs.log_position(one.id))
            self.both(lambda stores, one=one: stores.executions.find(one.execution))
            assert found.state.is_active == (found.lease_until is not None), "whoever is active has a holder"
        self.both(lambda stores: stores.jobs.stop_requests(ids(everything)))

    @invariant()
    def what_has_ended_stays_as_it_is(self):
        standing = self.both_stores[1].jobs.get([JobId(f"job_{number}") for number in range(1, 7)])
        assert {name: one for name, one in self.final.items() if name in standing} == {
            name: one for name, one in standing.items() if name in self.final
        }
        self.final = {name: one for name, one in standing.items() if one.state.is_final}

    @invariant()
    def nobody_waits_for_what_has_ended(self):
        stores = self.both_stores[1]
        for name in self.final:
            execution = stores.execution(self.final[name].execution_id)
            assert execution.awaited_job_id != name


def test_memory_and_sql_tell_the_same_story():
    """In whatever order jobs are queued, claimed, watched, stopped and pruned."""
    run_state_machine_as_test(SameStory, settings=settings(max_examples=40, stateful_step_count=40))
