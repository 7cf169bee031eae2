"""Runs: programs that use artifact versions and log others. Together they are the lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

#: A running run whose heartbeats have stopped for this long has failed.
HEARTBEAT_TIMEOUT = timedelta(seconds=60)


class RunState(StrEnum):
    """State of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self is not RunState.RUNNING


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What versions, events and the lineage say about a run."""

    id: str  #: stays the same when the project is renamed
    project: str
    run_id: str  #: made by the client, unique in the project
    name: str  #: for people; need not be unique
    job_type: str | None  #: training, evaluation, …
    state: RunState
    created_at: datetime
    heartbeat_at: datetime | None = None  #: None before the first heartbeat

    @property
    def reference(self) -> str:
        """`project/run`."""
        return f"{self.project}/{self.run_id}"


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far the process of a run has logged, and what of it is packed."""

    session: str | None = None  #: made by the process that writes the run; None for a client without one
    next_sequence: int = 0  #: number of the session's next request
    last_step: int | None = None  #: the highest step that was logged
    next_entry: int = 0  #: number of the next log entry
    unpacked_entries: int = 0  #: log entries that are not packed
    unpacked_points: int = 0
    unpacked_keys: int = 0  #: keys of the unpacked entry with the most keys

    @property
    def next_step(self) -> int:
        """The step at which a resumed run continues."""
        return 0 if self.last_step is None else self.last_step + 1


@dataclass(frozen=True, slots=True)
class Run:
    """A run with everything that it recorded."""

    summary: RunSummary
    created_by: str
    config: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)  #: W&B's `summary`: the last value of each metric
    tags: tuple[str, ...] = ()  #: sorted
    notes: str = ""
    group: str | None = None
    entity: str | None = None  #: as the client gave it
    info: Mapping[str, Any] = field(default_factory=dict)  #: where and what it ran: host, commit, packages, …
    finished_at: datetime | None = None
    exit_code: int | None = None  #: of the program; None if it ended otherwise, or runs
    reason: str | None = None  #: why it ended, if its program did not say so itself
    is_lost: bool = False  #: it counts as ended because its heartbeats stopped; the next one lets it run again
    stop_requested_at: datetime | None = None
    stop_requested_by: str | None = None
    progress: RunProgress = field(default_factory=RunProgress)

    @property
    def must_stop(self) -> bool:
        """Whether its process is asked to stop."""
        return self.stop_requested_at is not None

    def with_state(self, state: RunState) -> Run:
        """Return the run in another state."""
        return replace(self, summary=replace(self.summary, state=state))


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file of a run."""

    path: str
    digest: str  #: of its blob
    size: int  #: bytes
    updated_at: datetime


class EdgeKind(StrEnum):
    """Kind of an edge of the lineage."""

    USED = "used"  #: the run read the version
    LOGGED = "logged"  #: the run made the version, or logged content that the version has


class Direction(StrEnum):
    """Direction in which the lineage is followed."""

    UP = "up"  #: to what the version was made from
    DOWN = "down"  #: to what was made from the version
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of the lineage."""

    kind: EdgeKind
    run_id: str  #: internal id
    version_id: str


@dataclass(frozen=True, slots=True)
class LinkSummary:
    """A link of a version in the lineage."""

    registry: str
    collection: str
    number: int
    aliases: tuple[str, ...]  #: in the collection, sorted

    @property
    def reference(self) -> str:
        """`registry/collection:v3`."""
        return f"{self.registry}/{self.collection}:v{self.number}"


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """What the lineage says about an artifact version."""

    id: str
    project: str
    artifact_name: str
    artifact_type: str
    number: int
    aliases: tuple[str, ...]  #: in the project, sorted
    links: tuple[LinkSummary, ...]  #: sorted
    created_at: datetime

    @property
    def reference(self) -> str:
        """`project/artifact:v3`."""
        return f"{self.project}/{self.artifact_name}:v{self.number}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """Part of the graph of runs and artifact versions."""

    root_id: str  #: the version that was asked for
    versions: tuple[VersionSummary, ...]
    runs: tuple[RunSummary, ...]
    edges: tuple[Edge, ...]
    depths: Mapping[str, int]  #: distance from the root in edges, by id of the version or run
    is_truncated: bool  #: there is more within the depth than the limit allows
