"""Events: what happened in a registry, or to an execution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from upshot.ids import EventId, ExecutionId

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


class ActorKind(StrEnum):
    """Kind of an actor."""

    USER = "user"
    SERVICE = "service"  #: a service account
    AUTOMATION = "automation"
    JOB = "job"


class Role(StrEnum):
    """What an actor may do in the registry."""

    ADMIN = "admin"  #: may also change protected aliases and the rules of a registry
    MEMBER = "member"  #: may read and change
    VIEWER = "viewer"  #: may read
    RESTRICTED_VIEWER = "restricted-viewer"  #: may read


@dataclass(frozen=True, slots=True)
class Actor:
    """Who made a change."""

    name: str  #: name of a person, a service account, an automation or a job
    kind: ActorKind = ActorKind.USER
    role: Role = Role.MEMBER  #: events do not carry it


@dataclass(frozen=True, slots=True)
class Cause:
    """One link of the chain that led to an event: an execution that acted."""

    automation: str
    execution_id: ExecutionId  #: id of the execution
    event_id: EventId  #: id of the event that it answered
    version_reference: str | None  #: immutable reference of the version that event was about


@dataclass(frozen=True, slots=True)
class Event:
    """
    Something that happened, as a full snapshot of what was true then.

    `data` of a registry event holds the template contexts that apply (see `upshot.registry.snapshots`).
    `data` of a custom event is the user's own.
    """

    id: EventId
    kind: EventKind
    time: datetime  #: UTC
    subject: str  #: what it is about: `model/churn:v3`, `model/churn`, or a custom event's name
    actor: Actor
    mutation_id: str  #: shared by all events of one mutation
    sequence: int  #: place among the events of its mutation, counted from 0
    data: Mapping[str, Any]
    name: str | None = None  #: of a custom event; None for all others
    chain: tuple[Cause, ...] = ()  #: the executions that led here, oldest first

    @property
    def version_reference(self) -> str | None:
        """The immutable reference of the version that the event is about; None when it is about none."""
        version = self.data.get("version") if self.kind is not EventKind.CUSTOM else None
        return version["reference"] if isinstance(version, Mapping) else None
