"""Events: what happened in a registry, or to an execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from upshot.clock import format_time, parse_time

MAX_CHAIN_DEPTH = 8  #: executions that may cause one another before the chain is stopped, visibly

#: Contexts that a registry event carries in its data; null where it carries none.
SNAPSHOT_NAMES = (
    *("registry", "collection", "version", "alias", "aliases", "tag", "previous", "stage"),
    *("project", "artifact", "run", "metric", "job"),
)


class EventKind(StrEnum):
    """What can happen. YAML (`on:`), CLI, API and streams use these words."""

    COLLECTION_CREATED = "collection-created"
    COLLECTION_UPDATED = "collection-updated"
    COLLECTION_DELETED = "collection-deleted"
    VERSION_LINKED = "version-linked"
    VERSION_UNLINKED = "version-unlinked"
    VERSION_UPDATED = "version-updated"  #: metadata or description changed
    ALIAS_ADDED = "alias-added"
    ALIAS_REMOVED = "alias-removed"
    TAG_ADDED = "tag-added"
    TAG_REMOVED = "tag-removed"
    ARTIFACT_CREATED = "artifact-created"  #: an artifact version was logged into a project
    EXECUTION_FAILED = "execution-failed"
    JOB_STARTED = "job-started"
    JOB_SUCCEEDED = "job-succeeded"
    JOB_FAILED = "job-failed"  #: for good: no further try
    CUSTOM = "custom"  #: anything of a user's own, with a name and free data


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it."""

    name: str  #: a person's, a service account's or an automation's name
    kind: str = "user"  #: user, service, automation, job
    role: str = "member"  #: admin, member, viewer, restricted-viewer; not part of what events carry

    def as_dict(self) -> dict[str, Any]:
        """The form that events carry."""
        return {"name": self.name, "kind": self.kind}


@dataclass(frozen=True, slots=True)
class Cause:
    """One link of the chain that led to an event: an execution that acted."""

    automation: str
    execution_id: str  #: id of the execution
    event_id: str  #: id of the event that it answered
    version_reference: str | None  #: immutable reference of the version that event was about


@dataclass(frozen=True, slots=True)
class Event:
    """
    Something that happened, as a full snapshot of what was true then.

    `data` of registry events holds the template contexts of the same names (those that apply):
    `registry` {name}, `collection` {name, type, description, tags}, `version` (see
    `registry.snapshots`), `alias`, `aliases`, `tag`, `on`, `previous` (a version, or null),
    `moved_to` (a version's name, or null), `automatic`, `changes`, `project` {name},
    `artifact` {name, type}. `data` of a custom event is the user's own.
    """

    id: str
    kind: EventKind
    time: datetime  #: UTC
    subject: str  #: what it is about: `model/churn:v3`, `model/churn`, or a custom event's name
    actor: Actor
    mutation_id: str  #: shared by all events of one mutation
    sequence: int  #: place among the events of its mutation, counted from 0
    data: Mapping[str, Any]
    name: str | None = None  #: of a custom event; None for all others
    chain: tuple[Cause, ...] = ()  #: the executions that led here, oldest first

    def as_dict(self) -> dict[str, Any]:
        """The form that the API, the stream and templates (`event`) see."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "name": self.name,
            "time": format_time(self.time),
            "subject": self.subject,
            "actor": self.actor.as_dict(),
            "mutation_id": self.mutation_id,
            "sequence": self.sequence,
            "chain": [
                {
                    "automation": c.automation,
                    "execution": c.execution_id,
                    "event": c.event_id,
                    "version": c.version_reference,
                }
                for c in self.chain
            ],
            "data": dict(self.data),
        }

    @staticmethod
    def from_dict(form: Mapping[str, Any]) -> Event:
        """Read what `as_dict` wrote; raises KeyError or ValueError for anything else."""
        return Event(
            id=form["id"],
            kind=EventKind(form["kind"]),
            time=parse_time(form["time"]),
            subject=form["subject"],
            actor=Actor(form["actor"]["name"], form["actor"]["kind"]),
            mutation_id=form["mutation_id"],
            sequence=form["sequence"],
            data=form["data"],
            name=form.get("name"),
            chain=tuple(Cause(c["automation"], c["execution"], c["event"], c["version"]) for c in form["chain"]),
        )

    @property
    def version_reference(self) -> str | None:
        """The immutable reference of the version that the event is about; None when it is about none."""
        version = self.data.get("version") if self.kind is not EventKind.CUSTOM else None
        return version["reference"] if isinstance(version, Mapping) else None
