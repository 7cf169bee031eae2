"""Stores of jobs on every kind of database, and jobs for tests."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.job_records import make_job
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
from upshot.domain.job import Job, JobState
from upshot.ids import EventId, ExecutionId, RevisionId, WorkerId
from upshot.ports.executions import Admission, ExecutionUpdate
from upshot.ports.jobs import ConcurrencyLimits, JobUpdate, WorkerCapacity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LEASE = NOW + 30 * SECOND
LATER = NOW + 90 * SECOND
EVENT_ID = EventId("evt_1")
WORKER_ID = WorkerId("w1")


@dataclass
class Stores:
    """The stores of one database, with shorthands for tests."""

    executions: MemoryExecutions | SqlExecutions
    jobs: MemoryJobs | SqlJobs
    events: MemoryEvents | SqlEvents
    installation: MemoryInstallation | SqlInstallation
    accept: Any  #: accepts events by id

    def queue(self, *jobs: Job) -> None:
        """Store jobs together with executions that wait for them, one for each `Job.execution_id`."""
        missing = {job.execution_id for job in jobs if self.executions.find(job.execution_id) is None}
        self.executions.admit([Admission(EVENT_ID, tuple(map(execution, sorted(missing))))], NOW)
        refused = self.executions.record([ExecutionUpdate(waiting_execution(job), jobs=(job,)) for job in jobs])
        assert refused == frozenset()

    def queue_again(self, job: Job) -> frozenset[ExecutionId]:
        """Let an existing execution, whose fence may have grown, launch a job. Return the refused ids."""
        fence = self.execution(job.execution_id).fence
        return self.executions.record([ExecutionUpdate(waiting_execution(job, fence=fence), jobs=(job,))])

    def claim(self, now=NOW, until=LEASE, **changes) -> tuple[Job, ...]:
        """Claim with a capacity that fits everything except for the changes."""
        return self.jobs.claim_queued(capacity(**changes), now=now, until=until)

    def record(self, job: Job, *events: Event, wakes_execution=False) -> bool:
        """Write one state. Return whether it was accepted."""
        return not self.jobs.record([JobUpdate(job, events, wakes_execution)])

    def execution(self, execution_id="exe_1") -> Execution:
        found = self.executions.find(execution_id)
        assert found, execution_id
        return found[0]


def memory_stores() -> Stores:
    """Return stores in memory with one accepted event, `evt_1`."""
    events = MemoryEvents()
    executions = MemoryExecutions(events)

    def accept(*event_ids):
        events.add([event(event_id) for event_id in event_ids], NOW)

    stores = Stores(executions, MemoryJobs(executions), events, MemoryInstallation(), accept)
    stores.accept("evt_1")
    return stores


def sql_stores(database: Database) -> Stores:
    """Return stores in a database with one accepted event, `evt_1`."""

    def accept(*event_ids):
        events = [event(event_id) for event_id in event_ids]
        database.write(lambda connection: insert_events(connection, events, NOW))

    stores = Stores(SqlExecutions(database), SqlJobs(database), SqlEvents(database), SqlInstallation(database), accept)
    stores.accept("evt_1")
    return stores


def event(event_id, **data) -> Event:
    return Event(
        id=event_id,
        kind=EventKind.CUSTOM,
        time=NOW,
        subject="nightly",
        actor=Actor("ann"),
        mutation_id="mut_1",
        sequence=0,
        data=data,
        name="nightly",
    )


def execution(execution_id="exe_1", **changes) -> Execution:
    """Return a running execution."""
    running = Execution(
        id=ExecutionId(execution_id),
        automation="promote",
        revision_id=RevisionId("r1"),
        event_id=EVENT_ID,
        state=ExecutionState.RUNNING,
        created_at=NOW,
        steps=(StepRecord("evaluate", "launch"),),
        lease_owner_id=WORKER_ID,
        lease_until=LEASE,
        fence=1,
    )
    return replace(running, **changes)


def waiting_execution(job: Job, **changes) -> Execution:
    """Return the execution that waits for a job."""
    waiting = {"state": ExecutionState.WAITING, "lease_owner_id": None, "lease_until": None, "due_at": None}
    steps = (StepRecord("evaluate", "launch", job_id=job.id),)
    return execution(job.execution_id, **({"steps": steps} | waiting | changes))


def job(job_id="job_1", **changes) -> Job:
    """Return a queued job."""
    return make_job(job_id, NOW, **changes)


def capacity(worker_id="w1", **changes) -> WorkerCapacity:
    """Return the capacity of a worker without limits."""
    unlimited = WorkerCapacity(
        worker_id=WorkerId(worker_id),
        machine="m1",
        engine_ids={"docker": "engine-1"},
        queues={"default": ConcurrencyLimits()},
    )
    return replace(unlimited, **changes)


def ended(job: Job, state=JobState.SUCCEEDED, **changes) -> Job:
    return replace(job, state=state, finished_at=NOW + SECOND, lease_owner_id=None, lease_until=None, **changes)


def ids(jobs: Iterable[Job]) -> list[str]:
    return [job.id for job in jobs]
