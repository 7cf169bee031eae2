"""The registry in SQL: its store, and the writes of a transaction. Every method runs statements that are built once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from typing_extensions import override

from upshot.adapters.sql import comments as comments_sql
from upshot.adapters.sql import manifests as manifests_sql
from upshot.adapters.sql import runs as runs_sql
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import insert_events
from upshot.adapters.sql.metric_conditions import SqlConditionStates
from upshot.adapters.sql.registry_reads import PROJECT_ID, SqlRegistryView, matches
from upshot.adapters.sql.root_events import count_events, set_warning
from upshot.adapters.sql.run_history import SqlRunHistoryTransaction
from upshot.adapters.sql.schema import (
    artifact_aliases,
    artifact_versions,
    artifacts,
    collection_aliases,
    collections,
    events,
    history,
    projects,
    registries,
    versions,
)
from upshot.domain.comment import Comment
from upshot.domain.event import Event, alias_time
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
from upshot.domain.run import Edge, Run
from upshot.ids import EventId
from upshot.ports.registry import (
    RegistryStore,
    RegistryTransaction,
    RegistryView,
)

T = TypeVar("T")


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


_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("key", type_=sa.BigInteger)))
_ACCEPTED = sa.select(events.c.id).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))

_SAVE_REGISTRY = _upsert(registries, "protected_aliases", "allowed_automations")
_SAVE_COLLECTION = _upsert(collections, "name", "description", "metadata", "tags", "ttl_seconds")
# The names of columns that an UPDATE changes cannot be names of parameters, so the id is `key_id`.
_REMOVE_COLLECTION = (
    sa.delete(collection_aliases).where(matches(collection_aliases, collection_id="key_id")),
    sa.delete(versions).where(matches(versions, collection_id="key_id")),
    sa.delete(collections).where(matches(collections, id="key_id")),
)
_RENAME_HISTORY = (
    sa.update(history)
    .where(matches(history, registry="key_registry", collection="key_name"))
    .values(collection=sa.bindparam("new_name"))
)
_NEXT_NUMBER, _NEXT_ARTIFACT_NUMBER = (
    sa.update(table)
    .where(matches(table, id="key_id"))
    .values(next_number=table.c.next_number + 1)
    .returning(table.c.next_number)
    for table in (collections, artifacts)
)
_ADD_VERSION = sa.insert(versions)
_UPDATE_STAGE = sa.update(versions).where(matches(versions, id="key_id")).values(stage=sa.bindparam("stage"))
_REMOVE_VERSION = (
    sa.delete(collection_aliases).where(matches(collection_aliases, collection_id="collection_id", number="number")),
    sa.delete(versions).where(matches(versions, collection_id="collection_id", number="number")),
)
_MOVE_ALIASES = _upsert(collection_aliases, "number")
_REMOVE_ALIAS = sa.delete(collection_aliases).where(matches(collection_aliases, collection_id="id", alias="alias"))

_ALIAS_CHANGED_AT = (
    sa.select(events.c.time, events.c.document)
    .where(events.c.subject_base == sa.bindparam("base"), events.c.alias == sa.bindparam("alias"))
    .order_by(events.c.id.desc())
    .limit(1)
)
_ADD_PROJECT = _upsert(projects, unique="name")
_RENAME_PROJECT = sa.update(projects).where(matches(projects, name="key_name")).values(name=sa.bindparam("new_name"))
_SAVE_ARTIFACT = _upsert(artifacts, "name", "ttl_seconds")
_ADD_ARTIFACT_VERSION = sa.insert(artifact_versions)
_CHANGED_OF_VERSION = ("metadata", "description", "tags", "ttl_seconds")
_UPDATE_ARTIFACT_VERSION = (
    sa.update(artifact_versions)
    .where(matches(artifact_versions, id="key_id"))
    .values({column: sa.bindparam(column) for column in _CHANGED_OF_VERSION})
)
_REMOVE_ARTIFACT_VERSION = (
    *runs_sql.REMOVE_EDGES,
    comments_sql.REMOVE_OF_VERSION,
    sa.delete(artifact_aliases).where(matches(artifact_aliases, artifact_id="artifact_id", number="number")),
    sa.delete(artifact_versions).where(matches(artifact_versions, id="id")),
)
_MOVE_ARTIFACT_ALIASES = _upsert(artifact_aliases, "number")
_REMOVE_ARTIFACT_ALIAS = sa.delete(artifact_aliases).where(matches(artifact_aliases, artifact_id="id", alias="alias"))
_ADD_HISTORY = sa.insert(history)
_HISTORY_COLUMNS = tuple(column.name for column in history.columns)  # named as in HistoryEntry


class SqlRegistry(RegistryStore):
    """`RegistryStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def read(self, work: Callable[[RegistryView], T]) -> T:
        return self._database.read(lambda connection: work(SqlRegistryView(connection)))

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


class _Transaction(SqlRegistryView, SqlRunHistoryTransaction, SqlConditionStates, RegistryTransaction):
    @override
    def lock(self, keys: Iterable[str]) -> None:
        if self._dialect == "postgresql":
            for key in sorted(keys):
                self._connection.execute(_LOCK, {"key": _advisory_lock_key(key)})

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
            "ttl_seconds": collection.ttl_seconds,
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
            "project_id": self._connection.execute(PROJECT_ID, {"name": artifact.project}).scalar_one(),
            "name": artifact.name,
            "artifact_type": artifact.artifact_type,
            "next_number": 0,  # for a new row; an existing row keeps its counter
            "ttl_seconds": artifact.ttl_seconds,
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
            "ttl_seconds": artifact_version.ttl_seconds,
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
    def add_comment(self, comment: Comment) -> None:
        comments_sql.add_comment(self._connection, comment)

    @override
    def update_comment(self, comment: Comment) -> None:
        comments_sql.update_comment(self._connection, comment)

    @override
    def remove_comment(self, comment_id: str) -> None:
        comments_sql.remove_comment(self._connection, comment_id)

    @override
    def update_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        values = {name: getattr(artifact_version, name) for name in _CHANGED_OF_VERSION}
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
    def alias_changed_at(self, series: Series, alias: str) -> datetime | None:
        row = self._connection.execute(_ALIAS_CHANGED_AT, {"base": series.reference, "alias": alias}).first()
        return alias_time(row.time, row.document["data"]) if row else None

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
