"""Job supervisors for tests: engines and stores in memory, and a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.job_records import make_job
from tests.run_in_place import run_in_place
from tests.waiting import eventually
from upshot.adapters.memory.backend import MemoryBackend
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryNotifier, MemoryStream
from upshot.client.file_trees import FileTrees
from upshot.clock import FrozenClock
from upshot.domain.automation import Automation, Step
from upshot.domain.event import Actor, Event, EventKind, Origin, Role
from upshot.domain.execution import Execution
from upshot.domain.job import Job, JobRetryPolicy, JobSpec, JobState
from upshot.execution import transitions
from upshot.ids import DeliveryId, EventId, RevisionId, WorkerId, derive_execution_id, derive_job_id
from upshot.jobs.container_request import JobEnvironment
from upshot.jobs.engine_monitor import PollIntervals
from upshot.jobs.inputs import JobInputs
from upshot.jobs.supervisor import JobSupervisor, SupervisorSettings
from upshot.jobs.version_metrics import VersionMetricsWriter
from upshot.ports.events import EventQuery
from upshot.ports.executions import Admission, ExecutionUpdate
from upshot.ports.jobs import Installation
from upshot.ports.registry import VersionFiles
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.testing import Secrets

SHORT_INTERVALS = PollIntervals(
    engine_seconds=0.01,
    min_engine_seconds=0.0,
    unreachable_seconds=0.01,
    idle_seconds=0.01,
    event_delay_seconds=0.01,
    job_seconds=0.01,
    error_seconds=0.01,
)
INSTALLATION = Installation("ins_test", b"k" * 32)
ADMIN = Origin(Actor("ann", role=Role.ADMIN))


class SupervisorHarness:
    """
    Stores, an engine, and the supervisors that work with them.

    Args:
        config: Queues and their limits.
        cache: Directory of the workers' cache.
        secrets: What the workers know.
    """

    def __init__(self, config: JobsConfig, cache: Path, secrets: Mapping[str, str] | None = None) -> None:
        self.clock = FrozenClock()
        self.events = MemoryEvents()
        self.executions = MemoryExecutions(self.events)
        self.jobs = MemoryJobs(self.executions)
        self.stream = MemoryStream()
        self.notifier = MemoryNotifier()
        self.registry = Registry(MemoryRegistry(self.events), self.stream, self.clock)
        self.engine = MemoryBackend(self.clock)
        self.trees = FileTrees(cache, limit=0)
        self.versions: VersionFiles = self.registry
        self.make_client: Callable[[str], Any] = lambda _token: pytest.fail("no file is needed")
        self.retry = JobRetryPolicy(max_attempts=3, first_seconds=1)
        self.config = config
        self.secrets = Secrets(secrets or {})
        self._running: list[tuple[JobSupervisor, list[asyncio.Task[None]]]] = []
        self._versions = 0

    # --- what happens -----------------------------------------------------------------------------

    def link_version(self) -> Event:
        """Link a new version, and return the event."""
        self._versions += 1
        metadata = {"number": self._versions}
        logged = self.registry.log_artifact("fraud", "xgb", "model", metadata=metadata, origin=ADMIN)
        linked = self.registry.link("model", "fraud", logged.value.reference, origin=ADMIN)
        return next(event for event in linked.events if event.kind is EventKind.VERSION_LINKED)

    def queue(self, spec: JobSpec | None = None, **fields: Any) -> Job:
        """Queue a job with an execution that waits for it, as the executor does."""
        event, now = self.link_version(), self.clock.now()
        step = Step("evaluate", "launch", {})
        automation = Automation("evaluate-candidate", RevisionId("0" * 12), "evaluate.yaml", 1, (), (step,))
        execution_id = derive_execution_id(event.id, automation.name)
        worker_id = WorkerId("w0")
        execution = transitions.admit(execution_id, automation, event.id, now=now, worker_id=worker_id, until=now)
        self.executions.admit([Admission(event.id, (execution,))], now)
        job = make_job(
            derive_job_id(DeliveryId(execution_id), 1, now),
            now,
            automation=automation.name,
            execution_id=execution_id,
            event_id=event.id,
            spec=spec or JobSpec(image="evaluate:1"),
            retry=self.retry,
        )
        job = replace(job, **fields)
        waiting = transitions.step_deferred(
            execution, execution.steps[0], job_id=job.id, reason="waits for a job", started_at=now
        )
        self.executions.record([ExecutionUpdate(waiting, jobs=(job,))])
        return job

    # --- supervisors ------------------------------------------------------------------------------

    def start(
        self, worker_id: str = "w1", *, engines: Mapping[str, MemoryBackend] | None = None, **settings: Any
    ) -> JobSupervisor:
        """Start a supervisor."""
        supervisor = JobSupervisor(
            SupervisorSettings(
                **{
                    "worker_id": WorkerId(worker_id),
                    "machine": "m1",
                    "queues": None,
                    "lease": timedelta(seconds=30),
                    "lost_after": timedelta(seconds=600),
                    "log_bytes": 1_000_000,
                    "removes_orphans": False,
                    "intervals": SHORT_INTERVALS,
                    **settings,
                }
            ),
            backends=engines or {"docker": self.engine},
            jobs=self.jobs,
            events=self.events,
            publisher=self.stream,
            notifier=self.notifier,
            environment=JobEnvironment(INSTALLATION, self.secrets, "http://upshot.test"),
            config=self.config,
            metrics=VersionMetricsWriter(self.registry, run_in_place),
            inputs=JobInputs(self.versions, self.trees, self.make_client, INSTALLATION, run_in_place),
            clock=self.clock,
            run_in_thread=run_in_place,
        )
        tasks = [
            asyncio.create_task(supervisor.monitor_engines(asyncio.Event())),
            asyncio.create_task(_reconcile_forever(supervisor)),
        ]
        self._running.append((supervisor, tasks))
        return supervisor

    async def kill(self, supervisor: JobSupervisor) -> None:
        """End a supervisor as `kill -9` does: it writes nothing more, and releases nothing."""
        tasks = [supervised.task for supervised in supervisor._supervised.values()]
        for running in [running for running in self._running if running[0] is supervisor]:
            self._running.remove(running)
            tasks += running[1]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def pause(self, supervisor: JobSupervisor) -> None:
        """Stop a supervisor from claiming jobs. It still supervises the jobs that it has."""
        for task in [tasks[-1] for running, tasks in self._running if running is supervisor]:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Stop all supervisors."""
        for supervisor, tasks in self._running:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await supervisor.stop()

    # --- what a test sees -------------------------------------------------------------------------

    def job(self, job: Job) -> Job:
        """Return the job as it is now."""
        found = self.jobs.find(job.id)
        assert found is not None
        return found

    def execution(self, job: Job) -> Execution:
        """Return the execution of a job."""
        found = self.executions.find(job.execution_id)
        assert found is not None
        return found[0]

    def job_events(self, job: Job) -> list[Event]:
        """Return the events of a job, in order."""
        page = self.events.page(EventQuery(mutation_id=job.id, after_id=EventId("evt_0")), cursor=None, limit=100)
        return sorted((stored.event for stored in page.items), key=lambda event: (event.time, event.sequence))

    def log(self, job: Job) -> str:
        """Return the stored log of a job."""
        return "".join(chunk.text for chunk in self.jobs.log_chunks(job.id, after=0, limit=1000))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""

        async def holds() -> bool:
            return bool(condition())

        await eventually(holds, seconds=20)

    async def until_state(self, job: Job, state: JobState) -> Job:
        """Wait until a job has this state, and return the job."""
        await self.until(lambda: self.job(job).state is state)
        return self.job(job)

    async def settle(self, seconds: float = 0.1) -> None:
        """Give something that must not happen the time to happen."""
        await asyncio.sleep(seconds)


async def _reconcile_forever(supervisor: JobSupervisor) -> None:
    while True:
        await supervisor.reconcile()
        await supervisor.wait_for_work(0.01)
