"""
A complete Upshot in memory, for tests of automations and of Upshot itself.

    world = World()
    world.apply(Path("automations/promote.yaml"))
    world.respond("https://deploy.example.com", status=503, times=1)

    world.link("churn", alias="production")
    world.run_until_idle()
    world.clock.advance(60)
    world.run_until_idle()

    assert [request.json["version"] for request in world.sent] == ["v0", "v0"]

Only the network is fake: `world.sent` records the requests, and the test decides the responses.
Time stands still until the test advances the clock, and nothing happens until `run_until_idle`.
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

from typing_extensions import override

from upshot.errors import missing_server

try:
    from upshot.actions.catalog import load_catalog
    from upshot.actions.protocol import ActionContext, Egress, HttpResponse
    from upshot.adapters.memory.counters import MemoryCounters
    from upshot.adapters.memory.deliveries import MemoryDeliveries
    from upshot.adapters.memory.events import MemoryEvents
    from upshot.adapters.memory.executions import MemoryExecutions
    from upshot.adapters.memory.jobs import MemoryJobs
    from upshot.adapters.memory.registry import MemoryRegistry
    from upshot.adapters.memory.revisions import MemoryRevisions
    from upshot.adapters.memory.stream import MemoryNotifier, MemoryStream
    from upshot.automations.active import names_of
    from upshot.automations.loader import load_file, load_revision, load_text
    from upshot.automations.matcher import Matcher
    from upshot.clock import FrozenClock
    from upshot.domain.automation import Automation
    from upshot.domain.event import Actor, Event, EventKind, Origin, Role
    from upshot.domain.execution import Execution, Receipt
    from upshot.domain.job import FailureKind, Job, JobState
    from upshot.domain.registry import Version
    from upshot.execution.admission import Admitter
    from upshot.execution.attempt import ExecutorContext
    from upshot.execution.compiled import RevisionCache
    from upshot.execution.delivery_meter import DeliveryMeter
    from upshot.execution.executor import Executor
    from upshot.execution.limits import AttemptLimits
    from upshot.execution.recorder import Recorder
    from upshot.execution.secret_masks import SecretMasks
    from upshot.execution.sweeper import Sweeper
    from upshot.execution.transitions import cancel_by_user
    from upshot.execution.user_requests import Replay, RevisionChoice, UserRequests
    from upshot.ids import ExecutionId, WorkerId
    from upshot.jobs.events import job_event
    from upshot.jobs.transitions import JobOutcome, finish
    from upshot.ports.events import EventQuery, StoredEvent
    from upshot.ports.executions import ExecutionQuery
    from upshot.ports.jobs import JobQuery, JobUpdate
    from upshot.ports.run_in_thread import RunInThread
    from upshot.ports.secrets import SecretSource
    from upshot.registry.service import Registry
    from upshot.stream import Consumer, Relay
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing_server("upshot.testing", error), name=error.name) from error

T = TypeVar("T")

ADMIN = Origin(Actor("ann", role=Role.ADMIN))


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A request that left the machine."""

    method: str
    url: str
    headers: Mapping[str, str]  #: as sent
    body: bytes  #: as sent

    @property
    def json(self) -> Any:
        """The parsed body; raises ValueError if it is not JSON."""
        return json.loads(self.body)

    @property
    def delivery_id(self) -> str | None:
        """The delivery id in its headers; None if there is none."""
        return self.headers.get("webhook-id")


@dataclass(slots=True)
class _Response:
    prefix: str
    times: int | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: Exception | None = None


class RecordingEgress(Egress):
    """`Egress` that records the requests and responds as the test decides, by default with 200."""

    def __init__(self) -> None:
        self.sent: list[SentRequest] = []
        self._responses: list[_Response] = []

    def respond(self, response: _Response) -> None:
        """Add a response. The response that was added last is tried first."""
        self._responses.insert(0, response)

    def reset(self) -> None:
        """Respond to every request with 200 again."""
        self._responses.clear()

    @override
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
        self.sent.append(SentRequest(method, url, dict(headers), body))
        matching = (known for known in self._responses if url.startswith(known.prefix) and known.times != 0)
        response = next(matching, _Response("", None))
        if response.times is not None:
            response.times -= 1
        if response.error is not None:
            raise response.error
        return HttpResponse(
            status=response.status,
            headers=response.headers,
            body=response.body,
            body_bytes=len(response.body),
            truncated=False,
            request={"method": method, "url": url, "headers": dict(headers), "body": body.decode("utf-8", "replace")},
            timings={},
        )


class Secrets(SecretSource):
    """`SecretSource` from a mapping."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = dict(secrets)

    @override
    def get(self, name: str) -> str | None:
        return self._secrets.get(name)

    @override
    def names(self) -> frozenset[str]:
        return frozenset(self._secrets)


class World:
    """
    Registry, stream, automations and one worker, in memory.

    Args:
        secrets: Values of `secrets.NAME` in templates, by name.
    """

    def __init__(self, *, secrets: Mapping[str, str] | None = None) -> None:
        self.clock = FrozenClock()
        self.events = MemoryEvents()
        self.stream = MemoryStream()
        self.counters = MemoryCounters()
        self.deliveries = MemoryDeliveries()
        self.notifier = MemoryNotifier()
        self.executions = MemoryExecutions(self.events)
        self.jobs = MemoryJobs(self.executions)
        self.registry = Registry(MemoryRegistry(self.events), self.stream, self.clock)
        self.egress = RecordingEgress()
        self._catalog = load_catalog()
        self._revisions = MemoryRevisions()
        self._secrets = Secrets(secrets or {})
        self._masks = SecretMasks(self._secrets)
        self._automations: list[Automation] = []
        self._workers = 0

    # --- actions of a user ------------------------------------------------------------------------

    def apply(self, automations: str | Path) -> None:
        """
        Add the automations of a file or of a YAML text.

        Raises:
            AutomationInvalid: The first error in it.
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
        """
        Replace all automations by those of a file or of a YAML text.

        Raises:
            AutomationInvalid: The first error in it.
        """
        self._automations.clear()
        self.apply(automations)

    def retry(
        self, execution_id: ExecutionId, *, force: bool = False, revision: RevisionChoice | None = None
    ) -> Execution:
        """Retry a failed, cancelled or overtaken execution, as a user."""
        return self._user_requests().retry(execution_id, self.clock.now(), force=force, revision=revision)

    def replay(self, event: Event, *, automation: str | None = None, dry_run: bool = False) -> Replay:
        """Answer an event again, as a user."""
        stored = self.events.find(event.id)
        if stored is None:
            raise AssertionError(f"there is no event {event.id}")
        now, name = self.clock.now(), ADMIN.actor.name
        return self._user_requests().replay(stored, now, user_name=name, automation=automation, dry_run=dry_run)

    def _user_requests(self) -> UserRequests:
        return UserRequests(
            self.executions,
            self.events,
            self._revisions,
            automations={automation.name: automation for automation in self._automations},
            matcher=self.matcher,
            load_revision=partial(load_revision, catalog=self._catalog),
        )

    def cancel(self, execution_id: ExecutionId) -> None:
        """Cancel an execution, as a user."""
        now = self.clock.now()
        self.executions.amend(execution_id, lambda execution: cancel_by_user(execution, now, ADMIN.actor.name))

    def link(self, collection: str = "churn", *, alias: str | None = None, registry: str = "model") -> Version:
        """Log a new artifact version, link it and add the alias, each in its own mutation."""
        logged = sum(stored.event.kind is EventKind.ARTIFACT_CREATED for stored in self.all_events())
        artifact = self.registry.log_artifact(
            "team", collection, "model", manifest={"model.bin": f"sha256:{logged}"}, origin=ADMIN
        )
        version = self.registry.link(registry, collection, artifact.value.reference, origin=ADMIN).value
        if alias is not None:
            self.registry.add_alias(registry, collection, alias, version.name, origin=ADMIN)
        return version

    def emit(self, name: str, **data: Any) -> Event:
        """Emit a custom event."""
        return self.registry.emit([(name, data)], origin=ADMIN)[0]

    def respond(
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
        Decide how matching requests are answered from now on.

        Args:
            prefix: Beginning of the URLs of matching requests.
            times: Number of requests; None for all.
            status: HTTP status.
            headers: Headers, with names in lower case.
            body: Body.
            error: Raised in place of a response: an `ActionError`, as the real egress raises it.
        """
        self.egress.respond(_Response(prefix, times, status, headers or {}, body, error))

    def finish_job(
        self,
        *,
        outputs: Mapping[str, Any] | None = None,
        exit_code: int = 0,
        failure: FailureKind | None = None,
        reason: str | None = None,
        step_id: str | None = None,
    ) -> Job:
        """
        Finish the job of a `launch` step. No container is started for it.

        Args:
            outputs: Content of `outputs.json`.
            exit_code: The job fails if it is not 0.
            failure: Why the job failed, if not because of its exit code: OUT_OF_MEMORY, TIMED_OUT, …
            reason: Description of the failure.
            step_id: The step of the job; None if there is only one job.
        """
        waiting = [job for job in self.all_jobs() if not job.state.is_final and step_id in (None, job.step_id)]
        if len(waiting) != 1:
            raise AssertionError(f"there are {len(waiting)} unfinished jobs, not one: {waiting}")
        if exit_code and failure is None:
            failure, reason = FailureKind.EXITED, reason or f"it ended with exit code {exit_code}"
        now = self.clock.now()
        running = dataclass_replace(waiting[0], state=JobState.RUNNING, due_at=None, machine="test", started_at=now)
        ended = finish(
            dataclass_replace(running, exit_code=exit_code, outputs=outputs), JobOutcome(failure, reason), now=now
        )
        event = self.events.get([running.event_id])[running.event_id]
        events = tuple(made for job in (running, ended) if (made := job_event(job, event, now)))
        self.jobs.record([JobUpdate(ended, events, wakes_execution=True)])
        self.stream.publish(events)
        return ended

    # --- results ----------------------------------------------------------------------------------

    def run_until_idle(self) -> None:
        """Let a new worker do everything that can be done now."""
        asyncio.run(self._run_one_worker())

    async def _run_one_worker(self) -> None:
        self._workers += 1
        await Worker(self, f"worker-{self._workers}").run_until_idle()

    @property
    def sent(self) -> list[SentRequest]:
        """The requests that left, in order."""
        return self.egress.sent

    def execution(self, automation: str | None = None) -> Execution:
        """Return the only execution, or the only execution of that automation."""
        found = self.all_executions(automation)
        if len(found) != 1:
            raise AssertionError(f"there are {len(found)} executions, not one: {found}")
        return found[0]

    def all_executions(self, automation: str | None = None) -> tuple[Execution, ...]:
        """Return the executions, newest first."""
        return self.executions.page(ExecutionQuery(automation=automation), cursor=None, limit=10_000).items

    def all_events(self) -> tuple[StoredEvent, ...]:
        """Return the events, newest first."""
        return self.events.page(EventQuery(), cursor=None, limit=10_000).items

    def all_jobs(self) -> tuple[Job, ...]:
        """Return the jobs, newest first."""
        listed = self.jobs.page(JobQuery(), cursor=None, limit=10_000).items
        complete = self.jobs.get([job.id for job in listed])  # a page leaves out the outputs
        return tuple(complete[job.id] for job in listed)

    def receipts(self, execution: Execution) -> tuple[Receipt, ...]:
        """Return the receipts of an execution, in the order of their start."""
        found = self.executions.find(execution.id)
        return found[1] if found else ()

    @property
    def matcher(self) -> Matcher:
        """The matcher of the current automations."""
        return Matcher(self._automations)

    # --- for Worker -------------------------------------------------------------------------------

    def make_executor(
        self, worker_id: WorkerId, run_in_thread: RunInThread, egress: Egress
    ) -> tuple[Executor, Admitter]:
        """Create an executor on the running event loop."""
        executor = Executor(
            context=ExecutorContext(
                worker_id=worker_id,
                action_context=ActionContext(
                    egress=egress,
                    registry=self.registry,
                    github_api_url="https://api.github.com",
                    slack_api_url="https://slack.com/api",
                    jobs=self.jobs,
                ),
                secrets=self._secrets,
                masks=self._masks,
                clock=self.clock,
                event_source="upshot",
            ),
            executions=self.executions,
            events=self.events,
            recorder=Recorder(self.executions, self.stream, run_in_thread),
            revisions=RevisionCache(self._catalog, self._revisions, partial(load_revision, catalog=self._catalog)),
            run_in_thread=run_in_thread,
            max_in_flight=100,
            meter=DeliveryMeter(self.deliveries, run_in_thread),
            limits=AttemptLimits(100, clock=lambda: self.clock.now().timestamp()),
            lease=timedelta(seconds=30),
            names=partial(names_of, tuple(self._automations)),
        )
        matcher = self.matcher
        return executor, Admitter(executor, lambda: matcher, self.clock)


class Worker(Egress):
    """
    One worker of a world, on the running event loop.

    Args:
        world: The world.
        name: Id of the worker.
        at_each_step: Awaited before and after each call of a store and each request. A test that kills the
            worker there never returns from it.
    """

    def __init__(self, world: World, name: str, at_each_step: Callable[[], Awaitable[None]] | None = None) -> None:
        self._world = world
        self._at_each_step = at_each_step
        self.executor, admitter = world.make_executor(WorkerId(name), self._run_in_thread, self)
        self._consumer = Consumer(
            stream=world.stream,
            events=world.events,
            executions=world.executions,
            admitter=admitter,
            executor=self.executor,
            publisher=world.stream,
            counters=world.counters,
            clock=world.clock,
            run_in_thread=self._run_in_thread,
        )
        self._relay = Relay(
            world.stream, world.events, world.stream, world.clock, self._run_in_thread, after=timedelta(seconds=5)
        )
        self.sweeper = Sweeper(
            self.executor,
            world.executions,
            world.notifier,
            world.clock,
            self._run_in_thread,
            after_outage=timedelta(seconds=6),
        )

    async def _step(self) -> None:
        if self._at_each_step:
            await self._at_each_step()

    async def _run_in_thread(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        await self._step()
        result = work(*args, **kwargs)
        await self._step()
        return result

    @override
    async def send(self, *args: Any, **kwargs: Any) -> HttpResponse:
        await self._step()
        response = await self._world.egress.send(*args, **kwargs)
        await self._step()
        return response

    async def run_until_idle(self) -> None:
        """Do everything that can be done now."""
        world = self._world
        recorder = asyncio.create_task(self.executor.recorder.run())
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
                notified, world.notifier.notified = world.notifier.notified, []
                await self.executor.execute(notified)
                await self.executor.find_waiting()
                done += await self.executor.return_waiting()
                await self.executor.wait_until_idle()
                if not done:
                    await self.executor.meter.flush()
                    return
        finally:
            recorder.cancel()
