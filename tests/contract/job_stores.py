"""Stores of jobs on every kind of database, and the jobs that tests put there."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryInstallation, MemoryJobs
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import SqlEvents, insert_events
from upshot.adapters.sql.executions import SqlExecutions
from upshot.adapters.sql.installation import SqlInstallation
from upshot.adapters.sql.jobs import SqlJobs
from upshot.domain.event import Actor, Event, EventKind
from upshot.domain.execution import Execution, ExecutionState, StepRecord
from upshot.domain.job import Job, JobSpec, JobState
from upshot.ids import DeliveryId, EventId, ExecutionId, RevisionId, WorkerId
from upshot.ports.executions import Admission, ExecutionUpdate
from upshot.ports.jobs import ConcurrencyLimits, JobUpdate, WorkerCapacity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEASE = NOW + 30 * SECOND
LATER = NOW + 90 * SECOND


@dataclass
class Stores:
    """The stores of one database, and a shorthand for what tests do with them."""

    executions: MemoryExecutions | SqlExecutions
    jobs: MemoryJobs | SqlJobs
    events: MemoryEvents | SqlEvents
    installation: MemoryInstallation | SqlInstallation
    accept: Any  #: accepts events by id

    def queue(self, *jobs: Job) -> None:
        """Have each job queued by an execution that then waits for it; one execution for each `Job.execution`."""
        wanted = {job.execution_id for job in jobs}
        running = tuple(execution(name) for name in sorted(wanted) if self.executions.find(name) is None)
        self.executions.admit([Admission(EventId("evt_1"), running)], NOW)
        refused = self.executions.record([ExecutionUpdate(held(job), jobs=(job,)) for job in jobs])
        assert refused == frozenset()

    def queue_again(self, wanted: Job) -> frozenset[str]:
        """Have the execution, whose fence may have grown, ask for a job and wait for it; ids that were refused."""
        fence = self.execution(wanted.execution_id).fence
        return self.executions.record([ExecutionUpdate(held(wanted, fence=fence), jobs=(wanted,))])

    def claim(self, now=NOW, until=LEASE, **changes) -> tuple[Job, ...]:
        """Claim by an offer that fits everything, but for the changes."""
        return self.jobs.claim_queued(offer(**changes), now=now, until=until)

    def record(self, job: Job, *events: Event, wakes=False) -> bool:
        """Write one state; tells whether it was accepted."""
        return not self.jobs.record([JobUpdate(job, events, wakes)])

    def execution(self, name="exe_1") -> Execution:
        found = self.executions.find(name)
        assert found, name
        return found[0]


def memory_stores() -> Stores:
    """All in memory, with one event accepted: `evt_1`."""
    events = MemoryEvents()
    executions = MemoryExecutions(events)

    def accept(*names):
        events.add([event(one) for one in names], NOW)

    made = Stores(executions, MemoryJobs(executions), events, MemoryInstallation(), accept)
    made.accept("evt_1")
    return made


def sql_stores(database: Database) -> Stores:
    """All in one database, with one event accepted: `evt_1`."""

    def accept(*names):
        database.write(lambda connection: insert_events(connection, [event(one) for one in names], NOW))

    made = Stores(SqlExecutions(database), SqlJobs(database), SqlEvents(database), SqlInstallation(database), accept)
    made.accept("evt_1")
    return made


def event(name, **data) -> Event:
    return Event(
        id=name,
        kind=EventKind.CUSTOM,
        time=NOW,
        subject="nightly",
        actor=Actor("ann"),
        mutation_id="mut_1",
        sequence=0,
        data=data,
        name="nightly",
    )


def execution(name="exe_1", **changes) -> Execution:
    made = Execution(
        id=name,
        automation="promote",
        revision_id=RevisionId("r1"),
        event_id=EventId("evt_1"),
        state=ExecutionState.RUNNING,
        created_at=NOW,
        steps=(StepRecord("evaluate", "launch"),),
        lease_owner_id=WorkerId("w1"),
        lease_until=LEASE,
        fence=1,
    )
    return replace(made, **changes)


def held(job: Job, **changes) -> Execution:
    """The execution that waits for the job."""
    waits = {"state": ExecutionState.WAITING, "lease_owner_id": None, "lease_until": None, "due_at": None}
    return execution(job.execution_id, steps=(StepRecord("evaluate", "launch", job_id=job.id),), **(waits | changes))


def job(name="job_1", **changes) -> Job:
    made = Job(
        id=name,
        name="evaluate",
        automation="promote",
        execution_id=ExecutionId(f"exe_{name.removeprefix('job_')}"),
        step_id="evaluate",
        event_id=EventId("evt_1"),
        delivery_id=DeliveryId(f"dlv_{name}"),
        queue="default",
        backend="docker",
        spec=JobSpec(image="acme/evaluate:1"),
        created_at=NOW,
        due_at=NOW,
    )
    return replace(made, **changes)


def offer(owner="w1", **changes) -> WorkerCapacity:
    made = WorkerCapacity(
        worker_id=owner, machine="m1", engines={"docker": "engine-1"}, queues={"default": ConcurrencyLimits()}
    )
    return replace(made, **changes)


def ended(job: Job, state=JobState.SUCCEEDED, **changes) -> Job:
    return replace(job, state=state, finished_at=NOW + SECOND, lease_owner_id=None, lease_until=None, **changes)


def ids(jobs: Iterable[Job]) -> list[str]:
    return [one.id for one in jobs]
