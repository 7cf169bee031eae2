"""What tests of actions need: a call, a door to the outside that answers as told, a registry that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from upshot.actions.protocol import Action, ActionCall, ActionContext, HttpResponse, Outcome
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.executions import MemoryExecutions
from upshot.adapters.memory.jobs import MemoryJobs
from upshot.domain.event import Actor, Cause, Event, EventKind
from upshot.errors import NotFound

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVENT = Event(
    id="evt_1",
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
    id="evt_2",
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
    """The first attempt of a step of automation `promote`, with a rendered `with` block."""
    known: dict[str, Any] = {
        "event": EVENT,
        "automation": "promote",
        "execution": "exe_1",
        "execution_created_at": NOW,
        "step": "step-1",
        "attempt": 1,
        "delivery_id": "dlv_1",
        "now": NOW,
        "timeout_seconds": 30.0,
        "actor": Actor("promote", "automation"),
        "chain": (Cause("promote", "exe_1", "evt_1", "model/churn:v3"),),
        "event_source": "https://upshot.example",
    }
    return ActionCall(with_=with_, **(known | changes))


@dataclass(frozen=True)
class Sent:
    """One request that an action made."""

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
    """Answers every request with the same answer, and remembers the requests."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: list[Sent] = field(default_factory=list)

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
        """Remember the request and answer as told."""
        self.sent.append(Sent(method, url, headers, body, follow_redirects))
        return make_answer(self.status, self.headers, self.body)


def make_answer(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> HttpResponse:
    """An answer as the egress client gives it."""
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
class Made:
    """A change as the registry tells of it."""

    value: Any
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Referenced:
    reference: str


class RecordingRegistry:
    """Takes every change, remembers it, and can be told to raise."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.changes: list[tuple[Any, ...]] = []
        self.chains: list[tuple[Cause, ...]] = []

    def _make(self, reference: str, chain: tuple[Cause, ...], *change: Any) -> Any:
        if self.error:
            raise self.error
        known = change in self.changes
        self.changes.append(change)
        self.chains.append(chain)
        return Made(Referenced(reference), () if known else (EVENT,))

    def version(self, registry: str, collection: str, version: str) -> Any:
        """Nothing is known here."""
        raise self.error or NotFound(f"there is no {registry}/{collection}:{version}")

    def update_version(self, registry: str, collection: str, version: str, **change: Any) -> Any:
        """Remember it."""
        return self._make(f"{registry}/{collection}:{version}", (), "update", change)

    def update_artifact_version(self, project: str, name: str, version: str, **change: Any) -> Any:
        """Remember it."""
        return self._make(f"{project}/{name}:{version}", (), "update", change)

    def add_alias(
        self, registry: str, collection: str, alias: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Any:
        """Remember it."""
        reference = f"{registry}/{collection}:{version}"
        return self._make(reference, chain, "alias", registry, collection, alias, version, actor.name)

    def add_tag(
        self,
        registry: str,
        collection: str,
        tag: str,
        version: str | None = None,
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Any:
        """Remember it."""
        reference = f"{registry}/{collection}" + (f":{version}" if version else "")
        return self._make(reference, chain, "tag", registry, collection, tag, version, actor.name)

    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
        event_ids: Sequence[str] | None = None,
    ) -> tuple[Event, ...]:
        """Remember them."""
        self._make("", chain, "emit", *events, event_ids, actor.name)
        return ()


def perform(
    action: Action,
    with_: Mapping[str, Any],
    *,
    egress: Any = None,
    registry: Any = None,
    **changes: Any,
) -> Outcome:
    """Perform one attempt and give what it gave."""
    tools = ActionContext(
        egress=egress or ScriptedEgress(),
        registry=registry or RecordingRegistry(),
        github_api_url="https://api.github.com",
        slack_api_url="https://slack.com/api",
        jobs=MemoryJobs(MemoryExecutions(MemoryEvents())),
    )
    outcome = asyncio.run(action.perform(make_call(with_, **changes), tools))
    assert isinstance(outcome, Outcome)
    return outcome
