"""An event, as the stream, the REST API, templates and `/upshot/event.json` carry it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_time, parse_time
from upshot.domain.event import Actor, ActorKind, Cause, Event, EventKind


class ActorJson(TypedDict):
    """The author of an event."""

    name: str
    kind: str  #: user, service, automation or job


class CauseJson(TypedDict):
    """An execution that led to an event."""

    automation: str
    execution_id: str
    event_id: str  #: the event that the execution answered
    version: str | None  #: reference of the version that event was about


class EventJson(TypedDict):
    """Something that happened, with a snapshot of what was true then."""

    id: str
    kind: str
    name: str | None  #: of a custom event
    time: str
    subject: str  #: `model/churn:v3`, `model/churn`, or the name of a custom event
    actor: ActorJson
    mutation_id: str  #: shared by all events of one mutation
    sequence: int  #: index among the events of its mutation, counted from 0
    chain: list[CauseJson]  #: the executions that led here, oldest first
    data: dict[str, Any]  #: of a registry event: see `upshot.registry.snapshots`; of a custom event: the user's own


class EventReference(TypedDict):
    """The event that an execution answers, in the data of the event that reports on that execution."""

    id: str
    kind: str
    subject: str


def event_json(event: Event) -> EventJson:
    """Return the JSON object of an event."""
    return {
        "id": event.id,
        "kind": event.kind.value,
        "name": event.name,
        "time": format_time(event.time),
        "subject": event.subject,
        "actor": {"name": event.actor.name, "kind": event.actor.kind.value},
        "mutation_id": event.mutation_id,
        "sequence": event.sequence,
        "chain": [
            {
                "automation": cause.automation,
                "execution_id": cause.execution_id,
                "event_id": cause.event_id,
                "version": cause.version_reference,
            }
            for cause in event.chain
        ],
        "data": dict(event.data),
    }


def event_from_json(data: Mapping[str, Any]) -> Event:
    """
    Read an event from the JSON object that `event_json` returned.

    Raises:
        KeyError: A field is missing.
        ValueError: A kind or a time is invalid.
    """
    return Event(
        id=data["id"],
        kind=EventKind(data["kind"]),
        time=parse_time(data["time"]),
        subject=data["subject"],
        actor=Actor(data["actor"]["name"], ActorKind(data["actor"]["kind"])),
        mutation_id=data["mutation_id"],
        sequence=data["sequence"],
        data=data["data"],
        name=data.get("name"),
        chain=tuple(
            Cause(cause["automation"], cause["execution_id"], cause["event_id"], cause["version"])
            for cause in data["chain"]
        ),
    )


def event_reference(event: Event) -> EventReference:
    """Return the JSON object that points to an event."""
    return {"id": event.id, "kind": event.kind.value, "subject": event.subject}
