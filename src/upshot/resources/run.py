"""A run, and the lineage of runs and artifact versions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time, format_time
from upshot.domain.run import EdgeKind, Lineage, LinkSummary, Run, RunFile, RunSummary, VersionSummary
from upshot.resources.urls import api_url


class RunReference(TypedDict):
    """What an event about a version says about the run that logged it."""

    id: str  #: unique in the project
    name: str
    project: str
    job_type: str | None  #: training, evaluation, …
    state: str  #: running, finished, failed or killed
    url: str | None  #: in the REST API; null if the server's public address is unknown


class RunJson(RunReference):
    """A program that used artifact versions and logged others."""

    config: dict[str, Any]
    summary: dict[str, Any]
    tags: list[str]  #: sorted
    notes: str
    group: str | None
    entity: str | None  #: as the client gave it
    info: dict[str, Any]  #: where and what it ran
    created_at: str
    created_by: str
    heartbeat_at: str | None
    finished_at: str | None
    duration: float  #: seconds until its end, or until now
    exit_code: int | None
    reason: str | None  #: why it ended, if its program did not say so itself
    stop_requested_at: str | None
    stop_requested_by: str | None
    next_step: int  #: at which a program that resumes the run continues


class RunFileJson(TypedDict):
    """A file of a run."""

    path: str
    digest: str  #: of its blob
    size: int
    updated_at: str


class MetricJson(TypedDict):
    """What is known of a key that a run has logged."""

    key: str
    count: int  #: points
    nan_count: int
    min: float | str | None  #: of the numbers that are not NaN; infinities are texts
    max: float | str | None
    last: Any
    first_step: int
    last_step: int


class SeriesJson(TypedDict):
    """Points of a key. The three lists have the same length. NaN and the infinities are texts."""

    key: str
    count: int  #: points of the key, whatever was asked for
    steps: list[int]
    times: list[float]  #: seconds since 1970
    values: list[Any]


class LineageLink(TypedDict):
    """A link of an artifact version."""

    reference: str  #: `registry/collection:v3`
    registry: str
    collection: str
    aliases: list[str]  #: in the collection


class LineageNode(TypedDict):
    """A run or an artifact version."""

    id: str  #: for edges; `ver_…` of a version
    kind: str  #: `run` or `version`
    reference: str  #: `project/artifact:v3`, or `project/run`
    name: str  #: of the artifact, or of the run
    project: str
    depth: int  #: distance from the version that was asked for, in edges
    artifact_type: str | None  #: null for a run
    aliases: list[str]  #: in the project; empty for a run
    links: list[LineageLink]  #: empty for a run
    job_type: str | None  #: null for a version
    state: str | None  #: null for a version
    created_at: str
    url: str | None


class LineageEdge(TypedDict):
    """An edge in the direction in which data flows."""

    kind: str  #: `used`: from a version to a run; `logged`: from a run to a version
    source: str  #: id of a node
    target: str  #: id of a node


class LineageJson(TypedDict):
    """Part of the graph of runs and artifact versions."""

    root: str  #: id of the node that was asked for
    nodes: list[LineageNode]
    edges: list[LineageEdge]
    truncated: bool  #: there is more within the depth than one response has


def run_reference(run: RunSummary, base_url: str | None) -> RunReference:
    """Return the JSON object that events have."""
    return {
        "id": run.run_id,
        "name": run.name,
        "project": run.project,
        "job_type": run.job_type,
        "state": run.state.value,
        "url": api_url(base_url, "projects", run.project, "runs", run.run_id),
    }


def run_json(run: Run, base_url: str | None, now: datetime) -> RunJson:
    """Return the JSON object of a run. Its duration depends on the time."""
    return {
        **run_reference(run.summary, base_url),
        "state": run.summary.state.value,
        "config": dict(run.config),
        "summary": dict(run.results),
        "tags": list(run.tags),
        "notes": run.notes,
        "group": run.group,
        "entity": run.entity,
        "info": dict(run.info),
        "created_at": format_time(run.summary.created_at),
        "created_by": run.created_by,
        "heartbeat_at": format_optional_time(run.summary.heartbeat_at),
        "finished_at": format_optional_time(run.finished_at),
        "duration": max(0.0, ((run.finished_at or now) - run.summary.created_at).total_seconds()),
        "exit_code": run.exit_code,
        "reason": run.reason,
        "stop_requested_at": format_optional_time(run.stop_requested_at),
        "stop_requested_by": run.stop_requested_by,
        "next_step": run.progress.next_step,
    }


def run_file_json(file: RunFile) -> RunFileJson:
    """Return the JSON object of a file of a run."""
    return {
        "path": file.path,
        "digest": file.digest,
        "size": file.size,
        "updated_at": format_time(file.updated_at),
    }


def lineage_json(lineage: Lineage, base_url: str | None) -> LineageJson:
    """Return the JSON object of a lineage, nearest nodes first."""
    nodes = {version.id: _version_node(version, lineage.depths[version.id], base_url) for version in lineage.versions}
    nodes |= {run.id: _run_node(run, lineage.depths[run.id], base_url) for run in lineage.runs}
    return {
        "root": lineage.root_id,
        "nodes": sorted(nodes.values(), key=lambda node: (node["depth"], node["reference"])),
        "edges": [
            {
                "kind": edge.kind.value,
                "source": edge.version_id if edge.kind is EdgeKind.USED else edge.run_id,
                "target": edge.run_id if edge.kind is EdgeKind.USED else edge.version_id,
            }
            for edge in lineage.edges
            if edge.run_id in nodes and edge.version_id in nodes
        ],
        "truncated": lineage.is_truncated,
    }


def _version_node(version: VersionSummary, depth: int, base_url: str | None) -> LineageNode:
    path = ("projects", version.project, "artifacts", version.artifact_name, "versions", f"v{version.number}")
    return {
        "id": version.id,
        "kind": "version",
        "reference": version.reference,
        "name": version.artifact_name,
        "project": version.project,
        "depth": depth,
        "artifact_type": version.artifact_type,
        "aliases": list(version.aliases),
        "links": [_link(link) for link in version.links],
        "job_type": None,
        "state": None,
        "created_at": format_time(version.created_at),
        "url": api_url(base_url, *path),
    }


def _link(link: LinkSummary) -> LineageLink:
    return {
        "reference": link.reference,
        "registry": link.registry,
        "collection": link.collection,
        "aliases": list(link.aliases),
    }


def _run_node(run: RunSummary, depth: int, base_url: str | None) -> LineageNode:
    return {
        "id": run.id,
        "kind": "run",
        "reference": run.reference,
        "name": run.name,
        "project": run.project,
        "depth": depth,
        "artifact_type": None,
        "aliases": [],
        "links": [],
        "job_type": run.job_type,
        "state": run.state.value,
        "created_at": format_time(run.created_at),
        "url": api_url(base_url, "projects", run.project, "runs", run.run_id),
    }
