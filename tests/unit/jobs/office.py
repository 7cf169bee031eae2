"""A keeper at work for tests: engines and stores in memory, a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from tests.waiting import eventually
from upshot.adapters.memory.backend import MemoryBackend
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryNotifier, MemoryStream
from upshot.clock import FrozenClock
from upshot.domain.automation import Automation, Step
from upshot.domain.event import Actor, Event, EventKind
from upshot.domain.execution import Execution
from upshot.domain.job import Job, JobRetryPolicy, JobSpec, JobState
from upshot.execution import transitions
from upshot.ids import execution_id, job_id
from upshot.jobs.container_request import ContainerRequestBuilder
from upshot.jobs.engine_monitor import PollIntervals
from upshot.jobs.supervisor import JobSupervisor, SupervisorSettings
from upshot.jobs.version_metrics import VersionMetricsWriter
from upshot.ports.events import EventQuery
from upshot.ports.executions import Admission, ExecutionUpdate
from upshot.ports.jobs import Installation
from upshot.registry.service import Registry
from upshot.schema.queues import JobsConfig
from upshot.testing import Secrets

T = TypeVar("T")

QUICK = PollIntervals(look=0.01, shortest=0.0, unreached=0.01, idle=0.01, turn=0.01, settled=0.01, after_trouble=0.01)
INSTALLATION = Installation("ins_test", b"k" * 32)
ANN = Actor("ann", role="admin")


async def run_in_thread(work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """In place, with a turn for everybody else."""
    await asyncio.sleep(0)
    return work(*args, **kwargs)


class Office:
    """
    Stores, engines, and the keepers that work with them.

    Args:
        book: The rules of the queues.
        secrets: What the workers know.
    """

    def __init__(self, book: JobsConfig, secrets: Mapping[str, str]) -> None:
        self.clock = FrozenClock()
        self.events = MemoryEvents()
        self.executions = MemoryExecutions(self.events)
        self.jobs = MemoryJobs(self.executions)
        self.stream = MemoryStream()
        self.notifier = MemoryNotifier()
        self.registry = Registry(MemoryRegistry(self.events), self.stream, self.clock)
        self.engine = MemoryBackend(self.clock)
        self.book = book
        self.secrets = Secrets(secrets)
        self._running: list[tuple[JobSupervisor, asyncio.Event, list[asyncio.Task[None]]]] = []
        self._count = 0

    # --- what a test sets going -------------------------------------------------------------------

    def version(self) -> Event:
        """Link a version, and give the event."""
        self._count += 1
        made = self.registry.log_artifact("fraud", "xgb", "model", metadata={"number": self._count}, actor=ANN)
        linked = self.registry.link("model", "fraud", made.value.reference, actor=ANN)
        return next(event for event in linked.events if event.kind is EventKind.VERSION_LINKED)

    def queue(self, spec: JobSpec | None = None, **fields: Any) -> Job:
        """Queue a job, held by an execution of its own, as the engine does."""
        event, now = self.version(), self.clock.now()
        step = Step("evaluate", "launch", {})
        automation = Automation("evaluate-candidate", "0" * 12, "evaluate.yaml", 1, (), (step,))
        name = execution_id(event.id, automation.name)
        execution = transitions.admit(name, automation, event.id, now=now, owner="w0", until=now)
        self.executions.admit([Admission(event.id, (execution,))], now)
        job = Job(
            id=job_id(name, 1, now),
            name="evaluate",
            automation=automation.name,
            execution_id=name,
            step_id="evaluate",
            event_id=event.id,
            delivery_id="dlv_1",
            queue="default",
            backend="docker",
            spec=spec or JobSpec(image="evaluate:1"),
            created_at=now,
            due_at=now,
            retry=JobRetryPolicy(max_attempts=3, first_seconds=1),
        )
        job = replace(job, **fields)
        held = transitions.step_held(execution, execution.steps[0], job=job.id, reason="a job", started_at=now)
        self.executions.record([ExecutionUpdate(held, jobs=(job,))])
        return job

    # --- keepers ----------------------------------------------------------------------------------

    def open(
        self, worker: str = "w1", *, engines: Mapping[str, MemoryBackend] | None = None, **settings: Any
    ) -> JobSupervisor:
        """Let a keeper begin its work."""
        keeper = JobSupervisor(
            SupervisorSettings(
                **{
                    "worker_id": worker,
                    "machine": "m1",
                    "queues": None,
                    "lease": timedelta(seconds=30),
                    "lost_after": timedelta(seconds=600),
                    "log_bytes": 1_000_000,
                    "removes_orphans": False,
                    "pace": QUICK,
                    **settings,
                }
            ),
            backends=engines or {"docker": self.engine},
            jobs=self.jobs,
            events=self.events,
            publisher=self.stream,
            doorbell=self.notifier,
            clerk=ContainerRequestBuilder(INSTALLATION, self.secrets, "http://upshot.test"),
            book=self.book,
            metrics=VersionMetricsWriter(self.registry, run_in_thread),
            clock=self.clock,
            run_in_thread=run_in_thread,
        )
        until = asyncio.Event()
        tasks = [asyncio.create_task(keeper.monitor_engines(until)), asyncio.create_task(_keep_on(keeper))]
        self._running.append((keeper, until, tasks))
        return keeper

    async def kill(self, keeper: JobSupervisor) -> None:
        """End a keeper as kill -9 does: it says nothing more, and hands nothing back."""
        for one in [one for one in self._running if one[0] is keeper]:
            self._running.remove(one)
            held = [held.task for held in keeper._supervised.values()]
            for task in (*one[2], *held):
                task.cancel()
            await asyncio.wait((*one[2], *held))

    async def pause(self, keeper: JobSupervisor) -> None:
        """Let a keeper take nothing more; what it follows it goes on following."""
        for _, _, tasks in [one for one in self._running if one[0] is keeper]:
            tasks[-1].cancel()
            await asyncio.wait(tasks[-1:])

    async def close(self) -> None:
        """Stop every keeper."""
        for keeper, until, tasks in self._running:
            until.set()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await keeper.stop()

    # --- what a test sees -------------------------------------------------------------------------

    def job(self, job: Job) -> Job:
        """As it stands."""
        found = self.jobs.find(job.id)
        assert found is not None
        return found

    def execution(self, job: Job) -> Execution:
        """That it belongs to."""
        found = self.executions.find(job.execution_id)
        assert found is not None
        return found[0]

    def told(self, job: Job) -> list[Event]:
        """Events of the job, in order."""
        page = self.events.page(EventQuery(mutation_id=job.id, after="evt_0"), cursor=None, limit=100)
        return sorted((stored.event for stored in page.items), key=lambda event: (event.time, event.sequence))

    def log(self, job: Job) -> str:
        """All that is kept of what it said."""
        return "".join(piece.text for piece in self.jobs.log(job.id, after=0, limit=1000))

    async def until(self, look: Callable[[], object]) -> None:
        """Wait until it is so."""

        async def asked() -> bool:
            return bool(look())

        await eventually(asked, seconds=20)

    async def until_state(self, job: Job, state: JobState) -> Job:
        """Wait until the job is so."""
        await self.until(lambda: self.job(job).state is state)
        return self.job(job)

    async def quiet(self, seconds: float = 0.1) -> None:
        """Give whatever might happen, and should not, the time to happen."""
        await asyncio.sleep(seconds)


async def _keep_on(keeper: JobSupervisor) -> None:
    while True:
        await keeper.reconcile()
        await keeper.wait_for_work(0.01)


@asynccontextmanager
async def _office(book: JobsConfig, secrets: Mapping[str, str]) -> AsyncIterator[Office]:
    office = Office(book, secrets)
    try:
        yield office
    finally:
        await office.close()


def play(
    story: Callable[[Office], Awaitable[None]], *, book: JobsConfig, secrets: Mapping[str, str] | None = None
) -> None:
    """Play a story in an office of its own."""

    async def whole() -> None:
        async with _office(book, secrets or {}) as office:
            await story(office)

    asyncio.run(whole())
