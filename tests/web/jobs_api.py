"""Jobs as the workers would have left them, for tests of what people and jobs see of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx

from tests.web.conftest import API, Stores, made
from upshot.clock import FrozenClock
from upshot.domain.execution import Execution, ExecutionState, StepRecord
from upshot.domain.job import ImagePullCredentials, Job, JobSpec, JobState
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.ids import delivery_id, execution_id, job_id
from upshot.ports.executions import Admission, ExecutionUpdate
from upshot.ports.jobs import ConcurrencyLimits, JobUpdate, WorkerCapacity
from upshot.ports.workers import WorkerRecord

NONCE = "Nx0123456789abcdef0123456789abcdef"
ENGINES: Mapping[str, str] = {"docker": "engine-1"}


@dataclass(frozen=True)
class Shop:
    """Makes events, has a `launch` step of `automation` wait for a job of each, and works on those as a worker."""

    web: httpx.Client
    stores: Stores
    clock: FrozenClock

    def job(self, *, event: str | None = None, automation: str = "promote", **changes: Any) -> Job:
        """A queued job, and the execution that waits for it."""
        if event is None:
            event = made(self.web.post(f"{API}/events", json={"name": "go"}))["id"]
        execution = execution_id(event, automation)
        delivery = delivery_id(execution, "evaluate")
        marks = SecretPlaceholders(NONCE)
        job = Job(
            id=job_id(delivery, 1, self.clock.now()),
            name="evaluate",
            automation=automation,
            execution_id=execution,
            step_id="evaluate",
            event_id=event,
            delivery_id=delivery,
            queue="default",
            backend="docker",
            spec=JobSpec(
                image="acme/evaluate:1",
                env={"API_KEY": f"Bearer {marks.mark('API_KEY')}", "MODE": "fast"},
                files={"key.pem": marks.mark("KEY")},
                registry_auth=ImagePullCredentials("robot", marks.mark("PULL")),
            ),
            secrets=("API_KEY", "KEY", "PULL"),
            nonce=NONCE,
            created_at=self.clock.now(),
            due_at=self.clock.now(),
        )
        job = replace(job, **changes)
        self._admit(job)
        return job

    def _admit(self, job: Job) -> None:
        now = self.clock.now()
        running = Execution(
            id=job.execution_id,
            automation=job.automation,
            revision="r1",
            event_id=job.event_id,
            state=ExecutionState.RUNNING,
            created_at=now,
            steps=(StepRecord("evaluate", "launch"),),
            lease_owner="w1",
            lease_until=now,
            fence=1,
        )
        self.stores.executions.admit([Admission(job.event_id, (running,))], now)
        held = replace(
            running,
            state=ExecutionState.WAITING,
            reason="step evaluate: waits for its job",
            lease_owner=None,
            lease_until=None,
            steps=(StepRecord("evaluate", "launch", job_id=job.id, reason="waits for its job", started_at=now),),
        )
        assert not self.stores.executions.record([ExecutionUpdate(held, jobs=(job,))])

    def claim(self, *queues: str) -> tuple[Job, ...]:
        """Take what is queued, as a worker does."""
        now = self.clock.now()
        limits = dict.fromkeys(queues or ("default",), ConcurrencyLimits())
        offer = WorkerCapacity("w1", "machine-1", ENGINES, limits)
        return self.stores.jobs.claim_queued(offer, now=now, until=now + timedelta(seconds=30))

    def move(self, job: Job, state: JobState, **changes: Any) -> Job:
        """Record a job's state, as the worker that holds it does."""
        moved = replace(job, state=state, **changes)
        assert not self.stores.jobs.record([JobUpdate(moved, wakes=state.is_final)])
        return moved

    def running(self, **changes: Any) -> Job:
        """A job that runs."""
        job = self.job(**changes)
        (taken,) = [one for one in self.claim(job.queue) if one.id == job.id]
        return self.move(taken, JobState.RUNNING, started_at=self.clock.now(), handle="c0ffee", image_digest="sha256:1")

    def say(self, job: Job, *texts: str, keep_bytes: int = 1_000_000) -> None:
        """Keep what a job said."""
        for text in texts:
            self.stores.jobs.append_log(job.id, text, position="p", now=self.clock.now(), keep_bytes=keep_bytes)

    def worker(self, **changes: Any) -> None:
        """Let a worker be alive."""
        now = self.clock.now()
        record = WorkerRecord(
            *("w1", "host-1", 1, now, now, 0, None, 1),
            machine="machine-1",
            queues=("events", "default"),
            engines=ENGINES,
        )
        self.stores.workers.heartbeat(replace(record, **changes))
