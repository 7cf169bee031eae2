"""Reads of the registry in SQL. Every method runs statements that are built once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row
from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, decode_number_cursor, make_cursor
from upshot.adapters.sql import comments as comments_sql
from upshot.adapters.sql import manifests as manifests_sql
from upshot.adapters.sql import runs as runs_sql
from upshot.adapters.sql.expiry import EXPIRY_CANDIDATES
from upshot.adapters.sql.registry_filters import (
    filter_artifact_versions,
    filter_artifacts,
    filter_collections,
    filter_versions,
)
from upshot.adapters.sql.registry_rows import (
    artifact_from_row,
    artifact_version_from_row,
    artifact_version_with_names_from_row,
    collection_from_row,
    registry_from_row,
    version_from_row,
)
from upshot.adapters.sql.run_history import SqlRunHistoryView
from upshot.adapters.sql.schema import (
    artifact_aliases,
    artifact_versions,
    artifacts,
    collection_aliases,
    collections,
    history,
    manifest_entries,
    manifests,
    projects,
    registries,
    versions,
)
from upshot.domain.comment import Comment
from upshot.domain.manifest import ManifestEntry
from upshot.domain.pending_version import PendingVersion
from upshot.domain.registry import (
    Artifact,
    ArtifactVersion,
    Collection,
    HistoryEntry,
    RegistrySettings,
    Version,
)
from upshot.domain.run import Edge, EdgeKind, Run, RunSummary, VersionSummary
from upshot.domain.stage import Stage
from upshot.ports.paging import Page
from upshot.ports.registry import (
    EVERYTHING,
    NameKind,
    RegistryFilter,
    RegistryView,
)

MAX_NAMES = 1_000  # number of names that are searched for a similar name


def matches(table: sa.Table, **columns: str) -> sa.ColumnElement[bool]:
    """Build a condition: each column equals the bound parameter of the given name."""
    return sa.and_(*(table.c[column] == sa.bindparam(name) for column, name in columns.items()))


def _joined_aliases(alias: sa.Column[str], number: sa.Column[int]) -> sa.ColumnElement[str]:
    """Build an aggregate such as `production:3/staging:4`; names never contain these separators."""
    return sa.func.aggregate_strings(alias + ":" + sa.cast(number, sa.String), "/")


_REGISTRIES = sa.select(registries).order_by(registries.c.name)
_REGISTRY = sa.select(registries).where(matches(registries, name="name"))

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
PROJECT_ID = sa.select(projects.c.id).where(matches(projects, name="name"))
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
).where(matches(artifact_versions, artifact_id="artifact_id"))
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
        artifact_versions.c.ttl_seconds,
        *_MANIFEST_COLUMNS,
        *runs_sql.RUN_COLUMNS,
        _aliases_of_source.label("aliases"),
    )
    .join(artifact_versions, artifact_versions.c.id == versions.c.artifact_version_id)
    .join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .outerjoin(manifests, manifests.c.id == artifact_versions.c.manifest_id)
).where(matches(versions, collection_id="collection_id"))
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
    .where(matches(versions, id="id"))
)
_ARTIFACT_VERSION_NAMES = (
    sa.select(projects.c.name.label("project"), artifacts.c.name, artifact_versions.c.number)
    .join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .where(matches(artifact_versions, id="id"))
)
_NUMBERS_IN_STAGE = (
    sa.select(versions.c.number)
    .where(matches(versions, collection_id="collection_id", stage="stage"))
    .order_by(versions.c.number)
)
_LINKED_NUMBER = sa.select(versions.c.number).where(
    matches(versions, artifact_version_id="id", collection_id="collection_id")
)
_LINKS_TO = (
    sa.select(collections.c.registry, collections.c.name, versions.c.number)
    .join(collections, collections.c.id == versions.c.collection_id)
    .where(matches(versions, artifact_version_id="id"))
)

_LINKED_PROJECTS = (
    sa.select(projects.c.name)
    .distinct()
    .join(artifacts, artifacts.c.project_id == projects.c.id)
    .join(artifact_versions, artifact_versions.c.artifact_id == artifacts.c.id)
    .join(versions, versions.c.artifact_version_id == artifact_versions.c.id)
    .join(collections, collections.c.id == versions.c.collection_id)
    .where(matches(collections, registry="registry"))
)
_DIGESTS_IN = (
    sa.select(manifest_entries.c.digest)
    .distinct()
    .join(artifact_versions, artifact_versions.c.manifest_id == manifest_entries.c.manifest_id)
    .join(artifacts, artifacts.c.id == artifact_versions.c.artifact_id)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .where(manifest_entries.c.digest.in_(sa.bindparam("digests", expanding=True)))
    .where(projects.c.name.in_(sa.bindparam("projects", expanding=True)))
)

_NAMES = {
    "registry": sa.select(registries.c.name),
    "collection": sa.select(collections.c.name).where(collections.c.registry == sa.bindparam("within")),
    "project": sa.select(projects.c.name),
    "artifact": sa.select(artifacts.c.name)
    .join(projects, projects.c.id == artifacts.c.project_id)
    .where(projects.c.name == sa.bindparam("within")),
}


class SqlRegistryView(SqlRunHistoryView, RegistryView):
    """`RegistryView` on one connection."""

    def _rows(self, statement: sa.Select[Any], **values: Any) -> Sequence[Row[Any]]:
        return self._connection.execute(statement, values).all()

    @override
    def has_project(self, name: str) -> bool:
        return bool(self._rows(PROJECT_ID, name=name))

    @override
    def registry(self, name: str) -> RegistrySettings | None:
        rows = self._rows(_REGISTRY, name=name)
        return registry_from_row(rows[0]) if rows else None

    @override
    def registries(self) -> tuple[RegistrySettings, ...]:
        return tuple(registry_from_row(row) for row in self._rows(_REGISTRIES))

    @override
    def collection(self, registry: str, name: str) -> Collection | None:
        rows = self._rows(_COLLECTION, registry=registry, name=name)
        return collection_from_row(rows[0]) if rows else None

    @override
    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        wanted = list(numbers)
        if not wanted:
            return {}
        rows = self._rows(_VERSIONS, collection_id=collection.id, numbers=wanted)
        return {row.number: version_from_row(row, collection) for row in rows}

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
    def linked_projects(self, registry: str) -> frozenset[str]:
        return frozenset(row.name for row in self._rows(_LINKED_PROJECTS, registry=registry))

    @override
    def digests_in(self, projects: Iterable[str], digests: Iterable[str]) -> frozenset[str]:
        rows = self._rows(_DIGESTS_IN, projects=list(projects), digests=list(digests))
        return frozenset(row.digest for row in rows)

    @override
    def artifact(self, project: str, name: str) -> Artifact | None:
        rows = self._rows(_ARTIFACT, project=project, name=name)
        return artifact_from_row(rows[0]) if rows else None

    @override
    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        wanted = list(numbers)
        if not wanted:
            return {}
        rows = self._rows(_ARTIFACT_VERSIONS, artifact_id=artifact.id, numbers=wanted)
        return {row.number: artifact_version_from_row(row, artifact) for row in rows}

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
    def expiry_candidates(self, now: datetime, *, after: str, limit: int) -> tuple[str, ...]:
        rows = self._connection.execute(EXPIRY_CANDIDATES, {"now": now, "after": after, "limit": limit})
        return tuple(row.id for row in rows)

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
        return {
            row.id: artifact_version_with_names_from_row(row)
            for row in self._rows(_ARTIFACT_VERSIONS_BY_ID, ids=wanted)
        }

    @override
    def run_summaries(self, ids: Iterable[str]) -> Mapping[str, RunSummary]:
        return runs_sql.run_summaries(self._connection, ids)

    @override
    def version_summaries(self, ids: Iterable[str]) -> Mapping[str, VersionSummary]:
        return runs_sql.version_summaries(self._connection, tuple(ids))

    @override
    def comment(self, comment_id: str) -> Comment | None:
        return comments_sql.find_comment(self._connection, comment_id)

    @override
    def page_comments(
        self, version_id: str | None, run_id: str | None, *, cursor: str | None, limit: int
    ) -> Page[Comment]:
        after = decode_cursor(cursor) if cursor is not None else ""
        found = tuple(comments_sql.page_comments(self._connection, version_id, run_id, after, limit + 1))
        return Page(found[:limit], make_cursor(found[limit - 1].id) if len(found) > limit else None)

    @override
    def count_comments(self, version_id: str | None, run_id: str | None) -> int:
        return comments_sql.count_comments(self._connection, version_id, run_id)

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
        rows = self._rows(
            filter_collections(_COLLECTIONS, where, self._dialect), registry=registry, after=after, limit=limit + 1
        )
        items = tuple(collection_from_row(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    @override
    def page_versions(
        self, collection: Collection, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Version]:
        rows = self._rows(
            filter_versions(_VERSIONS_BELOW, where, self._dialect),
            collection_id=collection.id,
            below=decode_number_cursor(cursor),
            limit=limit + 1,
        )
        items = tuple(version_from_row(row, collection) for row in rows[:limit])
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
        rows = self._rows(filter_artifacts(_ARTIFACTS, where), project=project, after=after, limit=limit + 1)
        items = tuple(artifact_from_row(row) for row in rows[:limit])
        return Page(items, make_cursor(items[-1].name) if len(rows) > limit else None)

    @override
    def page_artifact_versions(
        self, artifact: Artifact, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[ArtifactVersion]:
        rows = self._rows(
            filter_artifact_versions(_ARTIFACT_VERSIONS_BELOW, where, self._dialect),
            artifact_id=artifact.id,
            below=decode_number_cursor(cursor),
            limit=limit + 1,
        )
        items = tuple(artifact_version_from_row(row, artifact) for row in rows[:limit])
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
