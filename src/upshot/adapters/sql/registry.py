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
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import insert_events
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
from upshot.domain.registry import (
    Artifact,
    ArtifactVersion,
    Collection,
    HistoryEntry,
    RegistrySettings,
    Series,
    Version,
)
from upshot.ids import EventId
from upshot.ports.paging import Page
from upshot.ports.registry import NameKind, RegistryStore, RegistryTransaction, RegistryView

T = TypeVar("T")

MAX_NAMES = 1_000  # searched for a similar name


def _upsert(table: sa.Table, *changed: str) -> dict[str, sa.Insert]:
    """Build statements by dialect that insert a row, or change these columns of the row with the same key."""
    statements: dict[str, sa.Insert] = {}
    for dialect, insert in (("sqlite", sqlite.insert(table)), ("postgresql", postgresql.insert(table))):
        key = list(table.primary_key.columns)
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
    .where(
        collection_aliases.c.registry == collections.c.registry, collection_aliases.c.collection == collections.c.name
    )
    .correlate(collections)
    .scalar_subquery()
)
_SELECT_COLLECTIONS = sa.select(collections, _aliases_in_collection.label("aliases")).where(
    collections.c.registry == sa.bindparam("registry"), collections.c.deleted.is_(False)
)
_COLLECTION = _SELECT_COLLECTIONS.where(collections.c.name == sa.bindparam("name"))
_COLLECTIONS = (
    _SELECT_COLLECTIONS.where(collections.c.name > sa.bindparam("after"))
    .order_by(collections.c.name)
    .limit(sa.bindparam("limit"))
)

_aliases_in_project = (
    sa.select(_joined_aliases(artifact_aliases.c.alias, artifact_aliases.c.number))
    .where(artifact_aliases.c.project == artifacts.c.project, artifact_aliases.c.artifact == artifacts.c.name)
    .correlate(artifacts)
    .scalar_subquery()
)
_SELECT_ARTIFACTS = sa.select(artifacts, _aliases_in_project.label("aliases")).where(
    artifacts.c.project == sa.bindparam("project")
)
_ARTIFACT = _SELECT_ARTIFACTS.where(artifacts.c.name == sa.bindparam("name"))
_ARTIFACTS = (
    _SELECT_ARTIFACTS.where(artifacts.c.name > sa.bindparam("after"))
    .order_by(artifacts.c.name)
    .limit(sa.bindparam("limit"))
)

_SELECT_ARTIFACT_VERSIONS = sa.select(artifact_versions).where(
    _matches(artifact_versions, project="project", artifact="artifact")
)
_ARTIFACT_VERSIONS = _SELECT_ARTIFACT_VERSIONS.where(
    artifact_versions.c.number.in_(sa.bindparam("numbers", expanding=True))
)
_ARTIFACT_VERSIONS_BELOW = (
    _SELECT_ARTIFACT_VERSIONS.where(artifact_versions.c.number < sa.bindparam("below"))
    .order_by(artifact_versions.c.number.desc())
    .limit(sa.bindparam("limit"))
)
_MANIFEST = sa.select(manifests.c.entries).where(
    _matches(manifests, project="project", artifact="artifact", number="number")
)

_aliases_of_source = (
    sa.select(sa.func.aggregate_strings(artifact_aliases.c.alias, "/"))
    .where(
        artifact_aliases.c.project == versions.c.project,
        artifact_aliases.c.artifact == versions.c.artifact,
        artifact_aliases.c.number == versions.c.artifact_number,
    )
    .correlate(versions)
    .scalar_subquery()
)
_SELECT_VERSIONS = (
    sa.select(
        versions,
        artifacts.c.artifact_type,
        artifact_versions.c.digest,
        artifact_versions.c.metadata,
        artifact_versions.c.description,
        artifact_versions.c.tags,
        artifact_versions.c.created_at,
        artifact_versions.c.created_by,
        _aliases_of_source.label("aliases"),
    )
    .join(
        artifacts,
        sa.and_(artifacts.c.project == versions.c.project, artifacts.c.name == versions.c.artifact),
    )
    .join(
        artifact_versions,
        sa.and_(
            artifact_versions.c.project == versions.c.project,
            artifact_versions.c.artifact == versions.c.artifact,
            artifact_versions.c.number == versions.c.artifact_number,
        ),
    )
    .where(_matches(versions, registry="registry", collection="collection"))
)
_VERSIONS = _SELECT_VERSIONS.where(versions.c.number.in_(sa.bindparam("numbers", expanding=True)))
_VERSIONS_BELOW = (
    _SELECT_VERSIONS.where(versions.c.number < sa.bindparam("below"))
    .order_by(versions.c.number.desc())
    .limit(sa.bindparam("limit"))
)
_of_source = _matches(versions, project="project", artifact="artifact", artifact_number="number")
_LINKED_NUMBER = sa.select(versions.c.number).where(
    _of_source, _matches(versions, registry="registry", collection="name")
)
_LINKS_TO = sa.select(versions.c.registry, versions.c.collection, versions.c.number).where(_of_source)

_NAMES = {
    "registry": sa.select(registries.c.name),
    "collection": sa.select(collections.c.name).where(
        collections.c.registry == sa.bindparam("within"), collections.c.deleted.is_(False)
    ),
    "project": sa.select(projects.c.name),
    "artifact": sa.select(artifacts.c.name).where(artifacts.c.project == sa.bindparam("within")),
}
_ACCEPTED = sa.select(events.c.id).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))

# --- writes -------------------------------------------------------------------------------------

_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("key", type_=sa.BigInteger)))

_SAVE_REGISTRY = _upsert(registries, "protected_aliases")
_SAVE_COLLECTION = _upsert(collections, "artifact_type", "description", "tags", "created_at", "created_by", "deleted")
_REMOVE_COLLECTION = (
    sa.delete(collection_aliases).where(_matches(collection_aliases, registry="key_scope", collection="key_name")),
    sa.delete(versions).where(_matches(versions, registry="key_scope", collection="key_name")),
    sa.update(collections).where(_matches(collections, registry="key_scope", name="key_name")).values(deleted=True),
)
_NEXT_NUMBER = (
    sa.update(collections)
    .where(_matches(collections, registry="key_scope", name="key_name"))
    .values(next_number=collections.c.next_number + 1)
    .returning(collections.c.next_number)
)
_ADD_VERSION = sa.insert(versions)
_REMOVE_VERSION = (
    sa.delete(collection_aliases).where(
        _matches(collection_aliases, registry="registry", collection="collection", number="number")
    ),
    sa.delete(versions).where(_matches(versions, registry="registry", collection="collection", number="number")),
)
_MOVE_ALIASES = _upsert(collection_aliases, "number")
_REMOVE_ALIAS = sa.delete(collection_aliases).where(
    _matches(collection_aliases, registry="key_scope", collection="key_name", alias="alias")
)

_SAVE_PROJECT = _upsert(projects)
_ADD_ARTIFACT = sa.insert(artifacts)
_NEXT_ARTIFACT_NUMBER = (
    sa.update(artifacts)
    .where(_matches(artifacts, project="key_scope", name="key_name"))
    .values(next_number=artifacts.c.next_number + 1)
    .returning(artifacts.c.next_number)
)
_ADD_ARTIFACT_VERSION = sa.insert(artifact_versions)
_ADD_MANIFEST = sa.insert(manifests)
_UPDATE_ARTIFACT_VERSION = (
    sa.update(artifact_versions)
    .where(_matches(artifact_versions, project="key_project", artifact="key_artifact", number="key_number"))
    .values({column: sa.bindparam(column) for column in ("metadata", "description", "tags")})
)
_REMOVE_ARTIFACT_VERSION = tuple(
    sa.delete(table).where(_matches(table, project="project", artifact="artifact", number="number"))
    for table in (artifact_aliases, manifests, artifact_versions)
)
_MOVE_ARTIFACT_ALIASES = _upsert(artifact_aliases, "number")
_REMOVE_ARTIFACT_ALIAS = sa.delete(artifact_aliases).where(
    _matches(artifact_aliases, project="key_scope", artifact="key_name", alias="alias")
)
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
        rows = self._rows(_VERSIONS, registry=collection.registry, collection=collection.name, numbers=wanted)
        return {row.number: _version(row, collection) for row in rows}

    @override
    def linked_number(self, collection: Collection, artifact_version: ArtifactVersion) -> int | None:
        rows = self._rows(
            _LINKED_NUMBER, registry=collection.registry, name=collection.name, **_version_params(artifact_version)
        )
        return rows[0].number if rows else None

    @override
    def links_to(self, artifact_version: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        rows = self._rows(_LINKS_TO, **_version_params(artifact_version))
        return tuple(sorted((row.registry, row.collection, row.number) for row in rows))

    @override
    def artifact(self, project: str, name: str) -> Artifact | None:
        rows = self._rows(_ARTIFACT, project=project, name=name)
        return _artifact(rows[0]) if rows else None

    @override
    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        wanted = list(numbers)
        if not wanted:
            return {}
        rows = self._rows(_ARTIFACT_VERSIONS, project=artifact.project, artifact=artifact.name, numbers=wanted)
        return {row.number: _artifact_version(row, artifact) for row in rows}

    @override
    def manifest(self, artifact_version: ArtifactVersion) -> Mapping[str, str] | None:
        return self._connection.execute(_MANIFEST, _version_params(artifact_version)).scalar_one_or_none()

    @override
    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        column = _NAMES[kind].selected_columns[0]
        rows = self._rows(_NAMES[kind].order_by(column).limit(MAX_NAMES), within=within)
        return tuple(row[0] for row in rows)

    @override
    def page_collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        after = decode_cursor(cursor) if cursor is not None else ""
        rows = self._rows(_COLLECTIONS, registry=registry, after=after, limit=limit + 1)
        items = tuple(_collection(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    @override
    def page_versions(self, collection: Collection, *, cursor: str | None, limit: int) -> Page[Version]:
        rows = self._rows(
            _VERSIONS_BELOW,
            registry=collection.registry,
            collection=collection.name,
            below=decode_number_cursor(cursor),
            limit=limit + 1,
        )
        items = tuple(_version(row, collection) for row in rows[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(rows) > limit else None)

    @override
    def page_artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        after = decode_cursor(cursor) if cursor is not None else ""
        rows = self._rows(_ARTIFACTS, project=project, after=after, limit=limit + 1)
        items = tuple(_artifact(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    @override
    def page_artifact_versions(self, artifact: Artifact, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        rows = self._rows(
            _ARTIFACT_VERSIONS_BELOW,
            project=artifact.project,
            artifact=artifact.name,
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

    # --- writes ---------------------------------------------------------------------------------

    @override
    def save_registry(self, registry: RegistrySettings) -> None:
        row = {"name": registry.name, "protected_aliases": registry.protected_aliases}
        self._connection.execute(_SAVE_REGISTRY[self._dialect], row)

    @override
    def save_collection(self, collection: Collection) -> None:
        row = {
            "registry": collection.registry,
            "name": collection.name,
            "artifact_type": collection.artifact_type,
            "description": collection.description,
            "tags": collection.tags,
            "next_number": 0,  # for a new row; an existing row keeps its counter
            "created_at": collection.created_at,
            "created_by": collection.created_by,
            "deleted": False,
        }
        self._connection.execute(_SAVE_COLLECTION[self._dialect], row)

    @override
    def remove_collection(self, collection: Collection) -> None:
        for statement in _REMOVE_COLLECTION:
            self._connection.execute(statement, _series_params(collection))

    @override
    def next_number(self, series: Series) -> int:
        statement = _NEXT_NUMBER if isinstance(series, Collection) else _NEXT_ARTIFACT_NUMBER
        next_number: int = self._connection.execute(statement, _series_params(series)).scalar_one()
        return next_number - 1

    @override
    def add_version(self, version: Version) -> None:
        source = version.artifact_version
        row = {
            "registry": version.registry,
            "collection": version.collection,
            "number": version.number,
            "project": source.project,
            "artifact": source.artifact_name,
            "artifact_number": source.number,
            "linked_at": version.linked_at,
            "linked_by": version.linked_by,
        }
        self._connection.execute(_ADD_VERSION, row)

    @override
    def remove_version(self, version: Version) -> None:
        key = {"registry": version.registry, "collection": version.collection, "number": version.number}
        for statement in _REMOVE_VERSION:
            self._connection.execute(statement, key)

    @override
    def move_aliases(self, series: Series, moves: Mapping[str, int]) -> None:
        if isinstance(series, Collection):
            statements, key = _MOVE_ALIASES, {"registry": series.registry, "collection": series.name}
        else:
            statements, key = _MOVE_ARTIFACT_ALIASES, {"project": series.project, "artifact": series.name}
        rows = [{**key, "alias": alias, "number": number} for alias, number in moves.items()]
        self._connection.execute(statements[self._dialect], rows)

    @override
    def remove_alias(self, series: Series, alias: str) -> None:
        statement = _REMOVE_ALIAS if isinstance(series, Collection) else _REMOVE_ARTIFACT_ALIAS
        self._connection.execute(statement, {**_series_params(series), "alias": alias})

    @override
    def save_artifact(self, artifact: Artifact) -> None:
        self._connection.execute(_SAVE_PROJECT[self._dialect], {"name": artifact.project})
        row = {
            "project": artifact.project,
            "name": artifact.name,
            "artifact_type": artifact.artifact_type,
            "next_number": 0,
        }
        self._connection.execute(_ADD_ARTIFACT, row)

    @override
    def add_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        row = {
            **_version_params(artifact_version),
            "digest": artifact_version.digest,
            "metadata": artifact_version.metadata,
            "description": artifact_version.description,
            "tags": artifact_version.tags,
            "created_at": artifact_version.created_at,
            "created_by": artifact_version.created_by,
        }
        self._connection.execute(_ADD_ARTIFACT_VERSION, row)
        if artifact_version.manifest is not None:
            self._connection.execute(
                _ADD_MANIFEST, {**_version_params(artifact_version), "entries": artifact_version.manifest}
            )

    @override
    def update_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        values = {name: getattr(artifact_version, name) for name in ("metadata", "description", "tags")}
        key = {f"key_{column}": value for column, value in _version_params(artifact_version).items()}
        self._connection.execute(_UPDATE_ARTIFACT_VERSION, {**values, **key})

    @override
    def remove_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        for statement in _REMOVE_ARTIFACT_VERSION:
            self._connection.execute(statement, _version_params(artifact_version))

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


def _version_params(artifact_version: ArtifactVersion) -> dict[str, str | int]:
    return {
        "project": artifact_version.project,
        "artifact": artifact_version.artifact_name,
        "number": artifact_version.number,
    }


def _series_params(series: Series) -> dict[str, str]:
    """Return parameters whose names differ from all columns, because SQLAlchemy would take them for new values."""
    return {"key_scope": series.registry if isinstance(series, Collection) else series.project, "key_name": series.name}


def _split_aliases(joined: str | None) -> dict[str, str]:
    """Return the versions by alias from the result of `_joined_aliases`."""
    pairs = (pair.split(":") for pair in sorted(joined.split("/"))) if joined else ()
    return {alias: f"v{number}" for alias, number in pairs}


def _registry(row: Row[Any]) -> RegistrySettings:
    return RegistrySettings(row.name, tuple(row.protected_aliases))


def _collection(row: Row[Any]) -> Collection:
    return Collection(
        registry=row.registry,
        name=row.name,
        artifact_type=row.artifact_type,
        description=row.description,
        tags=tuple(row.tags),
        aliases=_split_aliases(row.aliases),
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _artifact(row: Row[Any]) -> Artifact:
    return Artifact(row.project, row.name, row.artifact_type, _split_aliases(row.aliases))


def _artifact_version(row: Row[Any], artifact: Artifact) -> ArtifactVersion:
    return ArtifactVersion(
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
        "manifest": None,
        "tags": tuple(row.tags),
        "created_at": row.created_at,
        "created_by": row.created_by,
    }


def _version(row: Row[Any], collection: Collection) -> Version:
    return Version(
        registry=collection.registry,
        collection=collection.name,
        number=row.number,
        artifact_version=ArtifactVersion(
            project=row.project,
            artifact_name=row.artifact,
            artifact_type=row.artifact_type,
            number=row.artifact_number,
            aliases=tuple(sorted(row.aliases.split("/"))) if row.aliases else (),
            **_artifact_version_values(row),
        ),
        aliases=collection.aliases_of(f"v{row.number}"),
        linked_at=row.linked_at,
        linked_by=row.linked_by,
    )
