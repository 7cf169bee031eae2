"""Jobs in the states that workers leave them in, for tests of the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx

from tests.job_records import make_job
from tests.web.conftest import API, Stores, ok_json
from upshot.clock import FrozenClock
from upshot.domain.execution import Execution, ExecutionState, StepRecord
from upshot.domain.job import ImagePullCredentials, Job, JobSpec, JobState
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.ids import EventId, RevisionId, WorkerId, derive_delivery_id, derive_execution_id, derive_job_id
from upshot.ports.executions import Admission, ExecutionUpdate
from upshot.ports.jobs import ConcurrencyLimits, JobUpdate, WorkerCapacity
from upshot.ports.workers import WorkerRecord

NONCE = "Nx0123456789abcdef0123456789abcdef"
ENGINES: Mapping[str, str] = {"docker": "engine-1"}
WORKER_ID = WorkerId("w1")


@dataclass(frozen=True)
class JobsApiHarness:
    """Creates jobs that steps wait for, and changes them as a worker does."""

    web: httpx.Client
    stores: Stores
    clock: FrozenClock

    def queued(self, *, event_id: EventId | None = None, automation: str = "promote", **changes: Any) -> Job:
        """Create a queued job, and the execution that waits for it."""
        if event_id is None:
            event_id = ok_json(self.web.post(f"{API}/events", json={"name": "go"}))["id"]
        execution_id = derive_execution_id(event_id, automation)
        delivery_id = derive_delivery_id(execution_id, "evaluate")
        placeholders = SecretPlaceholders(NONCE)
        now = self.clock.now()
        job = make_job(
            derive_job_id(delivery_id, 1, now),
            now,
            automation=automation,
            execution_id=execution_id,
            event_id=event_id,
            delivery_id=delivery_id,
            spec=JobSpec(
                image="acme/evaluate:1",
                env={"API_KEY": f"Bearer {placeholders.placeholder('API_KEY')}", "MODE": "fast"},
                secret_files={"key.pem": placeholders.placeholder("KEY")},
                registry_auth=ImagePullCredentials("robot", placeholders.placeholder("PULL")),
            ),
            secrets=("API_KEY", "KEY", "PULL"),
            nonce=NONCE,
        )
        job = replace(job, **changes)
        self._admit(job)
        return job

    def _admit(self, job: Job) -> None:
        now = self.clock.now()
        running = Execution(
            id=job.execution_id,
            automation=job.automation,
            revision_id=RevisionId("r1"),
            event_id=job.event_id,
            state=ExecutionState.RUNNING,
            created_at=now,
            steps=(StepRecord("evaluate", "launch"),),
            lease_owner_id=WORKER_ID,
            lease_until=now,
            fence=1,
        )
        self.stores.executions.admit([Admission(job.event_id, (running,))], now)
        step = StepRecord("evaluate", "launch", job_id=job.id, reason="waits for its job", started_at=now)
        waiting = replace(
            running,
            state=ExecutionState.WAITING,
            reason="step evaluate: waits for its job",
            lease_owner_id=None,
            lease_until=None,
            steps=(step,),
        )
        assert not self.stores.executions.record([ExecutionUpdate(waiting, jobs=(job,))])

    def claim(self, *queues: str) -> tuple[Job, ...]:
        """Claim queued jobs, as a worker does."""
        now = self.clock.now()
        limits = dict.fromkeys(queues or ("default",), ConcurrencyLimits())
        capacity = WorkerCapacity(WORKER_ID, "machine-1", ENGINES, limits)
        return self.stores.jobs.claim_queued(capacity, now=now, until=now + timedelta(seconds=30))

    def record(self, job: Job, state: JobState, **changes: Any) -> Job:
        """Record a new state of a job, as the worker that supervises it does."""
        changed = replace(job, state=state, **changes)
        assert not self.stores.jobs.record([JobUpdate(changed, wakes_execution=state.is_final)])
        return changed

    def running(self, **changes: Any) -> Job:
        """Create a running job."""
        job = self.queued(**changes)
        (claimed,) = [other for other in self.claim(job.queue) if other.id == job.id]
        return self.record(
            claimed, JobState.RUNNING, started_at=self.clock.now(), handle="c0ffee", image_digest="sha256:1"
        )

    def append_log(self, job: Job, *texts: str, keep_bytes: int = 1_000_000) -> None:
        """Append chunks to a job's log."""
        for text in texts:
            self.stores.jobs.append_log(job.id, text, position="p", now=self.clock.now(), keep_bytes=keep_bytes)

    def add_worker(self, **changes: Any) -> None:
        """Record the heartbeat of a worker."""
        now = self.clock.now()
        record = WorkerRecord(
            id=WORKER_ID,
            host="host-1",
            pid=1,
            started_at=now,
            seen_at=now,
            in_progress=0,
            stream_read_at=None,
            automations=1,
            machine="machine-1",
            queues=("events", "default"),
            engines=ENGINES,
        )
        self.stores.workers.heartbeat(replace(record, **changes))
