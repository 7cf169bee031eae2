"""The registry in SQL. Every method runs statements that are built once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row
from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, decode_number_cursor, make_cursor
from upshot.adapters.sql import manifests as manifests_sql
from upshot.adapters.sql import runs as runs_sql
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import insert_events
from upshot.adapters.sql.json_conditions import json_contains, json_equals
from upshot.adapters.sql.root_events import count_events, set_warning
from upshot.adapters.sql.schema import (
    artifact_aliases,
    artifact_versions,
    artifacts,
    collection_aliases,
    collections,
    events,
    history,
    manifests,
    projects,
    registries,
    versions,
)
from upshot.domain.event import Event
from upshot.domain.manifest import ManifestEntry, ManifestSummary
from upshot.domain.pending_version import PendingVersion
from upshot.domain.registry import (
    Artifact,
    ArtifactVersion,
    Collection,
    HistoryEntry,
    RegistrySettings,
    Series,
    Version,
)
from upshot.domain.run import Edge, EdgeKind, Run, RunSummary, VersionSummary
from upshot.domain.stage import Stage
from upshot.ids import EventId
from upshot.ports.paging import Page
from upshot.ports.registry import (
    EVERYTHING,
    NameKind,
    RegistryFilter,
    RegistryStore,
    RegistryTransaction,
    RegistryView,
)

T = TypeVar("T")

MAX_NAMES = 1_000  # searched for a similar name


def _upsert(table: sa.Table, *changed: str, unique: str | None = None) -> dict[str, sa.Insert]:
    """
    Build statements by dialect that insert a row, or change these columns of the row with the same primary key.

    `unique` names another unique column that decides which row is the same.
    """
    statements: dict[str, sa.Insert] = {}
    for dialect, insert in (("sqlite", sqlite.insert(table)), ("postgresql", postgresql.insert(table))):
        key = [table.c[unique]] if unique else list(table.primary_key.columns)
        values = {column: insert.excluded[column] for column in changed}
        statements[dialect] = (
            insert.on_conflict_do_update(index_elements=key, set_=values) if values else insert.on_conflict_do_nothing()
        )
    return statements


def _matches(table: sa.Table, **columns: str) -> sa.ColumnElement[bool]:
    """Build a condition: each column equals the bound parameter of the given name."""
    return sa.and_(*(table.c[column] == sa.bindparam(name) for column, name in columns.items()))


def _joined_aliases(alias: sa.Column[str], number: sa.Column[int]) -> sa.ColumnElement[str]:
    """Build an aggregate such as `production:3/staging:4`; names never contain these separators."""
    return sa.func.aggregate_strings(alias + ":" + sa.cast(number, sa.String), "/")


# --- reads --------------------------------------------------------------------------------------

_REGISTRIES = sa.select(registries).order_by(registries.c.name)
_REGISTRY = sa.select(registries).where(_matches(registries, name="name"))

_aliases_in_collection = (
    sa.select(_joined_aliases(collection_aliases.c.alias, collection_aliases.c.number))
    .where(collection_aliases.c.collection_id == collections.c.id)
    .correlate(collections)
    .scalar_subquery()
)
_SELECT_COLLECTIONS = sa.select(collections, _aliases_in_collection.label("aliases")).where(
    collections.c.registry == sa.bindparam("registry")
)
_COLLECTION = _SELECT_COLLECTIONS.where(collections.c.name == sa.bindparam("name"))
_COLLECTIONS = (
    _SELECT_COLLECTIONS.where(collections.c.name > sa.bindparam("after"))
    .order_by(collections.c.name)
    .limit(sa.bindparam("limit"))
)

_aliases_in_project = (
    sa.select(_joined_aliases(artifact_aliases.c.alias, artifact_aliases.c.number))
    .where(artifact_aliases.c.artifact_id == artifacts.c.id)
    .correlate(artifacts)
    .scalar_subquery()
)
_SELECT_ARTIFACTS = (
    sa.select(artifacts, projects.c.name.label("project"), _aliases_in_project.label("aliases"))
    .join(projects, projects.c.id == artifacts.c.project_id)
    .where(projects.c.name == sa.bindparam("project"))
)
_ARTIFACT = _SELECT_ARTIFACTS.where(artifacts.c.name == sa.bindparam("name"))
_ARTIFACTS = (
    _SELECT_ARTIFACTS.where(artifacts.c.name > sa.bindparam("after"))
    .order_by(artifacts.c.name)
    .limit(sa.bindparam("limit"))
)
_PROJECT_ID = sa.select(projects.c.id).where(_matches(projects, name="name"))
_PROJECTS = (
    sa.select(projects.c.name)
    .where(projects.c.name > sa.bindparam("after"))
    .order_by(projects.c.name)
    .limit(sa.bindparam("limit"))
)

_MANIFEST_COLUMNS = (manifests.c.file_count, manifests.c.size, manifests.c.is_stored)
_SELECT_ARTIFACT_VERSIONS = runs_sql.join_run(
    sa.select(artifact_versions, *_MANIFEST_COLUMNS, *runs_sql.RUN_COLUMNS).outerjoin(
        manifests, manifests.c.id == artifact_versions.c.manifest_id
    )
).where(_matches(artifact_versions, artifact_id="artifact_id"))
_ARTIFACT_VERSIONS = _SELECT_ARTIFACT_VERSIONS.where(
    artifact_versions.c.number.in_(sa.bindparam("numbers", expanding=True))
)
_ARTIFACT_VERSIONS_BELOW = (
    _SELECT_ARTIFACT_VERSIONS.where(artifact_versions.c.number < sa.bindparam("below"))
    .order_by(artifact_versions.c.number.desc())
    .limit(sa.bindparam("limit"))
)
_aliases_of_source = (
    sa.select(sa.func.aggregate_strings(artifact_aliases.c.alias, "/"))
    .where(
        artifact_aliases.c.artifact_id == artifact_versions.c.artifact_id,
        artifact_aliases.c.number == artifact_versions.c.number,
    )
    .correlate(artifact_versions)
    .scalar_subquery()
)
_SELECT_VERSIONS = runs_sql.join_run(
    sa.select(
        versions,
        projects.c.name.label("project"),
        artifacts.c.name.label("artifact"),
        artifacts.c.artifact_type,
        artifact_versions.c.artifact_id,
        artifact_versions.c.number.label("artifact_number"),
        artifact_versions.c.digest,
        artifact_versions.c.metadata,
        artifact_versions.c.description,
        artifact_versions.c.tags,
        artifact_versions.c.created_at,
        artifact_versions.c.created_by,
        artifact_versions.c.manifest_id,
        *_MANIFEST_COLUMNS,
        *runs_sql.RUN_COLUMNS,
        _aliases_of_source.label("aliases"),
    )
    .join(artifact_versions, artifact_versions.c.id == versions.c.artifact_version_id)
    .join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .outerjoin(manifests, manifests.c.id == artifact_versions.c.manifest_id)
).where(_matches(versions, collection_id="collection_id"))
_ARTIFACT_VERSIONS_BY_ID = runs_sql.join_run(
    sa.select(
        artifact_versions,
        artifacts.c.name.label("artifact"),
        artifacts.c.artifact_type,
        projects.c.name.label("project"),
        *_MANIFEST_COLUMNS,
        *runs_sql.RUN_COLUMNS,
        _aliases_of_source.label("aliases"),
    )
    .join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .outerjoin(manifests, manifests.c.id == artifact_versions.c.manifest_id)
).where(artifact_versions.c.id.in_(sa.bindparam("ids", expanding=True)))
_VERSIONS = _SELECT_VERSIONS.where(versions.c.number.in_(sa.bindparam("numbers", expanding=True)))
_VERSIONS_BELOW = (
    _SELECT_VERSIONS.where(versions.c.number < sa.bindparam("below"))
    .order_by(versions.c.number.desc())
    .limit(sa.bindparam("limit"))
)
_VERSION_NAMES = (
    sa.select(collections.c.registry, collections.c.name, versions.c.number)
    .join(collections, collections.c.id == versions.c.collection_id)
    .where(_matches(versions, id="id"))
)
_ARTIFACT_VERSION_NAMES = (
    sa.select(projects.c.name.label("project"), artifacts.c.name, artifact_versions.c.number)
    .join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .where(_matches(artifact_versions, id="id"))
)
_NUMBERS_IN_STAGE = (
    sa.select(versions.c.number)
    .where(_matches(versions, collection_id="collection_id", stage="stage"))
    .order_by(versions.c.number)
)
_LINKED_NUMBER = sa.select(versions.c.number).where(
    _matches(versions, artifact_version_id="id", collection_id="collection_id")
)
_LINKS_TO = (
    sa.select(collections.c.registry, collections.c.name, versions.c.number)
    .join(collections, collections.c.id == versions.c.collection_id)
    .where(_matches(versions, artifact_version_id="id"))
)

_NAMES = {
    "registry": sa.select(registries.c.name),
    "collection": sa.select(collections.c.name).where(collections.c.registry == sa.bindparam("within")),
    "project": sa.select(projects.c.name),
    "artifact": sa.select(artifacts.c.name)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .where(projects.c.name == sa.bindparam("within")),
}
_ACCEPTED = sa.select(events.c.id).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))

# --- writes -------------------------------------------------------------------------------------

_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("key", type_=sa.BigInteger)))

_SAVE_REGISTRY = _upsert(registries, "protected_aliases", "allowed_automations")
_SAVE_COLLECTION = _upsert(collections, "name", "description", "metadata", "tags")
# The names of columns that an UPDATE changes cannot be names of parameters, so the id is `key_id`.
_REMOVE_COLLECTION = (
    sa.delete(collection_aliases).where(_matches(collection_aliases, collection_id="key_id")),
    sa.delete(versions).where(_matches(versions, collection_id="key_id")),
    sa.delete(collections).where(_matches(collections, id="key_id")),
)
_RENAME_HISTORY = (
    sa.update(history)
    .where(_matches(history, registry="key_registry", collection="key_name"))
    .values(collection=sa.bindparam("new_name"))
)
_NEXT_NUMBER, _NEXT_ARTIFACT_NUMBER = (
    sa.update(table)
    .where(_matches(table, id="key_id"))
    .values(next_number=table.c.next_number + 1)
    .returning(table.c.next_number)
    for table in (collections, artifacts)
)
_ADD_VERSION = sa.insert(versions)
_UPDATE_STAGE = sa.update(versions).where(_matches(versions, id="key_id")).values(stage=sa.bindparam("stage"))
_REMOVE_VERSION = (
    sa.delete(collection_aliases).where(_matches(collection_aliases, collection_id="collection_id", number="number")),
    sa.delete(versions).where(_matches(versions, collection_id="collection_id", number="number")),
)
_MOVE_ALIASES = _upsert(collection_aliases, "number")
_REMOVE_ALIAS = sa.delete(collection_aliases).where(_matches(collection_aliases, collection_id="id", alias="alias"))

_ADD_PROJECT = _upsert(projects, unique="name")
_RENAME_PROJECT = sa.update(projects).where(_matches(projects, name="key_name")).values(name=sa.bindparam("new_name"))
_SAVE_ARTIFACT = _upsert(artifacts, "name")
_ADD_ARTIFACT_VERSION = sa.insert(artifact_versions)
_UPDATE_ARTIFACT_VERSION = (
    sa.update(artifact_versions)
    .where(_matches(artifact_versions, id="key_id"))
    .values({column: sa.bindparam(column) for column in ("metadata", "description", "tags")})
)
_REMOVE_ARTIFACT_VERSION = (
    *runs_sql.REMOVE_EDGES,
    sa.delete(artifact_aliases).where(_matches(artifact_aliases, artifact_id="artifact_id", number="number")),
    sa.delete(artifact_versions).where(_matches(artifact_versions, id="id")),
)
_MOVE_ARTIFACT_ALIASES = _upsert(artifact_aliases, "number")
_REMOVE_ARTIFACT_ALIAS = sa.delete(artifact_aliases).where(_matches(artifact_aliases, artifact_id="id", alias="alias"))
_ADD_HISTORY = sa.insert(history)
_HISTORY_COLUMNS = tuple(column.name for column in history.columns)  # named as in HistoryEntry


class SqlRegistry(RegistryStore):
    """`RegistryStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def read(self, work: Callable[[RegistryView], T]) -> T:
        return self._database.read(lambda connection: work(_Transaction(connection)))

    @override
    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        keys = tuple(locks)

        def work_locked(connection: Connection) -> T:
            transaction = _Transaction(connection)
            transaction.lock(keys)
            return work(transaction)

        return self._database.write(work_locked)

    @override
    def add_warning(self, root_event_id: EventId, warning: str) -> bool:
        return self._database.write(lambda connection: set_warning(connection, root_event_id, warning))


class _Transaction(RegistryTransaction):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name

    def _rows(self, statement: sa.Select[Any], **values: Any) -> Sequence[Row[Any]]:
        return self._connection.execute(statement, values).all()

    @override
    def lock(self, keys: Iterable[str]) -> None:
        if self._dialect == "postgresql":
            for key in sorted(keys):
                self._connection.execute(_LOCK, {"key": _advisory_lock_key(key)})

    # --- reads ----------------------------------------------------------------------------------

    @override
    def has_project(self, name: str) -> bool:
        return bool(self._rows(_PROJECT_ID, name=name))

    @override
    def registry(self, name: str) -> RegistrySettings | None:
        rows = self._rows(_REGISTRY, name=name)
        return _registry(rows[0]) if rows else None

    @override
    def registries(self) -> tuple[RegistrySettings, ...]:
        return tuple(_registry(row) for row in self._rows(_REGISTRIES))

    @override
    def collection(self, registry: str, name: str) -> Collection | None:
        rows = self._rows(_COLLECTION, registry=registry, name=name)
        return _collection(rows[0]) if rows else None

    @override
    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        wanted = list(numbers)
        if not wanted:
            return {}
        rows = self._rows(_VERSIONS, collection_id=collection.id, numbers=wanted)
        return {row.number: _version(row, collection) for row in rows}

    @override
    def version_by_id(self, version_id: str) -> Version | None:
        for row in self._rows(_VERSION_NAMES, id=version_id):
            if collection := self.collection(row.registry, row.name):
                return self.versions(collection, [row.number])[row.number]
        return None

    @override
    def artifact_version_by_id(self, artifact_version_id: str) -> ArtifactVersion | None:
        for row in self._rows(_ARTIFACT_VERSION_NAMES, id=artifact_version_id):
            if artifact := self.artifact(row.project, row.name):
                return self.artifact_versions(artifact, [row.number])[row.number]
        return None

    @override
    def numbers_in_stage(self, collection: Collection, stage: Stage) -> tuple[int, ...]:
        rows = self._rows(_NUMBERS_IN_STAGE, collection_id=collection.id, stage=stage.value)
        return tuple(row.number for row in rows)

    @override
    def linked_number(self, collection: Collection, artifact_version: ArtifactVersion) -> int | None:
        rows = self._rows(_LINKED_NUMBER, collection_id=collection.id, id=artifact_version.id)
        return rows[0].number if rows else None

    @override
    def links_to(self, artifact_version: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        rows = self._rows(_LINKS_TO, id=artifact_version.id)
        return tuple(sorted((row.registry, row.name, row.number) for row in rows))

    @override
    def artifact(self, project: str, name: str) -> Artifact | None:
        rows = self._rows(_ARTIFACT, project=project, name=name)
        return _artifact(rows[0]) if rows else None

    @override
    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        wanted = list(numbers)
        if not wanted:
            return {}
        rows = self._rows(_ARTIFACT_VERSIONS, artifact_id=artifact.id, numbers=wanted)
        return {row.number: _artifact_version(row, artifact) for row in rows}

    @override
    def page_files(self, manifest_id: str, *, cursor: str | None, limit: int) -> Page[ManifestEntry]:
        after = decode_cursor(cursor) if cursor is not None else ""
        entries = manifests_sql.page_entries(self._connection, manifest_id, after, limit + 1)
        return Page(tuple(entries[:limit]), make_cursor(entries[limit - 1].path) if len(entries) > limit else None)

    @override
    def file(self, manifest_id: str, path: str) -> ManifestEntry | None:
        return manifests_sql.find_entry(self._connection, manifest_id, path)

    @override
    def missing_blobs(self, manifest_id: str, limit: int) -> tuple[str, ...]:
        return manifests_sql.missing_blobs(self._connection, manifest_id, limit)

    @override
    def files_of_other_size(self, manifest_id: str, limit: int) -> Sequence[ManifestEntry]:
        return manifests_sql.files_of_other_size(self._connection, manifest_id, limit)

    @override
    def pending_version(self, version_id: str) -> PendingVersion | None:
        return manifests_sql.find_pending(self._connection, version_id)

    @override
    def expired_pending_versions(self, before: datetime, limit: int) -> tuple[PendingVersion, ...]:
        return manifests_sql.expired_pending(self._connection, before, limit)

    @override
    def run(self, project: str, run_id: str) -> Run | None:
        return runs_sql.find_run(self._connection, project, run_id)

    @override
    def runs(self, ids: Iterable[str]) -> Mapping[str, Run]:
        return runs_sql.find_runs(self._connection, ids)

    @override
    def page_runs(self, project: str, *, cursor: str | None, limit: int) -> Page[Run]:
        before = decode_cursor(cursor) if cursor is not None else "~"  # sorts after all ids
        found = runs_sql.page_runs(self._connection, project, before, limit + 1)
        return Page(tuple(found[:limit]), make_cursor(found[limit - 1].summary.id) if len(found) > limit else None)

    @override
    def edges(
        self, kind: EdgeKind, *, run_ids: Iterable[str] = (), version_ids: Iterable[str] = (), limit: int
    ) -> tuple[Edge, ...]:
        found = runs_sql.find_edges(self._connection, kind, "run_id", run_ids, limit)
        return found + runs_sql.find_edges(
            self._connection, kind, "artifact_version_id", version_ids, limit - len(found)
        )

    @override
    def artifact_versions_by_id(self, ids: Iterable[str]) -> Mapping[str, ArtifactVersion]:
        wanted = list(ids)
        if not wanted:
            return {}
        return {row.id: _artifact_version_with_names(row) for row in self._rows(_ARTIFACT_VERSIONS_BY_ID, ids=wanted)}

    @override
    def run_summaries(self, ids: Iterable[str]) -> Mapping[str, RunSummary]:
        return runs_sql.run_summaries(self._connection, ids)

    @override
    def version_summaries(self, ids: Iterable[str]) -> Mapping[str, VersionSummary]:
        return runs_sql.version_summaries(self._connection, tuple(ids))

    @override
    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        column = _NAMES[kind].selected_columns[0]
        rows = self._rows(_NAMES[kind].order_by(column).limit(MAX_NAMES), within=within)
        return tuple(row[0] for row in rows)

    @override
    def page_collections(
        self, registry: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Collection]:
        after = decode_cursor(cursor) if cursor is not None else ""
        rows = self._rows(self._filtered_collections(where), registry=registry, after=after, limit=limit + 1)
        items = tuple(_collection(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    @override
    def page_versions(
        self, collection: Collection, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Version]:
        rows = self._rows(
            self._filtered_versions(where),
            collection_id=collection.id,
            below=decode_number_cursor(cursor),
            limit=limit + 1,
        )
        items = tuple(_version(row, collection) for row in rows[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(rows) > limit else None)

    @override
    def page_projects(self, *, cursor: str | None, limit: int) -> Page[str]:
        after = decode_cursor(cursor) if cursor is not None else ""
        names = tuple(row.name for row in self._rows(_PROJECTS, after=after, limit=limit + 1))
        return Page(names[:limit], make_cursor(names[limit - 1]) if len(names) > limit else None)

    @override
    def page_artifacts(
        self, project: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Artifact]:
        after = decode_cursor(cursor) if cursor is not None else ""
        rows = self._rows(self._filtered_artifacts(where), project=project, after=after, limit=limit + 1)
        items = tuple(_artifact(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    @override
    def page_artifact_versions(
        self, artifact: Artifact, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[ArtifactVersion]:
        rows = self._rows(
            self._filtered_artifact_versions(where),
            artifact_id=artifact.id,
            below=decode_number_cursor(cursor),
            limit=limit + 1,
        )
        items = tuple(_artifact_version(row, artifact) for row in rows[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(rows) > limit else None)

    @override
    def page_history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        select = sa.select(history).order_by(history.c.id.desc()).limit(limit + 1)
        if registry is not None:
            select = select.where(history.c.registry == registry)
        if collection is not None:
            select = select.where(history.c.collection == collection)
        if cursor is not None:
            select = select.where(history.c.id < decode_cursor(cursor))
        rows = self._rows(select)
        items = tuple(HistoryEntry(**row._mapping) for row in rows[:limit])  # noqa: SLF001 - SQLAlchemy's public name
        return Page(items, make_cursor(items[-1].id) if len(rows) > limit else None)

    def _filtered_collections(self, where: RegistryFilter) -> sa.Select[Any]:
        statement = self._where_json(_COLLECTIONS, where, collections.c.tags, collections.c.metadata)
        if where.artifact_type is not None:
            statement = statement.where(collections.c.artifact_type == where.artifact_type)
        if where.alias is not None:
            statement = statement.where(
                sa.exists().where(
                    collection_aliases.c.collection_id == collections.c.id, collection_aliases.c.alias == where.alias
                )
            )
        return statement

    def _filtered_versions(self, where: RegistryFilter) -> sa.Select[Any]:
        statement = self._where_json(_VERSIONS_BELOW, where, artifact_versions.c.tags, artifact_versions.c.metadata)
        if where.stage is not None:
            statement = statement.where(versions.c.stage == where.stage.value)
        if where.alias is not None:
            statement = statement.where(
                sa.exists().where(
                    collection_aliases.c.collection_id == versions.c.collection_id,
                    collection_aliases.c.number == versions.c.number,
                    collection_aliases.c.alias == where.alias,
                )
            )
        return statement

    def _filtered_artifacts(self, where: RegistryFilter) -> sa.Select[Any]:
        statement = _ARTIFACTS
        if where.artifact_type is not None:
            statement = statement.where(artifacts.c.artifact_type == where.artifact_type)
        if where.alias is not None:
            statement = statement.where(
                sa.exists().where(
                    artifact_aliases.c.artifact_id == artifacts.c.id, artifact_aliases.c.alias == where.alias
                )
            )
        return statement

    def _filtered_artifact_versions(self, where: RegistryFilter) -> sa.Select[Any]:
        columns = artifact_versions.c
        statement = self._where_json(_ARTIFACT_VERSIONS_BELOW, where, columns.tags, columns.metadata)
        if where.alias is not None:
            statement = statement.where(
                sa.exists().where(
                    artifact_aliases.c.artifact_id == columns.artifact_id,
                    artifact_aliases.c.number == columns.number,
                    artifact_aliases.c.alias == where.alias,
                )
            )
        return statement

    def _where_json(
        self, statement: sa.Select[Any], where: RegistryFilter, tags: sa.Column[Any], metadata: sa.Column[Any]
    ) -> sa.Select[Any]:
        if where.tag is not None:
            statement = statement.where(json_contains(self._dialect, tags, where.tag))
        for path, values in where.metadata:
            statement = statement.where(
                sa.or_(*(json_equals(self._dialect, metadata, path, value) for value in values))
            )
        return statement

    # --- writes ---------------------------------------------------------------------------------

    @override
    def save_registry(self, registry: RegistrySettings) -> None:
        row = {
            "name": registry.name,
            "protected_aliases": registry.protected_aliases,
            "allowed_automations": registry.allowed_automations,
        }
        self._connection.execute(_SAVE_REGISTRY[self._dialect], row)

    @override
    def save_collection(self, collection: Collection) -> None:
        row = {
            "id": collection.id,
            "registry": collection.registry,
            "name": collection.name,
            "artifact_type": collection.artifact_type,
            "description": collection.description,
            "metadata": collection.metadata,
            "tags": collection.tags,
            "next_number": 0,  # for a new row; an existing row keeps its counter
            "created_at": collection.created_at,
            "created_by": collection.created_by,
        }
        self._connection.execute(_SAVE_COLLECTION[self._dialect], row)

    @override
    def rename_history(self, registry: str, collection: str, new_name: str) -> None:
        key = {"key_registry": registry, "key_name": collection}
        self._connection.execute(_RENAME_HISTORY, {**key, "new_name": new_name})

    @override
    def remove_collection(self, collection: Collection) -> None:
        for statement in _REMOVE_COLLECTION:
            self._connection.execute(statement, {"key_id": collection.id})

    @override
    def next_number(self, series: Series) -> int:
        statement = _NEXT_NUMBER if isinstance(series, Collection) else _NEXT_ARTIFACT_NUMBER
        next_number: int = self._connection.execute(statement, {"key_id": series.id}).scalar_one()
        return next_number - 1

    @override
    def add_version(self, version: Version) -> None:
        row = {
            "id": version.id,
            "collection_id": version.collection_id,
            "number": version.number,
            "artifact_version_id": version.artifact_version.id,
            "stage": version.stage.value,
            "linked_at": version.linked_at,
            "linked_by": version.linked_by,
        }
        self._connection.execute(_ADD_VERSION, row)

    @override
    def update_stage(self, version: Version) -> None:
        self._connection.execute(_UPDATE_STAGE, {"key_id": version.id, "stage": version.stage.value})

    @override
    def remove_version(self, version: Version) -> None:
        for statement in _REMOVE_VERSION:
            self._connection.execute(statement, {"collection_id": version.collection_id, "number": version.number})

    @override
    def move_aliases(self, series: Series, moves: Mapping[str, int]) -> None:
        is_collection = isinstance(series, Collection)
        statements = _MOVE_ALIASES if is_collection else _MOVE_ARTIFACT_ALIASES
        column = "collection_id" if is_collection else "artifact_id"
        rows = [{column: series.id, "alias": alias, "number": number} for alias, number in moves.items()]
        self._connection.execute(statements[self._dialect], rows)

    @override
    def remove_alias(self, series: Series, alias: str) -> None:
        statement = _REMOVE_ALIAS if isinstance(series, Collection) else _REMOVE_ARTIFACT_ALIAS
        self._connection.execute(statement, {"id": series.id, "alias": alias})

    @override
    def add_project(self, project_id: str, name: str) -> None:
        self._connection.execute(_ADD_PROJECT[self._dialect], {"id": project_id, "name": name})

    @override
    def rename_project(self, name: str, new_name: str) -> None:
        self._connection.execute(_RENAME_PROJECT, {"key_name": name, "new_name": new_name})

    @override
    def save_artifact(self, artifact: Artifact) -> None:
        row = {
            "id": artifact.id,
            "project_id": self._connection.execute(_PROJECT_ID, {"name": artifact.project}).scalar_one(),
            "name": artifact.name,
            "artifact_type": artifact.artifact_type,
            "next_number": 0,  # for a new row; an existing row keeps its counter
        }
        self._connection.execute(_SAVE_ARTIFACT[self._dialect], row)

    @override
    def add_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        row = {
            "id": artifact_version.id,
            "artifact_id": artifact_version.artifact_id,
            "number": artifact_version.number,
            "digest": artifact_version.digest,
            "manifest_id": artifact_version.manifest.id if artifact_version.manifest else None,
            "metadata": artifact_version.metadata,
            "description": artifact_version.description,
            "tags": artifact_version.tags,
            "created_at": artifact_version.created_at,
            "created_by": artifact_version.created_by,
            "run_id": artifact_version.run.id if artifact_version.run else None,
        }
        self._connection.execute(_ADD_ARTIFACT_VERSION, row)

    @override
    def add_manifest(self, manifest: ManifestSummary) -> None:
        manifests_sql.add_manifest(self._connection, manifest)

    @override
    def add_files(self, manifest_id: str, entries: Sequence[ManifestEntry]) -> None:
        manifests_sql.add_entries(self._connection, manifest_id, entries)

    @override
    def use_blobs(self, digests: Sequence[str], now: datetime) -> frozenset[str]:
        return manifests_sql.use_blobs(self._connection, digests, now)

    @override
    def seal_manifest(self, manifest_id: str, *, is_stored: bool) -> ManifestSummary:
        count, size = manifests_sql.manifest_totals(self._connection, manifest_id)
        manifest = ManifestSummary(manifest_id, count, size, is_stored)
        manifests_sql.seal_manifest(self._connection, manifest)
        return manifest

    @override
    def add_pending_version(self, pending: PendingVersion) -> None:
        manifests_sql.add_pending(self._connection, pending)

    @override
    def touch_pending_version(self, version_id: str, now: datetime) -> None:
        manifests_sql.touch_pending(self._connection, version_id, now)

    @override
    def remove_pending_version(self, pending: PendingVersion, *, keep_manifest: bool) -> None:
        manifests_sql.remove_pending(self._connection, pending.id)
        if not keep_manifest:
            manifests_sql.remove_unused_manifest(self._connection, pending.manifest_id)

    @override
    def save_run(self, run: Run) -> None:
        runs_sql.save_run(self._connection, run)

    @override
    def add_edge(self, edge: Edge) -> None:
        runs_sql.add_edge(self._connection, edge)

    @override
    def update_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        values = {name: getattr(artifact_version, name) for name in ("metadata", "description", "tags")}
        self._connection.execute(_UPDATE_ARTIFACT_VERSION, {**values, "key_id": artifact_version.id})

    @override
    def remove_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        key = {
            "id": artifact_version.id,
            "artifact_id": artifact_version.artifact_id,
            "number": artifact_version.number,
        }
        for statement in _REMOVE_ARTIFACT_VERSION:
            self._connection.execute(statement, key)
        if artifact_version.manifest:
            manifests_sql.remove_unused_manifest(self._connection, artifact_version.manifest.id)

    @override
    def accepted_ids(self, event_ids: Iterable[EventId]) -> frozenset[EventId]:
        ids = list(event_ids)
        return frozenset(row.id for row in self._rows(_ACCEPTED, ids=ids)) if ids else frozenset()

    @override
    def count_events(self, root_event_id: EventId, count: int, *, limit: int) -> bool:
        return count_events(self._connection, root_event_id, count, limit=limit)

    @override
    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        insert_events(self._connection, events, now)

    @override
    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        rows = [{column: getattr(entry, column) for column in _HISTORY_COLUMNS} for entry in entries]
        self._connection.execute(_ADD_HISTORY, rows)


def _advisory_lock_key(key: str) -> int:
    """Return the key of an advisory lock of PostgreSQL, a signed integer of 64 bits."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)


def _split_aliases(joined: str | None) -> dict[str, str]:
    """Return the versions by alias from the result of `_joined_aliases`."""
    pairs = (pair.split(":") for pair in sorted(joined.split("/"))) if joined else ()
    return {alias: f"v{number}" for alias, number in pairs}


def _registry(row: Row[Any]) -> RegistrySettings:
    return RegistrySettings(row.name, tuple(row.protected_aliases), tuple(row.allowed_automations))


def _collection(row: Row[Any]) -> Collection:
    return Collection(
        id=row.id,
        registry=row.registry,
        name=row.name,
        artifact_type=row.artifact_type,
        description=row.description,
        metadata=row.metadata,
        tags=tuple(row.tags),
        aliases=_split_aliases(row.aliases),
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _artifact(row: Row[Any]) -> Artifact:
    return Artifact(row.id, row.project, row.name, row.artifact_type, _split_aliases(row.aliases))


def _artifact_version(row: Row[Any], artifact: Artifact) -> ArtifactVersion:
    return ArtifactVersion(
        id=row.id,
        artifact_id=artifact.id,
        project=artifact.project,
        artifact_name=artifact.name,
        artifact_type=artifact.artifact_type,
        number=row.number,
        aliases=artifact.aliases_of(f"v{row.number}"),
        **_artifact_version_values(row),
    )


def _artifact_version_values(row: Row[Any]) -> dict[str, Any]:
    return {
        "digest": row.digest,
        "metadata": row.metadata,
        "description": row.description,
        "manifest": (
            ManifestSummary(row.manifest_id, row.file_count, row.size, row.is_stored) if row.manifest_id else None
        ),
        "tags": tuple(row.tags),
        "created_at": row.created_at,
        "created_by": row.created_by,
        "run": runs_sql.from_run_columns(row),
    }


def _artifact_version_with_names(row: Row[Any]) -> ArtifactVersion:
    return ArtifactVersion(
        id=row.id,
        artifact_id=row.artifact_id,
        project=row.project,
        artifact_name=row.artifact,
        artifact_type=row.artifact_type,
        number=row.number,
        aliases=tuple(sorted(row.aliases.split("/"))) if row.aliases else (),
        **_artifact_version_values(row),
    )


def _version(row: Row[Any], collection: Collection) -> Version:
    return Version(
        id=row.id,
        collection_id=collection.id,
        registry=collection.registry,
        collection=collection.name,
        number=row.number,
        artifact_version=ArtifactVersion(
            id=row.artifact_version_id,
            artifact_id=row.artifact_id,
            project=row.project,
            artifact_name=row.artifact,
            artifact_type=row.artifact_type,
            number=row.artifact_number,
            aliases=tuple(sorted(row.aliases.split("/"))) if row.aliases else (),
            **_artifact_version_values(row),
        ),
        aliases=collection.aliases_of(f"v{row.number}"),
        stage=Stage(row.stage),
        linked_at=row.linked_at,
        linked_by=row.linked_by,
    )
