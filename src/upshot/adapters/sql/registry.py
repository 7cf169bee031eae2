"""The registry in SQL: its verbs as single statements, built once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from upshot.adapters.cursor import after_cursor, make_cursor, number_after_cursor
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.events import insert_events
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
    Version,
)
from upshot.ids import EventId
from upshot.ports.paging import Page
from upshot.ports.registry import NameKind, RegistryTransaction, RegistryView

T = TypeVar("T")

MAX_NAMES = 1_000  # that are looked through for the nearest right one


def _upsert(table: sa.Table, *changed: str) -> dict[str, sa.Insert]:
    """Insert a row, or change these columns of the one that has its key; by dialect."""
    made: dict[str, sa.Insert] = {}
    for name, insert in (("sqlite", sqlite.insert(table)), ("postgresql", postgresql.insert(table))):
        key = list(table.primary_key.columns)
        new = {column: insert.excluded[column] for column in changed}
        made[name] = (
            insert.on_conflict_do_update(index_elements=key, set_=new) if new else insert.on_conflict_do_nothing()
        )
    return made


def _same(table: sa.Table, **columns: str) -> sa.ColumnElement[bool]:
    """The columns have the values that are bound under these names."""
    return sa.and_(*(table.c[column] == sa.bindparam(name) for column, name in columns.items()))


def _joined(alias: sa.Column[str], number: sa.Column[int]) -> sa.ColumnElement[str]:
    """`production:3/staging:4`; no name has these two signs."""
    return sa.func.aggregate_strings(alias + ":" + sa.cast(number, sa.String), "/")


# --- questions ------------------------------------------------------------------------------------

_REGISTRIES = sa.select(registries).order_by(registries.c.name)
_REGISTRY = sa.select(registries).where(_same(registries, name="name"))

_aliases_in_collection = (
    sa.select(_joined(collection_aliases.c.alias, collection_aliases.c.number))
    .where(
        collection_aliases.c.registry == collections.c.registry, collection_aliases.c.collection == collections.c.name
    )
    .correlate(collections)
    .scalar_subquery()
)
_ANY_COLLECTION = sa.select(collections, _aliases_in_collection.label("aliases")).where(
    collections.c.registry == sa.bindparam("registry"), collections.c.deleted.is_(False)
)
_COLLECTION = _ANY_COLLECTION.where(collections.c.name == sa.bindparam("name"))
_COLLECTIONS = (
    _ANY_COLLECTION.where(collections.c.name > sa.bindparam("after"))
    .order_by(collections.c.name)
    .limit(sa.bindparam("limit"))
)

_aliases_in_project = (
    sa.select(_joined(artifact_aliases.c.alias, artifact_aliases.c.number))
    .where(artifact_aliases.c.project == artifacts.c.project, artifact_aliases.c.artifact == artifacts.c.name)
    .correlate(artifacts)
    .scalar_subquery()
)
_ANY_ARTIFACT = sa.select(artifacts, _aliases_in_project.label("aliases")).where(
    artifacts.c.project == sa.bindparam("project")
)
_ARTIFACT = _ANY_ARTIFACT.where(artifacts.c.name == sa.bindparam("name"))
_ARTIFACTS = (
    _ANY_ARTIFACT.where(artifacts.c.name > sa.bindparam("after"))
    .order_by(artifacts.c.name)
    .limit(sa.bindparam("limit"))
)

_ANY_ARTIFACT_VERSION = sa.select(artifact_versions).where(
    _same(artifact_versions, project="project", artifact="artifact")
)
_ARTIFACT_VERSIONS = _ANY_ARTIFACT_VERSION.where(
    artifact_versions.c.number.in_(sa.bindparam("numbers", expanding=True))
)
_ARTIFACT_VERSIONS_BELOW = (
    _ANY_ARTIFACT_VERSION.where(artifact_versions.c.number < sa.bindparam("below"))
    .order_by(artifact_versions.c.number.desc())
    .limit(sa.bindparam("limit"))
)
_MANIFEST = sa.select(manifests.c.entries).where(
    _same(manifests, project="project", artifact="artifact", number="number")
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
_ANY_VERSION = (
    sa.select(
        versions,
        artifacts.c.type,
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
    .where(_same(versions, registry="registry", collection="collection"))
)
_VERSIONS = _ANY_VERSION.where(versions.c.number.in_(sa.bindparam("numbers", expanding=True)))
_VERSIONS_BELOW = (
    _ANY_VERSION.where(versions.c.number < sa.bindparam("below"))
    .order_by(versions.c.number.desc())
    .limit(sa.bindparam("limit"))
)
_of_source = _same(versions, project="project", artifact="artifact", artifact_number="number")
_NUMBER_OF = sa.select(versions.c.number).where(_of_source, _same(versions, registry="registry", collection="name"))
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

# --- changes --------------------------------------------------------------------------------------

_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("key", type_=sa.BigInteger)))

_SAVE_REGISTRY = _upsert(registries, "protected_aliases")
_SAVE_COLLECTION = _upsert(collections, "artifact_type", "description", "tags", "created_at", "created_by", "deleted")
_REMOVE_COLLECTION = (
    sa.delete(collection_aliases).where(_same(collection_aliases, registry="of_scope", collection="of_name")),
    sa.delete(versions).where(_same(versions, registry="of_scope", collection="of_name")),
    sa.update(collections).where(_same(collections, registry="of_scope", name="of_name")).values(deleted=True),
)
_NUMBER_VERSION = (
    sa.update(collections)
    .where(_same(collections, registry="of_scope", name="of_name"))
    .values(next_number=collections.c.next_number + 1)
    .returning(collections.c.next_number)
)
_ADD_VERSION = sa.insert(versions)
_REMOVE_VERSION = (
    sa.delete(collection_aliases).where(
        _same(collection_aliases, registry="registry", collection="collection", number="number")
    ),
    sa.delete(versions).where(_same(versions, registry="registry", collection="collection", number="number")),
)
_MOVE_ALIASES = _upsert(collection_aliases, "number")
_REMOVE_ALIAS = sa.delete(collection_aliases).where(
    _same(collection_aliases, registry="of_scope", collection="of_name", alias="alias")
)

_SAVE_PROJECT = _upsert(projects)
_ADD_ARTIFACT = sa.insert(artifacts)
_NUMBER_ARTIFACT_VERSION = (
    sa.update(artifacts)
    .where(_same(artifacts, project="of_scope", name="of_name"))
    .values(next_number=artifacts.c.next_number + 1)
    .returning(artifacts.c.next_number)
)
_ADD_ARTIFACT_VERSION = sa.insert(artifact_versions)
_ADD_MANIFEST = sa.insert(manifests)
_CHANGE_ARTIFACT_VERSION = (
    sa.update(artifact_versions)
    .where(_same(artifact_versions, project="of_project", artifact="of_artifact", number="of_number"))
    .values({column: sa.bindparam(column) for column in ("metadata", "description", "tags")})
)
_REMOVE_ARTIFACT_VERSION = tuple(
    sa.delete(table).where(_same(table, project="project", artifact="artifact", number="number"))
    for table in (artifact_aliases, manifests, artifact_versions)
)
_MOVE_ARTIFACT_ALIASES = _upsert(artifact_aliases, "number")
_REMOVE_ARTIFACT_ALIAS = sa.delete(artifact_aliases).where(
    _same(artifact_aliases, project="of_scope", artifact="of_name", alias="alias")
)
_ADD_HISTORY = sa.insert(history)
_HISTORY_COLUMNS = tuple(column.name for column in history.columns)  # named as in HistoryEntry


class SqlRegistry:
    """`RegistryStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, work: Callable[[RegistryView], T]) -> T:
        """Run the work on one state."""
        return self._database.read(lambda connection: work(_Transaction(connection)))

    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        """Run the work in one transaction that holds the locks; SQLite has one writer at a time anyway."""
        keys = tuple(locks)

        def locked(connection: Connection) -> T:
            transaction = _Transaction(connection)
            transaction.lock(keys)
            return work(transaction)

        return self._database.write(locked)


class _Transaction:
    """`RegistryTransaction` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name

    def _rows(self, statement: sa.Select[Any], **values: Any) -> Sequence[Row[Any]]:
        return self._connection.execute(statement, values).all()

    def lock(self, keys: Iterable[str]) -> None:
        """Wait for these keys too, and hold them to the end."""
        if self._dialect == "postgresql":
            for key in sorted(keys):
                self._connection.execute(_LOCK, {"key": _lock_number(key)})

    # --- questions ----------------------------------------------------------------------------

    def registry(self, name: str) -> RegistrySettings | None:
        """The registry and its rules."""
        rows = self._rows(_REGISTRY, name=name)
        return _registry(rows[0]) if rows else None

    def registries(self) -> tuple[RegistrySettings, ...]:
        """All registries, by name."""
        return tuple(_registry(row) for row in self._rows(_REGISTRIES))

    def collection(self, registry: str, name: str) -> Collection | None:
        """The collection with all its aliases."""
        rows = self._rows(_COLLECTION, registry=registry, name=name)
        return _collection(rows[0]) if rows else None

    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        """Those of the numbers that are linked."""
        wanted = list(numbers)
        if not wanted:
            return {}
        rows = self._rows(_VERSIONS, registry=collection.registry, collection=collection.name, numbers=wanted)
        return {row.number: _version(row, collection) for row in rows}

    def number_of(self, collection: Collection, artifact: ArtifactVersion) -> int | None:
        """Under which number the artifact version is linked."""
        rows = self._rows(_NUMBER_OF, registry=collection.registry, name=collection.name, **_key(artifact))
        return rows[0].number if rows else None

    def links_to(self, artifact: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        """Where the artifact version is linked."""
        rows = self._rows(_LINKS_TO, **_key(artifact))
        return tuple(sorted((row.registry, row.collection, row.number) for row in rows))

    def artifact(self, project: str, name: str) -> Artifact | None:
        """The artifact with its aliases in the project."""
        rows = self._rows(_ARTIFACT, project=project, name=name)
        return _artifact(rows[0]) if rows else None

    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        """Those of the numbers that exist."""
        wanted = list(numbers)
        if not wanted:
            return {}
        rows = self._rows(_ARTIFACT_VERSIONS, project=artifact.project, artifact=artifact.name, numbers=wanted)
        return {row.number: _artifact_version(row, artifact) for row in rows}

    def manifest(self, artifact: ArtifactVersion) -> Mapping[str, str] | None:
        """Content digest by path."""
        return self._connection.execute(_MANIFEST, _key(artifact)).scalar_one_or_none()

    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        """Names that exist, sorted."""
        column = _NAMES[kind].selected_columns[0]
        rows = self._rows(_NAMES[kind].order_by(column).limit(MAX_NAMES), within=within)
        return tuple(row[0] for row in rows)

    def page_collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        """Collections, by name."""
        after = after_cursor(cursor) if cursor is not None else ""
        rows = self._rows(_COLLECTIONS, registry=registry, after=after, limit=limit + 1)
        items = tuple(_collection(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    def page_versions(self, collection: Collection, *, cursor: str | None, limit: int) -> Page[Version]:
        """Versions, the highest number first."""
        rows = self._rows(
            _VERSIONS_BELOW,
            registry=collection.registry,
            collection=collection.name,
            below=number_after_cursor(cursor),
            limit=limit + 1,
        )
        items = tuple(_version(row, collection) for row in rows[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(rows) > limit else None)

    def page_artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        """Artifacts of a project, by name."""
        after = after_cursor(cursor) if cursor is not None else ""
        rows = self._rows(_ARTIFACTS, project=project, after=after, limit=limit + 1)
        items = tuple(_artifact(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    def page_artifact_versions(self, artifact: Artifact, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        """Artifact versions, the highest number first."""
        rows = self._rows(
            _ARTIFACT_VERSIONS_BELOW,
            project=artifact.project,
            artifact=artifact.name,
            below=number_after_cursor(cursor),
            limit=limit + 1,
        )
        items = tuple(_artifact_version(row, artifact) for row in rows[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(rows) > limit else None)

    def page_history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        """What was done, newest first."""
        select = sa.select(history).order_by(history.c.id.desc()).limit(limit + 1)
        if registry is not None:
            select = select.where(history.c.registry == registry)
        if collection is not None:
            select = select.where(history.c.collection == collection)
        if cursor is not None:
            select = select.where(history.c.id < after_cursor(cursor))
        rows = self._rows(select)
        items = tuple(HistoryEntry(**row._mapping) for row in rows[:limit])  # noqa: SLF001 - SQLAlchemy's public name
        return Page(items, make_cursor(items[-1].id) if len(rows) > limit else None)

    # --- changes ------------------------------------------------------------------------------

    def save_registry(self, registry: RegistrySettings) -> None:
        """Make the registry, or change its rules."""
        row = {"name": registry.name, "protected_aliases": registry.protected_aliases}
        self._connection.execute(_SAVE_REGISTRY[self._dialect], row)

    def save_collection(self, collection: Collection) -> None:
        """Make the collection, or change its description and tags."""
        row = {
            "registry": collection.registry,
            "name": collection.name,
            "artifact_type": collection.artifact_type,
            "description": collection.description,
            "tags": collection.tags,
            "next_number": 0,  # where the row is new; the counter of one that exists stays
            "created_at": collection.created_at,
            "created_by": collection.created_by,
            "deleted": False,
        }
        self._connection.execute(_SAVE_COLLECTION[self._dialect], row)

    def remove_collection(self, collection: Collection) -> None:
        """Remove the collection with its versions and aliases."""
        for statement in _REMOVE_COLLECTION:
            self._connection.execute(statement, _key_of(collection))

    def next_number(self, of: Collection | Artifact) -> int:
        """Take the number of the next version."""
        statement = _NUMBER_VERSION if isinstance(of, Collection) else _NUMBER_ARTIFACT_VERSION
        taken: int = self._connection.execute(statement, _key_of(of)).scalar_one()
        return taken - 1

    def add_version(self, version: Version) -> None:
        """Link."""
        source = version.artifact
        row = {
            "registry": version.registry,
            "collection": version.collection,
            "number": version.number,
            "project": source.project,
            "artifact": source.name,
            "artifact_number": source.number,
            "linked_at": version.linked_at,
            "linked_by": version.linked_by,
        }
        self._connection.execute(_ADD_VERSION, row)

    def remove_version(self, version: Version) -> None:
        """Unlink, and remove its aliases."""
        key = {"registry": version.registry, "collection": version.collection, "number": version.number}
        for statement in _REMOVE_VERSION:
            self._connection.execute(statement, key)

    def move_aliases(self, of: Collection | Artifact, moves: Mapping[str, int]) -> None:
        """Give each alias to the version of that number, whoever held it."""
        if isinstance(of, Collection):
            statements, home = _MOVE_ALIASES, {"registry": of.registry, "collection": of.name}
        else:
            statements, home = _MOVE_ARTIFACT_ALIASES, {"project": of.project, "artifact": of.name}
        rows = [{**home, "alias": alias, "number": number} for alias, number in moves.items()]
        self._connection.execute(statements[self._dialect], rows)

    def remove_alias(self, of: Collection | Artifact, alias: str) -> None:
        """Take the alias from its holder."""
        statement = _REMOVE_ALIAS if isinstance(of, Collection) else _REMOVE_ARTIFACT_ALIAS
        self._connection.execute(statement, {**_key_of(of), "alias": alias})

    def save_artifact(self, artifact: Artifact) -> None:
        """Make the artifact, and its project if it is the first there."""
        self._connection.execute(_SAVE_PROJECT[self._dialect], {"name": artifact.project})
        row = {"project": artifact.project, "name": artifact.name, "type": artifact.type, "next_number": 0}
        self._connection.execute(_ADD_ARTIFACT, row)

    def add_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Keep a logged version with its manifest."""
        row = {
            **_key(artifact),
            "digest": artifact.digest,
            "metadata": artifact.metadata,
            "description": artifact.description,
            "tags": artifact.tags,
            "created_at": artifact.created_at,
            "created_by": artifact.created_by,
        }
        self._connection.execute(_ADD_ARTIFACT_VERSION, row)
        if artifact.manifest is not None:
            self._connection.execute(_ADD_MANIFEST, {**_key(artifact), "entries": artifact.manifest})

    def change_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Change metadata, description and tags."""
        values = {"metadata": artifact.metadata, "description": artifact.description, "tags": artifact.tags}
        of = {f"of_{column}": value for column, value in _key(artifact).items()}
        self._connection.execute(_CHANGE_ARTIFACT_VERSION, {**values, **of})

    def remove_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Remove the version, which is linked nowhere, and its aliases."""
        for statement in _REMOVE_ARTIFACT_VERSION:
            self._connection.execute(statement, _key(artifact))

    def accepted(self, event_ids: Iterable[EventId]) -> frozenset[str]:
        """Those of the ids under which an event was accepted."""
        ids = list(event_ids)
        return frozenset(row.id for row in self._rows(_ACCEPTED, ids=ids)) if ids else frozenset()

    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        """Accept events; one whose id exists is left as it is."""
        insert_events(self._connection, events, now)

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Say what was done."""
        rows = [{column: getattr(entry, column) for column in _HISTORY_COLUMNS} for entry in entries]
        self._connection.execute(_ADD_HISTORY, rows)


def _lock_number(key: str) -> int:
    """What PostgreSQL knows the key by: 64 bits with sign."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)


def _key(artifact: ArtifactVersion) -> dict[str, str | int]:
    return {"project": artifact.project, "artifact": artifact.name, "number": artifact.number}


def _key_of(of: Collection | Artifact) -> dict[str, str]:
    """Values under names that no column has, which SQLAlchemy would take for new values."""
    return {"of_scope": of.registry if isinstance(of, Collection) else of.project, "of_name": of.name}


def _aliases(joined: str | None) -> dict[str, str]:
    """Read what `_joined` made."""
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
        aliases=_aliases(row.aliases),
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _artifact(row: Row[Any]) -> Artifact:
    return Artifact(row.project, row.name, row.type, _aliases(row.aliases))


def _artifact_version(row: Row[Any], artifact: Artifact) -> ArtifactVersion:
    return ArtifactVersion(
        project=artifact.project,
        name=artifact.name,
        type=artifact.type,
        number=row.number,
        digest=row.digest,
        metadata=row.metadata,
        description=row.description,
        manifest=None,
        aliases=artifact.aliases_of(f"v{row.number}"),
        tags=tuple(row.tags),
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _version(row: Row[Any], collection: Collection) -> Version:
    source = ArtifactVersion(
        project=row.project,
        name=row.artifact,
        type=row.type,
        number=row.artifact_number,
        digest=row.digest,
        metadata=row.metadata,
        description=row.description,
        manifest=None,
        aliases=tuple(sorted(row.aliases.split("/"))) if row.aliases else (),
        tags=tuple(row.tags),
        created_at=row.created_at,
        created_by=row.created_by,
    )
    return Version(
        registry=collection.registry,
        collection=collection.name,
        number=row.number,
        artifact=source,
        aliases=collection.aliases_of(f"v{row.number}"),
        linked_at=row.linked_at,
        linked_by=row.linked_by,
    )
