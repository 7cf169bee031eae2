"""Runs and the lineage in SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from upshot.adapters.sql.schema import (
    artifact_aliases,
    artifact_versions,
    artifacts,
    collection_aliases,
    collections,
    comments,
    deleted_runs,
    metric_chunks,
    metric_conditions,
    projects,
    run_files,
    run_inputs,
    run_log_entries,
    run_outputs,
    runs,
    versions,
)
from upshot.domain.run import Edge, EdgeKind, LinkSummary, Run, RunProgress, RunState, RunSummary, VersionSummary

_MAX_IDS = 500  # in one statement

_EDGES = {EdgeKind.USED: run_inputs, EdgeKind.LOGGED: run_outputs}
_ids: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)

_run_projects = projects.alias("run_projects")
#: Columns of the run that logged an artifact version; null if no run did. `from_run_columns` reads them.
RUN_COLUMNS = (
    artifact_versions.c.run_id.label("logged_by_id"),
    _run_projects.c.name.label("logged_by_project"),
    runs.c.run_id.label("logged_by_run_id"),
    runs.c.name.label("logged_by_name"),
    runs.c.job_type.label("logged_by_job_type"),
    runs.c.state.label("logged_by_state"),
    runs.c.created_at.label("logged_by_created_at"),
    runs.c.heartbeat_at.label("logged_by_heartbeat_at"),
)

_SELECT_RUNS = sa.select(runs, projects.c.name.label("project")).join(projects, projects.c.id == runs.c.project_id)
_RUN = _SELECT_RUNS.where(projects.c.name == sa.bindparam("project"), runs.c.run_id == sa.bindparam("run"))
_RUNS = _SELECT_RUNS.where(runs.c.id.in_(_ids))
_PAGE = (
    _SELECT_RUNS.where(projects.c.name == sa.bindparam("project"), runs.c.id < sa.bindparam("before"))
    .order_by(runs.c.id.desc())
    .limit(sa.bindparam("limit"))
)
_SUMMARY_NAMES = ("id", "run_id", "name", "job_type", "state", "created_at", "heartbeat_at")
RUN_SUMMARIES: sa.Select[Any] = sa.select(
    *(runs.c[name] for name in _SUMMARY_NAMES), projects.c.name.label("project")
).join(projects, projects.c.id == runs.c.project_id)
_SUMMARIES = RUN_SUMMARIES.where(runs.c.id.in_(_ids))
_PROJECT_ID = sa.select(projects.c.id).where(projects.c.name == sa.bindparam("project"))
_CHANGED = (
    "name",
    "job_type",
    "state",
    "config",
    "summary",
    "tags",
    "notes",
    "run_group",
    "entity",
    "info",
    "heartbeat_at",
    "finished_at",
    "exit_code",
    "reason",
    "is_lost",
    "stop_requested_at",
    "stop_requested_by",
    "session",
    "next_sequence",
    "last_step",
    "next_entry",
    "unpacked_entries",
    "unpacked_points",
    "unpacked_keys",
)


_PROGRESS = tuple(field.name for field in fields(RunProgress))  # columns have the names of the fields


def _save(insert: Any) -> Any:
    return insert.on_conflict_do_update(index_elements=["id"], set_={name: insert.excluded[name] for name in _CHANGED})


_SAVE: Mapping[str, Any] = {"sqlite": _save(sqlite.insert(runs)), "postgresql": _save(postgresql.insert(runs))}
_ADD_EDGE = {
    (dialect, kind): insert(table).on_conflict_do_nothing()
    for kind, table in _EDGES.items()
    for dialect, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
REMOVE_EDGES = tuple(
    sa.delete(table).where(table.c.artifact_version_id == sa.bindparam("id")) for table in _EDGES.values()
)
#: Statements that remove a run and what it logged. Its artifact versions stay.
REMOVE_RUN = (
    sa.insert(deleted_runs).from_select(
        ["project_id", "run_id"], sa.select(runs.c.project_id, runs.c.run_id).where(runs.c.id == sa.bindparam("key_id"))
    ),
    sa.update(artifact_versions).where(artifact_versions.c.run_id == sa.bindparam("key_id")).values(run_id=None),
    *(
        sa.delete(table).where(table.c.run_id == sa.bindparam("key_id"))
        for table in (run_inputs, run_outputs, run_log_entries, metric_chunks, metric_conditions, run_files, comments)
    ),
    sa.delete(runs).where(runs.c.id == sa.bindparam("key_id")),
)
_AT = {
    (kind, column): sa.select(table)
    .where(table.c[column].in_(_ids))
    .order_by(table.c.run_id, table.c.artifact_version_id)
    .limit(sa.bindparam("limit"))
    for kind, table in _EDGES.items()
    for column in ("run_id", "artifact_version_id")
}

_VERSION_SUMMARIES = (
    sa.select(
        artifact_versions.c.id,
        artifact_versions.c.number,
        artifact_versions.c.created_at,
        artifacts.c.name,
        artifacts.c.artifact_type,
        projects.c.name.label("project"),
    )
    .join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .where(artifact_versions.c.id.in_(_ids))
)
_ALIASES = (
    sa.select(artifact_versions.c.id, artifact_aliases.c.alias)
    .join(
        artifact_aliases,
        sa.and_(
            artifact_aliases.c.artifact_id == artifact_versions.c.artifact_id,
            artifact_aliases.c.number == artifact_versions.c.number,
        ),
    )
    .where(artifact_versions.c.id.in_(_ids))
)
_LINKS = (
    sa.select(
        versions.c.artifact_version_id,
        versions.c.number,
        collections.c.registry,
        collections.c.name,
        collection_aliases.c.alias,
    )
    .join(collections, collections.c.id == versions.c.collection_id)
    .outerjoin(
        collection_aliases,
        sa.and_(
            collection_aliases.c.collection_id == versions.c.collection_id,
            collection_aliases.c.number == versions.c.number,
        ),
    )
    .where(versions.c.artifact_version_id.in_(_ids))
)


def join_run(statement: sa.Select[Any]) -> sa.Select[Any]:
    """Add the run that logged it to a statement that selects artifact versions and `RUN_COLUMNS`."""
    return statement.outerjoin(runs, runs.c.id == artifact_versions.c.run_id).outerjoin(
        _run_projects, _run_projects.c.id == runs.c.project_id
    )


def from_run_columns(row: Row[Any]) -> RunSummary | None:
    """Return the run of a row that has `RUN_COLUMNS`."""
    if row.logged_by_id is None:
        return None
    return RunSummary(
        id=row.logged_by_id,
        project=row.logged_by_project,
        run_id=row.logged_by_run_id,
        name=row.logged_by_name,
        job_type=row.logged_by_job_type,
        state=RunState(row.logged_by_state),
        created_at=row.logged_by_created_at,
        heartbeat_at=row.logged_by_heartbeat_at,
    )


def find_run(connection: Connection, project: str, run_id: str) -> Run | None:
    """Return a run, or None."""
    row = connection.execute(_RUN, {"project": project, "run": run_id}).first()
    return _run(row) if row else None


def find_runs(connection: Connection, ids: Iterable[str]) -> dict[str, Run]:
    """Return the runs among the internal ids."""
    return {row.id: _run(row) for row in _rows(connection, _RUNS, ids)}


def page_runs(connection: Connection, project: str, before: str, limit: int) -> list[Run]:
    """Return runs of a project, newest first, whose internal ids are below one."""
    return [_run(row) for row in connection.execute(_PAGE, {"project": project, "before": before, "limit": limit})]


def save_run(connection: Connection, run: Run) -> None:
    """Create or change a run."""
    summary = run.summary
    row = {
        "id": summary.id,
        "project_id": connection.execute(_PROJECT_ID, {"project": summary.project}).scalar_one(),
        "run_id": summary.run_id,
        "name": summary.name,
        "job_type": summary.job_type,
        "state": summary.state.value,
        "config": run.config,
        "summary": run.results,
        "tags": run.tags,
        "notes": run.notes,
        "run_group": run.group,
        "entity": run.entity,
        "info": run.info,
        "created_at": summary.created_at,
        "created_by": run.created_by,
        "heartbeat_at": summary.heartbeat_at,
        "finished_at": run.finished_at,
        "exit_code": run.exit_code,
        "reason": run.reason,
        "is_lost": run.is_lost,
        "stop_requested_at": run.stop_requested_at,
        "stop_requested_by": run.stop_requested_by,
        **progress_values(run.progress),
    }
    connection.execute(_SAVE[connection.dialect.name], row)


def add_edge(connection: Connection, edge: Edge) -> None:
    """Add an edge, unless it exists."""
    statement = _ADD_EDGE[connection.dialect.name, edge.kind]
    connection.execute(statement, {"run_id": edge.run_id, "artifact_version_id": edge.version_id})


def find_edges(connection: Connection, kind: EdgeKind, column: str, ids: Iterable[str], limit: int) -> tuple[Edge, ...]:
    """Return edges whose `run_id` or `artifact_version_id` is among the ids."""
    found: list[Edge] = []
    for some in _batched(ids):
        rows = connection.execute(_AT[kind, column], {"ids": some, "limit": limit - len(found)})
        found.extend(Edge(kind, row.run_id, row.artifact_version_id) for row in rows)
        if len(found) >= limit:
            break
    return tuple(found)


def run_summaries(connection: Connection, ids: Iterable[str]) -> dict[str, RunSummary]:
    """Return what the lineage says about runs."""
    return {row.id: summary_from_row(row) for row in _rows(connection, _SUMMARIES, ids)}


def version_summaries(connection: Connection, ids: Sequence[str]) -> dict[str, VersionSummary]:
    """Return what the lineage says about artifact versions."""
    aliases: defaultdict[str, list[str]] = defaultdict(list)
    for row in _rows(connection, _ALIASES, ids):
        aliases[row.id].append(row.alias)
    links: defaultdict[str, defaultdict[tuple[str, str, int], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(connection, _LINKS, ids):
        in_collection = links[row.artifact_version_id][row.registry, row.name, row.number]
        if row.alias is not None:
            in_collection.append(row.alias)
    return {
        row.id: VersionSummary(
            id=row.id,
            project=row.project,
            artifact_name=row.name,
            artifact_type=row.artifact_type,
            number=row.number,
            aliases=tuple(sorted(aliases.get(row.id, ()))),
            links=tuple(LinkSummary(*key, tuple(sorted(held))) for key, held in sorted(links.get(row.id, {}).items())),
            created_at=row.created_at,
        )
        for row in _rows(connection, _VERSION_SUMMARIES, ids)
    }


def _batched(ids: Iterable[str]) -> Iterator[list[str]]:
    wanted = list(ids)
    for start in range(0, len(wanted), _MAX_IDS):
        yield wanted[start : start + _MAX_IDS]


def _rows(connection: Connection, statement: sa.Select[Any], ids: Iterable[str]) -> Iterator[Row[Any]]:
    for some in _batched(ids):
        yield from connection.execute(statement, {"ids": some})


def summary_from_row(row: Row[Any]) -> RunSummary:
    """Return the summary of a row that `RUN_SUMMARIES` selects."""
    return RunSummary(
        row.id,
        row.project,
        row.run_id,
        row.name,
        row.job_type,
        RunState(row.state),
        row.created_at,
        row.heartbeat_at,
    )


def _run(row: Row[Any]) -> Run:
    return Run(
        summary=summary_from_row(row),
        created_by=row.created_by,
        config=row.config,
        results=row.summary,
        tags=tuple(row.tags),
        notes=row.notes,
        group=row.run_group,
        entity=row.entity,
        info=row.info,
        finished_at=row.finished_at,
        exit_code=row.exit_code,
        reason=row.reason,
        is_lost=row.is_lost,
        stop_requested_at=row.stop_requested_at,
        stop_requested_by=row.stop_requested_by,
        progress=RunProgress(*(getattr(row, name) for name in _PROGRESS)),
    )


def progress_values(progress: RunProgress) -> dict[str, Any]:
    """Return the columns of a run's progress."""
    return {name: getattr(progress, name) for name in _PROGRESS}
