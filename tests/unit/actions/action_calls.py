"""Helpers for tests of actions: a call, an egress with scripted responses, a registry that records changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from upshot.actions.protocol import Action, ActionCall, ActionContext, HttpResponse, Outcome
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.domain.event import Actor, ActorKind, Cause, Event, EventKind, Origin
from upshot.domain.stage import Stage
from upshot.errors import NotFound
from upshot.ids import EventId, ExecutionId

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVENT = Event(
    id=EventId("evt_1"),
    kind=EventKind.ALIAS_ADDED,
    time=NOW,
    subject="model/churn:v3",
    actor=Actor("ada"),
    mutation_id="mut_1",
    sequence=1,
    data={
        "registry": {"name": "model"},
        "collection": {"name": "churn"},
        "version": {"name": "v3", "reference": "model/churn:v3"},
        "alias": "production",
    },
)
CUSTOM_EVENT = Event(
    id=EventId("evt_2"),
    kind=EventKind.CUSTOM,
    time=NOW,
    subject="nightly",
    actor=Actor("ada"),
    mutation_id="mut_2",
    sequence=0,
    data={"registry": {"name": "model"}},
    name="nightly",
)


def make_call(with_: Mapping[str, Any], **changes: Any) -> ActionCall:
    """Return the first attempt of a step of the automation `promote`, with a rendered `with` block."""
    defaults: dict[str, Any] = {
        "event": EVENT,
        "automation": "promote",
        "execution_id": "exe_1",
        "execution_created_at": NOW,
        "step_id": "step-1",
        "attempt": 1,
        "delivery_id": "dlv_1",
        "now": NOW,
        "timeout_seconds": 30.0,
        "origin": Origin(
            Actor("promote", ActorKind.AUTOMATION),
            (Cause("promote", ExecutionId("exe_1"), EventId("evt_1"), "model/churn:v3"),),
        ),
        "event_source": "https://upshot.example",
    }
    return ActionCall(with_=with_, **(defaults | changes))


@dataclass(frozen=True)
class EgressCall:
    """One call of the egress by an action."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    follow_redirects: bool

    @property
    def json(self) -> Any:
        """The body as data."""
        return orjson.loads(self.body)


@dataclass
class ScriptedEgress:
    """Answers every request with the same response, and records the requests."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stopped: str | None = None
    sent: list[EgressCall] = field(default_factory=list)

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
        """Record the request and return the response."""
        self.sent.append(EgressCall(method, url, headers, body, follow_redirects))
        return replace(make_response(self.status, self.headers, self.body), stopped=self.stopped)


def make_response(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> HttpResponse:
    """Return a response of the egress client."""
    return HttpResponse(
        status=status,
        headers=headers or {},
        body=body,
        body_bytes=len(body),
        truncated=False,
        request={"method": "POST", "url": "https://receiver.example/"},
        timings={"connect": 0.001, "answer": 0.002},
    )


@dataclass
class FakeChange:
    """A change that the registry made."""

    value: Any
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Referenced:
    """A resource with nothing but a reference."""

    reference: str


class RecordingRegistry:
    """Records every change, or raises the given error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.changes: list[tuple[Any, ...]] = []
        self.chains: list[tuple[Cause, ...]] = []

    def _record(self, reference: str, chain: tuple[Cause, ...], *change: Any) -> Any:
        if self.error:
            raise self.error
        known = change in self.changes
        self.changes.append(change)
        self.chains.append(chain)
        return FakeChange(Referenced(reference), () if known else (EVENT,))

    def version(self, registry: str, collection: str, version: str) -> Any:
        """Raise NotFound: this registry is empty."""
        raise self.error or NotFound(f"there is no {registry}/{collection}:{version}")

    def set_stage(self, registry: str, collection: str, version: str, stage: Stage, **options: Any) -> Any:
        """Record the change."""
        options.pop("origin")
        return self._record(f"{registry}/{collection}:{version}", (), "stage", version, stage, options)

    def update_version(self, registry: str, collection: str, version: str, **change: Any) -> Any:
        """Record the change."""
        return self._record(f"{registry}/{collection}:{version}", (), "update", change)

    def update_artifact_version(self, project: str, name: str, version: str, **change: Any) -> Any:
        """Record the change."""
        return self._record(f"{project}/{name}:{version}", (), "update", change)

    def add_alias(self, registry: str, collection: str, alias: str, version: str, *, origin: Origin) -> Any:
        """Record the change."""
        reference = f"{registry}/{collection}:{version}"
        return self._record(reference, origin.chain, "alias", registry, collection, alias, version, origin.actor.name)

    def add_tag(
        self,
        registry: str,
        collection: str,
        tag: str,
        version: str | None = None,
        *,
        origin: Origin,
    ) -> Any:
        """Record the change."""
        reference = f"{registry}/{collection}" + (f":{version}" if version else "")
        return self._record(reference, origin.chain, "tag", registry, collection, tag, version, origin.actor.name)

    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        origin: Origin,
        event_ids: Sequence[str] | None = None,
    ) -> tuple[Event, ...]:
        """Record the events."""
        self._record("", origin.chain, "emit", *events, event_ids, origin.actor.name)
        return ()


async def perform(
    action: Action,
    with_: Mapping[str, Any],
    *,
    egress: Any = None,
    registry: Any = None,
    **changes: Any,
) -> Outcome:
    """Perform one attempt and return its outcome."""
    context = ActionContext(
        egress=egress or ScriptedEgress(),
        registry=registry or RecordingRegistry(),
        github_api_url="https://api.github.com",
        slack_api_url="https://slack.com/api",
        jobs=MemoryJobs(MemoryExecutions(MemoryEvents())),
    )
    outcome = await action.perform(make_call(with_, **changes), context)
    assert isinstance(outcome, Outcome)
    return outcome
