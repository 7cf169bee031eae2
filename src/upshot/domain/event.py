"""Events of registries, executions and jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from upshot.clock import parse_time
from upshot.ids import EventId, ExecutionId

MAX_CHAIN_DEPTH = 8  #: maximum number of executions in a chain, in which each caused the next

#: Template contexts that the data of a registry event can hold. In templates, a missing context is null.
SNAPSHOT_NAMES = (
    "registry",
    "collection",
    "version",
    "alias",
    "aliases",
    "tag",
    "previous",
    "stage",
    "project",
    "artifact",
    "run",
    "metric",
    "comment",
    "job",
)


class EventKind(StrEnum):
    """Kind of an event. YAML (`on:`), the CLI, the API and streams use these words."""

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
    STAGE_CHANGED = "stage-changed"
    ARTIFACT_CREATED = "artifact-created"  #: an artifact version was logged into a project
    ARTIFACT_DELETED = "artifact-deleted"  #: an artifact version was deleted from its project
    COMMENT_ADDED = "comment-added"  #: on a version or a run
    EXECUTION_FAILED = "execution-failed"
    JOB_STARTED = "job-started"
    JOB_SUCCEEDED = "job-succeeded"
    JOB_FAILED = "job-failed"  #: the last attempt failed
    RUN_STARTED = "run-started"  #: also when a run that had ended is resumed
    RUN_FINISHED = "run-finished"
    RUN_FAILED = "run-failed"  #: it failed, was killed, or is silent
    RUN_METRIC = "run-metric"  #: a condition on a metric that an automation watches became true
    DESTINATION_DOWN = "destination-down"  #: its attempts fail; executions wait for it
    DESTINATION_UP = "destination-up"  #: an attempt was answered again
    CUSTOM = "custom"  #: emitted by a user, with a name and data of any shape


class ActorKind(StrEnum):
    """Kind of an actor."""

    USER = "user"
    SERVICE = "service"  #: a service account
    AUTOMATION = "automation"
    JOB = "job"


class Role(StrEnum):
    """Permissions of an actor in the registry."""

    ADMIN = "admin"  #: may also change protected aliases and the rules of a registry
    MEMBER = "member"  #: may read and change
    VIEWER = "viewer"  #: may only read
    RESTRICTED_VIEWER = "restricted-viewer"  #: may only read


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of a change."""

    name: str  #: name of a person, a service account, an automation or a job
    kind: ActorKind = ActorKind.USER
    role: Role = Role.MEMBER  #: not part of events


@dataclass(frozen=True, slots=True)
class Cause:
    """One link of the chain that led to an event: an execution and the event that it answered."""

    automation: str
    execution_id: ExecutionId
    event_id: EventId
    version_reference: str | None  #: `model/churn:v3`, the version that the event was about


@dataclass(frozen=True, slots=True)
class Origin:
    """The author of a change, and the executions that led to it. The events of the change carry both."""

    actor: Actor
    chain: tuple[Cause, ...] = ()  #: oldest first


ALIAS_KINDS = frozenset({EventKind.ALIAS_ADDED, EventKind.ALIAS_REMOVED})
ASKED_AT = "asked_at"  #: in the data of an alias that moves: when a program without a connection asked for it


def alias_time(time: datetime, data: Mapping[str, Any]) -> datetime:
    """Return when an alias was changed by an event, from the time of the event and its data."""
    return parse_time(data[ASKED_AT]) if ASKED_AT in data else time


@dataclass(frozen=True, slots=True)
class Event:
    """
    Something that happened, with a full snapshot of the state at that time.

    `data` of a registry event holds the template contexts that apply (see `upshot.registry.snapshots`).
    `data` of a custom event is the user's own.
    """

    id: EventId
    kind: EventKind
    time: datetime  #: UTC
    subject: str  #: `model/churn:v3`, `model/churn`, `project/artifact:v0`, or the name of a custom event
    actor: Actor
    mutation_id: str  #: shared by all events of one mutation
    sequence: int  #: position among the events of the mutation, counted from 0
    data: Mapping[str, Any]
    name: str | None = None  #: of a custom event; None for other kinds
    chain: tuple[Cause, ...] = ()  #: executions that led to the event, oldest first

    @property
    def root_id(self) -> EventId:
        """Id of the event that everything in the chain began with; the event's own id if it has no chain."""
        return self.chain[0].event_id if self.chain else self.id

    @property
    def alias_reference(self) -> str | None:
        """Reference of the alias (`model/churn:production`) that the event adds or removes; None for other kinds."""
        if self.kind not in ALIAS_KINDS:
            return None
        series = self.subject.partition(":")[0]
        scope = "" if "registry" in self.data else "project "  # a registry and a project can have the same name
        return f"{scope}{series}:{self.data.get('alias')}"

    @property
    def version_reference(self) -> str | None:
        """Reference (`model/churn:v3`) of the version that the event is about, or None."""
        version = self.data.get("version") if self.kind is not EventKind.CUSTOM else None
        return version["reference"] if isinstance(version, Mapping) else None
