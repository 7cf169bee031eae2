"""
A whole Upshot in memory, for tests of automations and of Upshot itself.

    world = World()
    world.apply(Path("automations/promote.yaml"))
    world.answer("https://deploy.example.com", status=503, times=1)

    world.link("churn", alias="production")
    world.settle()
    world.clock.advance(60)
    world.settle()

    assert [post.json["version"] for post in world.sent] == ["v0", "v0"]

Everything is real but what leaves the machine: requests are recorded in `world.sent` and answered
as the test says, time stands still until it is moved, and nothing happens until `settle`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as dataclass_replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from upshot.actions.catalog import load_catalog
from upshot.actions.egress_rules import EgressRules
from upshot.actions.protocol import ActionContext, HttpResponse
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions, MemoryRevisions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.adapters.memory.stream import MemoryNotifier, MemoryStream
from upshot.automations.loader import load_file, load_text, rebuild
from upshot.automations.matcher import Matcher
from upshot.clock import FrozenClock
from upshot.domain.automation import Automation
from upshot.domain.event import Actor, Event, EventKind
from upshot.domain.execution import Execution, Receipt
from upshot.domain.job import FailureKind, Job, JobState
from upshot.domain.registry import Version
from upshot.execution.admission import Admitter
from upshot.execution.attempt import ExecutorContext
from upshot.execution.compiled import RevisionCache
from upshot.execution.executor import Executor
from upshot.execution.sweeper import Sweeper
from upshot.execution.transitions import cancel_by_person, retry_by_person
from upshot.jobs.events import job_event
from upshot.jobs.transitions import JobOutcome, finish
from upshot.ports.events import EventQuery, StoredEvent
from upshot.ports.executions import ExecutionQuery
from upshot.ports.jobs import JobQuery, JobUpdate
from upshot.registry.service import Registry
from upshot.stream import Consumer, Relay

T = TypeVar("T")

ANN = Actor("ann", role="admin")


@dataclass(frozen=True, slots=True)
class SentRequest:
    """One request that left."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as data."""
        return json.loads(self.body)

    @property
    def delivery(self) -> str | None:
        """The delivery id that its headers carry."""
        return self.headers.get("webhook-id")


@dataclass(slots=True)
class _Answer:
    prefix: str
    times: int | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: Exception | None = None


class RecordingEgress:
    """`Egress` that records what would leave, and answers as it was told; 200 where it was told nothing."""

    def __init__(self) -> None:
        self.sent: list[SentRequest] = []
        self._answers: list[_Answer] = []

    def answer(self, answer: _Answer) -> None:
        """Answer so from now on; the latest that fits is asked first."""
        self._answers.insert(0, answer)

    def forget_answers(self) -> None:
        """Answer everything with 200 again."""
        self._answers.clear()

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        follow_redirects: bool = False,
    ) -> HttpResponse:
        """Record the request and answer."""
        self.sent.append(SentRequest(method, url, dict(headers), body))
        answer = self._next(url)
        if answer.error is not None:
            raise answer.error
        return HttpResponse(
            status=answer.status,
            headers=answer.headers,
            body=answer.body,
            body_bytes=len(answer.body),
            truncated=False,
            request={"method": method, "url": url, "headers": dict(headers), "body": body.decode("utf-8", "replace")},
            timings={},
        )

    def _next(self, url: str) -> _Answer:
        for answer in self._answers:
            if url.startswith(answer.prefix) and answer.times != 0:
                if answer.times is not None:
                    answer.times -= 1
                return answer
        return _Answer("", None)


class Secrets:
    """`SecretSource` from a mapping."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = dict(secrets)

    def get(self, name: str) -> str | None:
        """The secret's value."""
        return self._secrets.get(name)

    def names(self) -> frozenset[str]:
        """The names that are known."""
        return frozenset(self._secrets)


class World:
    """
    Registry, stream, automations and one worker, in memory.

    Args:
        secrets: What `secrets.NAME` gives.
    """

    def __init__(self, *, secrets: Mapping[str, str] | None = None) -> None:
        self.clock = FrozenClock()
        self.events = MemoryEvents()
        self.stream = MemoryStream()
        self.notifier = MemoryNotifier()
        self.executions = MemoryExecutions(self.events)
        self.jobs = MemoryJobs(self.executions)
        self.registry = Registry(MemoryRegistry(self.events), self.stream, self.clock)
        self.egress = RecordingEgress()
        self._catalog = load_catalog(EgressRules())
        self._revisions = MemoryRevisions()
        self._secrets = Secrets(secrets or {})
        self._automations: list[Automation] = []
        self._workers = 0

    # --- what a user does -------------------------------------------------------------------------

    def apply(self, automations: str | Path) -> None:
        """
        Add the automations of a file, or of a text.

        Raises:
            AutomationInvalid: The first finding.
        """
        if isinstance(automations, Path):
            loaded = load_file(automations.parent, automations.name, self._catalog)
        else:
            loaded = load_text(automations, "test.yaml", self._catalog)
        if loaded.errors:
            raise loaded.errors[0]
        self._automations += loaded.automations
        self._revisions.save(loaded.automations, self.clock.now())

    def replace(self, automations: str | Path) -> None:
        """Take all automations out of force, and put these in; raises as `apply` does."""
        self._automations.clear()
        self.apply(automations)

    def retry(self, execution_id: str) -> None:
        """Let a person retry an execution."""
        self.executions.amend(execution_id, lambda one: retry_by_person(one, self.clock.now()))

    def cancel(self, execution_id: str) -> None:
        """Let a person cancel an execution."""
        self.executions.amend(execution_id, lambda one: cancel_by_person(one, self.clock.now(), ANN.name))

    def link(self, collection: str = "churn", *, alias: str | None = None, registry: str = "model") -> Version:
        """Log a new artifact version, link it, and give it the alias, each as its own mutation."""
        artifact = self.registry.log_artifact(
            "team", collection, "model", manifest={"model.bin": f"sha256:{self._artifacts()}"}, actor=ANN
        )
        version = self.registry.link(registry, collection, artifact.value.reference, actor=ANN).value
        if alias is not None:
            self.registry.add_alias(registry, collection, alias, version.name, actor=ANN)
        return version

    def _artifacts(self) -> int:
        return sum(one.event.kind is EventKind.ARTIFACT_CREATED for one in self.all_events())

    def emit(self, name: str, **data: Any) -> Event:
        """Accept a custom event."""
        return self.registry.emit([(name, data)], actor=ANN)[0]

    def answer(
        self,
        prefix: str = "",
        *,
        times: int | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        error: Exception | None = None,
    ) -> None:
        """
        Say how requests are answered from now on.

        Args:
            prefix: Which requests: those whose URL begins so.
            times: How often; None for always.
            status: HTTP status of the answer.
            headers: Its headers, names in lower case.
            body: Its body.
            error: Raised instead of an answer: an `ActionError`, as the real door raises it.
        """
        self.egress.answer(_Answer(prefix, times, status, headers or {}, body, error))

    def finish_job(
        self,
        *,
        outputs: Mapping[str, Any] | None = None,
        exit_code: int = 0,
        failure: FailureKind | None = None,
        reason: str | None = None,
        step: str | None = None,
    ) -> Job:
        """
        Let a job that a `launch` step asked for run and end; nothing is started for it.

        Args:
            outputs: What it writes to `outputs.json`.
            exit_code: Any but 0 is a failure.
            cause: Why it failed, where that is not its exit code: OUT_OF_MEMORY, TIMED_OUT, …
            reason: In words.
            step: Of which step; None: there is only one job.
        """
        waiting = [job for job in self.all_jobs() if not job.state.is_final and step in (None, job.step_id)]
        if len(waiting) != 1:
            raise AssertionError(f"there are {len(waiting)} jobs that could end, not one: {waiting}")
        if exit_code and failure is None:
            failure, reason = FailureKind.EXITED, reason or f"it ended with exit code {exit_code}"
        now = self.clock.now()
        running = dataclass_replace(waiting[0], state=JobState.RUNNING, due_at=None, machine="test", started_at=now)
        ended = finish(
            dataclass_replace(running, exit_code=exit_code, outputs=outputs), JobOutcome(failure, reason), now=now
        )
        event = self.events.get([running.event_id])[running.event_id]
        told = [one for job in (running, ended) if (one := job_event(job, event, now))]
        self.jobs.record([JobUpdate(ended, tuple(told), wakes=True)])
        self.stream.publish(told)
        return ended

    # --- what happens -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Let one worker do everything that can be done now."""
        asyncio.run(self._settle())

    async def _settle(self) -> None:
        self._workers += 1
        worker = Worker(self, f"worker-{self._workers}")
        await worker.settle()

    @property
    def sent(self) -> list[SentRequest]:
        """What left, in order."""
        return self.egress.sent

    def execution(self, automation: str | None = None) -> Execution:
        """The only execution, or the only one of that automation."""
        found = self.all_executions(automation)
        if len(found) != 1:
            raise AssertionError(f"there are {len(found)} executions, not one: {found}")
        return found[0]

    def all_executions(self, automation: str | None = None) -> tuple[Execution, ...]:
        """Executions, newest first."""
        return self.executions.page(ExecutionQuery(automation=automation), cursor=None, limit=10_000).items

    def all_events(self) -> tuple[StoredEvent, ...]:
        """Events, newest first, with what has become of them."""
        return self.events.page(EventQuery(), cursor=None, limit=10_000).items

    def all_jobs(self) -> tuple[Job, ...]:
        """Jobs, newest first."""
        listed = self.jobs.page(JobQuery(), cursor=None, limit=10_000).items
        whole = self.jobs.get([job.id for job in listed])  # with their outputs, which lists leave out
        return tuple(whole[job.id] for job in listed)

    def receipts(self, execution: Execution) -> tuple[Receipt, ...]:
        """Its receipts, in the order of their start."""
        found = self.executions.find(execution.id)
        return found[1] if found else ()

    @property
    def matcher(self) -> Matcher:
        """Of the automations that were applied."""
        return Matcher(self._automations)

    # --- for Worker -------------------------------------------------------------------------------

    def make_engine(self, worker: str, run_in_thread: Callable[..., Any], egress: Any) -> tuple[Executor, Admitter]:
        """An engine on the running loop."""
        engine = Executor(
            bench=ExecutorContext(
                worker_id=worker,
                tools=ActionContext(
                    egress=egress,
                    registry=self.registry,
                    github_api_url="https://api.github.com",
                    slack_api_url="https://slack.com/api",
                    jobs=self.jobs,
                ),
                secrets=self._secrets,
                clock=self.clock,
                event_source="upshot",
            ),
            executions=self.executions,
            events=self.events,
            publisher=self.stream,
            book=RevisionCache(self._catalog, self._revisions, partial(rebuild, catalog=self._catalog)),
            run_in_thread=run_in_thread,
            in_flight=100,
            lease=timedelta(seconds=30),
        )
        matcher = self.matcher
        return engine, Admitter(engine, lambda: matcher, self.clock)


class Worker:
    """
    One worker of a world, on the running loop.

    Args:
        world: Its world.
        name: Its id.
        at_each_step: Awaited before and after each call of a store and each request; a test that lets
            a worker die there never returns from it.
    """

    def __init__(self, world: World, name: str, at_each_step: Callable[[], Awaitable[None]] | None = None) -> None:
        self._world = world
        self._at_each_step = at_each_step
        self.engine, self._reception = world.make_engine(name, self._run_in_thread, self)
        self._consumer = Consumer(world.stream, world.executions, self._reception, world.clock, self._run_in_thread)
        self._relay = Relay(
            world.stream, world.events, world.stream, world.clock, self._run_in_thread, after=timedelta(seconds=5)
        )
        self.sweeper = Sweeper(
            self.engine,
            world.executions,
            world.notifier,
            world.clock,
            self._run_in_thread,
            after_outage=timedelta(seconds=6),
        )

    async def _run_in_thread(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        await self._step()
        result = work(*args, **kwargs)
        await self._step()
        return result

    async def send(self, *args: Any, **kwargs: Any) -> HttpResponse:
        """Send by the world's egress."""
        await self._step()
        answer = await self._world.egress.send(*args, **kwargs)
        await self._step()
        return answer

    async def _step(self) -> None:
        if self._at_each_step:
            await self._at_each_step()

    async def settle(self) -> None:
        """Do everything that can be done now."""
        world = self._world
        writing = asyncio.create_task(self.engine.write_records())
        try:
            while True:
                done = 0
                if not world.stream.is_down:
                    await self._relay.relay()
                    entries = await world.stream.read(limit=1000, wait_seconds=0)
                    entries += await world.stream.take_over(idle_seconds=0, limit=1000) if not entries else ()
                    await self._consumer.consume(entries)
                    done += len(entries)
                done += await self.sweeper.sweep()
                rung, world.notifier.notified = world.notifier.notified, []
                await self.engine.execute(rung)
                await self.engine.idle()
                if not done:
                    return
        finally:
            writing.cancel()
