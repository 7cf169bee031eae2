"""The registry in memory: dictionaries, and a list of undo steps for a failed transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, decode_number_cursor, make_cursor
from upshot.adapters.memory.blobs import MemoryBlobs
from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.run_history import MemoryRunHistory, RunTables
from upshot.domain.comment import Comment
from upshot.domain.event import Event
from upshot.domain.expiry import expires_at
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
from upshot.domain.run import Edge, EdgeKind, LinkSummary, Run, RunSummary, VersionSummary
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

_Name = tuple[str, str]  # registry and collection, or project and artifact
_VersionKey = tuple[str, int]  # id of the collection or artifact, and number of the version


class _Tables:
    """
    The state. Aliases have their own table. The other records are stored without them.

    Names can change, so records refer to one another by id. The names in stored versions are not read.
    """

    def __init__(self) -> None:
        self.registries: dict[str, RegistrySettings] = {}
        self.collections: dict[str, Collection] = {}
        self.collection_ids: dict[_Name, str] = {}
        self.versions: dict[_VersionKey, Version] = {}
        self.projects: dict[str, str] = {}  # ids by name
        self.artifacts: dict[str, Artifact] = {}  # `project` is the id of the project
        self.artifact_ids: dict[_Name, str] = {}
        self.artifact_versions: dict[_VersionKey, ArtifactVersion] = {}
        self.aliases: dict[str, dict[str, str]] = {}  # by id of the collection or artifact
        self.numbers: dict[str, int] = {}  # next number of a version, by id of the collection or artifact
        self.history: dict[str, HistoryEntry] = {}
        self.manifests: dict[str, ManifestSummary] = {}
        self.files: dict[str, dict[str, ManifestEntry]] = {}  # by id of the manifest, then by path
        self.pending: dict[str, PendingVersion] = {}
        self.of_runs = RunTables()
        self.runs = self.of_runs.runs
        self.edges: dict[Edge, None] = {}
        self.comments: dict[str, Comment] = {}


class MemoryRegistry(RegistryStore):
    """
    `RegistryStore` in memory.

    Args:
        events: Stores the events of mutations.
        blobs: Says which blobs are stored.
    """

    def __init__(self, events: MemoryEvents, blobs: MemoryBlobs | None = None) -> None:
        self._events = events
        self._blobs = blobs or MemoryBlobs()
        self._blobs.is_reachable = self._is_reachable
        self._tables = _Tables()
        self._lock = events.lock  # shared, so that nobody reads events of a transaction that may still fail

    @override
    def read(self, work: Callable[[RegistryView], T]) -> T:
        with self._lock:
            return work(_Transaction(self._tables, self._events, self._blobs))

    @override
    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        with self._lock:
            transaction = _Transaction(self._tables, self._events, self._blobs)
            try:
                return work(transaction)
            except BaseException:
                transaction.undo()
                raise

    def _is_reachable(self, digest: str) -> bool:
        with self._lock:
            in_manifest = any(
                entry.digest == digest for files in self._tables.files.values() for entry in files.values()
            )
            return in_manifest or any(file.digest == digest for file in self._tables.of_runs.files.values())

    @override
    def add_warning(self, root_event_id: EventId, warning: str) -> bool:
        with self._lock:
            return self._events.set_warning(root_event_id, warning)


class _Transaction(MemoryRunHistory, RegistryTransaction):
    def __init__(self, tables: _Tables, events: MemoryEvents, blobs: MemoryBlobs) -> None:
        super().__init__(tables.of_runs, blobs)
        self._tables = tables
        self._events = events

    @override
    def lock(self, keys: Iterable[str]) -> None:
        """Do nothing, because transactions run one at a time."""

    # --- reads --------------------------------------------------------------------------------------------------------

    @override
    def has_project(self, name: str) -> bool:
        return name in self._tables.projects

    @override
    def registry(self, name: str) -> RegistrySettings | None:
        return self._tables.registries.get(name)

    @override
    def registries(self) -> tuple[RegistrySettings, ...]:
        return tuple(self._tables.registries[name] for name in sorted(self._tables.registries))

    @override
    def collection(self, registry: str, name: str) -> Collection | None:
        collection_id = self._tables.collection_ids.get((registry, name))
        return self._collection(collection_id) if collection_id else None

    def _collection(self, collection_id: str) -> Collection:
        return replace(self._tables.collections[collection_id], aliases=self._aliases(collection_id))

    @override
    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        keys = ((collection.id, number) for number in set(numbers))
        found = (self._tables.versions[key] for key in keys if key in self._tables.versions)
        return {version.number: self._complete(version, collection) for version in found}

    def _complete(self, version: Version, collection: Collection) -> Version:
        source = version.artifact_version
        artifact = self._artifact(source.artifact_id)
        return replace(
            version,
            registry=collection.registry,
            collection=collection.name,
            artifact_version=self.artifact_versions(artifact, [source.number])[source.number],
            aliases=collection.aliases_of(version.name),
        )

    @override
    def version_by_id(self, version_id: str) -> Version | None:
        for version in self._tables.versions.values():
            if version.id == version_id:
                return self._complete(version, self._collection(version.collection_id))
        return None

    @override
    def artifact_version_by_id(self, artifact_version_id: str) -> ArtifactVersion | None:
        for version in self._tables.artifact_versions.values():
            if version.id == artifact_version_id:
                return self.artifact_versions(self._artifact(version.artifact_id), [version.number])[version.number]
        return None

    @override
    def numbers_in_stage(self, collection: Collection, stage: Stage) -> tuple[int, ...]:
        return tuple(
            sorted(
                version.number
                for version in self._tables.versions.values()
                if version.collection_id == collection.id and version.stage is stage
            )
        )

    @override
    def linked_number(self, collection: Collection, artifact_version: ArtifactVersion) -> int | None:
        numbers = {(registry, name): number for registry, name, number in self.links_to(artifact_version)}
        return numbers.get((collection.registry, collection.name))

    @override
    def links_to(self, artifact_version: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        links = (
            (self._tables.collections[version.collection_id], version.number)
            for version in self._tables.versions.values()
            if version.artifact_version.id == artifact_version.id
        )
        return tuple(sorted((collection.registry, collection.name, number) for collection, number in links))

    @override
    def linked_projects(self, registry: str) -> frozenset[str]:
        linked = {
            version.artifact_version.id
            for version in self._tables.versions.values()
            if self._tables.collections[version.collection_id].registry == registry
        }
        return frozenset(
            self._artifact(artifact_id).project
            for (artifact_id, _), version in self._tables.artifact_versions.items()
            if version.id in linked
        )

    @override
    def digests_in(self, projects: Iterable[str], digests: Iterable[str]) -> frozenset[str]:
        wanted, names = set(digests), set(projects)
        return frozenset(
            entry.digest
            for (artifact_id, _), version in self._tables.artifact_versions.items()
            if version.manifest and self._artifact(artifact_id).project in names
            for entry in self._tables.files.get(version.manifest.id, {}).values()
            if entry.digest in wanted
        )

    @override
    def artifact(self, project: str, name: str) -> Artifact | None:
        artifact_id = self._tables.artifact_ids.get((self._tables.projects.get(project, ""), name))
        return self._artifact(artifact_id) if artifact_id else None

    def _artifact(self, artifact_id: str) -> Artifact:
        stored = self._tables.artifacts[artifact_id]
        return replace(stored, project=self._project(stored.project), aliases=self._aliases(artifact_id))

    def _project(self, project_id: str) -> str:
        (project,) = (name for name, known_id in self._tables.projects.items() if known_id == project_id)
        return project

    def _aliases(self, series_id: str) -> dict[str, str]:
        return dict(sorted(self._tables.aliases.get(series_id, {}).items()))

    @override
    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        keys = ((artifact.id, number) for number in set(numbers))
        found = (self._tables.artifact_versions[key] for key in keys if key in self._tables.artifact_versions)
        return {
            version.number: replace(
                version,
                project=artifact.project,
                artifact_name=artifact.name,
                aliases=artifact.aliases_of(version.name),
                run=self._run(version.run.id).summary if version.run else None,
            )
            for version in found
        }

    @override
    def page_files(self, manifest_id: str, *, cursor: str | None, limit: int) -> Page[ManifestEntry]:
        after = decode_cursor(cursor) if cursor is not None else ""
        files = self._tables.files.get(manifest_id, {})
        found = [files[path] for path in sorted(files) if path > after]
        return Page(tuple(found[:limit]), make_cursor(found[limit - 1].path) if len(found) > limit else None)

    @override
    def file(self, manifest_id: str, path: str) -> ManifestEntry | None:
        return self._tables.files.get(manifest_id, {}).get(path)

    @override
    def missing_blobs(self, manifest_id: str, limit: int) -> tuple[str, ...]:
        entries = self._tables.files.get(manifest_id, {}).values()
        digests = {entry.digest for entry in entries if entry.ref is None}
        return tuple(sorted(digests.difference(self._blobs.find(digests))))[:limit]

    @override
    def files_of_other_size(self, manifest_id: str, limit: int) -> Sequence[ManifestEntry]:
        entries = [entry for entry in self._tables.files.get(manifest_id, {}).values() if entry.ref is None]
        blobs = self._blobs.find({entry.digest for entry in entries})
        return [entry for entry in entries if entry.digest in blobs and blobs[entry.digest].size != entry.size][:limit]

    @override
    def pending_version(self, version_id: str) -> PendingVersion | None:
        return self._tables.pending.get(version_id)

    @override
    def expired_pending_versions(self, before: datetime, limit: int) -> tuple[PendingVersion, ...]:
        found = [pending for pending in self._tables.pending.values() if pending.updated_at < before]
        return tuple(sorted(found, key=lambda pending: pending.updated_at)[:limit])

    @override
    def expiry_candidates(self, now: datetime, *, after: str, limit: int) -> tuple[str, ...]:
        found = []
        for stored in self._tables.artifact_versions.values():
            version = self.artifact_version_by_id(stored.id)
            if version is None or version.id <= after:
                continue
            links = []
            for registry, name, number in self.links_to(version):
                collection = self._collection(self._tables.collection_ids[registry, name])
                links.append((collection, self.versions(collection, [number])[number]))
            expires = expires_at(version, self._artifact(version.artifact_id), links)
            if expires is not None and expires <= now:
                found.append(version.id)
        return tuple(sorted(found)[:limit])

    @override
    def run(self, project: str, run_id: str) -> Run | None:
        key = (self._tables.projects.get(project), run_id)
        for run in self._tables.runs.values():
            if (run.summary.project, run.summary.run_id) == key:
                return self._run(run.summary.id)
        return None

    @override
    def _project_id(self, name: str) -> str | None:
        return self._tables.projects.get(name)

    @override
    def _run(self, id_: str) -> Run:
        stored = self._tables.runs[id_]
        return replace(stored, summary=replace(stored.summary, project=self._project(stored.summary.project)))

    @override
    def runs(self, ids: Iterable[str]) -> Mapping[str, Run]:
        return {id_: self._run(id_) for id_ in ids if id_ in self._tables.runs}

    @override
    def page_runs(self, project: str, *, cursor: str | None, limit: int) -> Page[Run]:
        before = decode_cursor(cursor) if cursor is not None else "~"
        found = [run for run in map(self._run, self._tables.runs) if run.summary.project == project]
        found = sorted((run for run in found if run.summary.id < before), key=lambda run: run.summary.id, reverse=True)
        return Page(tuple(found[:limit]), make_cursor(found[limit - 1].summary.id) if len(found) > limit else None)

    @override
    def edges(
        self, kind: EdgeKind, *, run_ids: Iterable[str] = (), version_ids: Iterable[str] = (), limit: int
    ) -> tuple[Edge, ...]:
        runs, versions = set(run_ids), set(version_ids)
        found = [
            edge
            for edge in self._tables.edges
            if edge.kind is kind and (edge.run_id in runs or edge.version_id in versions)
        ]
        return tuple(sorted(found, key=lambda edge: (edge.run_id, edge.version_id))[:limit])

    @override
    def artifact_versions_by_id(self, ids: Iterable[str]) -> Mapping[str, ArtifactVersion]:
        found = {id_: self.artifact_version_by_id(id_) for id_ in ids}
        return {id_: version for id_, version in found.items() if version}

    @override
    def run_summaries(self, ids: Iterable[str]) -> Mapping[str, RunSummary]:
        return {id_: run.summary for id_, run in self.runs(ids).items()}

    @override
    def version_summaries(self, ids: Iterable[str]) -> Mapping[str, VersionSummary]:
        return {id_: self._version_summary(version) for id_, version in self.artifact_versions_by_id(ids).items()}

    def _version_summary(self, version: ArtifactVersion) -> VersionSummary:
        links = []
        for registry, name, number in self.links_to(version):
            collection = self._collection(self._tables.collection_ids[registry, name])
            links.append(LinkSummary(registry, name, number, collection.aliases_of(f"v{number}")))
        return VersionSummary(
            id=version.id,
            project=version.project,
            artifact_name=version.artifact_name,
            artifact_type=version.artifact_type,
            number=version.number,
            aliases=version.aliases,
            links=tuple(links),
            created_at=version.created_at,
        )

    @override
    def comment(self, comment_id: str) -> Comment | None:
        comment = self._tables.comments.get(comment_id)
        if comment is None:
            return None
        subject = comment.subject
        if comment.run_id is not None:
            subject = self._run(comment.run_id).summary.reference
        elif version := self.artifact_version_by_id(comment.version_id or ""):
            subject = version.reference
        return replace(comment, subject=subject)

    @override
    def page_comments(
        self, version_id: str | None, run_id: str | None, *, cursor: str | None, limit: int
    ) -> Page[Comment]:
        after = decode_cursor(cursor) if cursor is not None else ""
        ids = sorted(id_ for id_ in self._comments_on(version_id, run_id) if id_ > after)
        found = tuple(comment for id_ in ids if (comment := self.comment(id_)))
        return Page(found[:limit], make_cursor(found[limit - 1].id) if len(found) > limit else None)

    @override
    def count_comments(self, version_id: str | None, run_id: str | None) -> int:
        return len(self._comments_on(version_id, run_id))

    def _comments_on(self, version_id: str | None, run_id: str | None) -> list[str]:
        subject = (version_id, run_id)
        return [
            comment.id for comment in self._tables.comments.values() if (comment.version_id, comment.run_id) == subject
        ]

    @override
    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        tables = self._tables
        match kind:
            case "registry":
                found = set(tables.registries)
            case "collection":
                found = {name for registry, name in tables.collection_ids if registry == within}
            case "project":
                found = set(tables.projects)
            case "artifact":
                found = {name for project_id, name in tables.artifact_ids if project_id == tables.projects.get(within)}
        return tuple(sorted(found))

    @override
    def page_collections(
        self, registry: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Collection]:
        after = decode_cursor(cursor) if cursor is not None else ""
        listed = (self.collection(registry, name) for name in self.names("collection", registry) if name > after)
        items = [
            found
            for found in listed
            if found
            and where.alias in (None, *found.aliases)
            and where.tag in (None, *found.tags)
            and where.artifact_type in (None, found.artifact_type)
            and _has_metadata(found.metadata, where)
        ]
        return Page(tuple(items[:limit]), make_cursor(items[limit - 1].name) if len(items) > limit else None)

    @override
    def page_versions(
        self, collection: Collection, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Version]:
        numbers = _numbers_below(self._tables.versions, collection.id, cursor)
        found = self.versions(collection, numbers)
        items = [
            found[number]
            for number in numbers
            if where.stage in (None, found[number].stage) and _accepts(where, found[number])
        ]
        return Page(tuple(items[:limit]), make_cursor(str(items[limit - 1].number)) if len(items) > limit else None)

    @override
    def page_projects(self, *, cursor: str | None, limit: int) -> Page[str]:
        after = decode_cursor(cursor) if cursor is not None else ""
        names = [name for name in self.names("project") if name > after]
        return Page(tuple(names[:limit]), make_cursor(names[limit - 1]) if len(names) > limit else None)

    @override
    def page_artifacts(
        self, project: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Artifact]:
        after = decode_cursor(cursor) if cursor is not None else ""
        listed = (self.artifact(project, name) for name in self.names("artifact", project) if name > after)
        items = [
            found
            for found in listed
            if found and where.alias in (None, *found.aliases) and where.artifact_type in (None, found.artifact_type)
        ]
        return Page(tuple(items[:limit]), make_cursor(items[limit - 1].name) if len(items) > limit else None)

    @override
    def page_artifact_versions(
        self, artifact: Artifact, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[ArtifactVersion]:
        numbers = _numbers_below(self._tables.artifact_versions, artifact.id, cursor)
        found = self.artifact_versions(artifact, numbers)
        items = [found[number] for number in numbers if _accepts(where, found[number])]
        return Page(tuple(items[:limit]), make_cursor(str(items[limit - 1].number)) if len(items) > limit else None)

    @override
    def page_history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        before = decode_cursor(cursor) if cursor is not None else None
        found = [
            entry
            for entry in self._tables.history.values()
            if registry in (None, entry.registry)
            and collection in (None, entry.collection)
            and (before is None or entry.id < before)
        ]
        found.sort(key=lambda entry: entry.id, reverse=True)
        items = tuple(found[:limit])
        return Page(items, make_cursor(items[-1].id) if len(found) > limit else None)

    # --- writes -------------------------------------------------------------------------------------------------------

    @override
    def save_registry(self, registry: RegistrySettings) -> None:
        self._put(self._tables.registries, registry.name, registry)

    @override
    def save_collection(self, collection: Collection) -> None:
        if before := self._tables.collections.get(collection.id):
            self._delete(self._tables.collection_ids, (before.registry, before.name))
        self._put(self._tables.collection_ids, (collection.registry, collection.name), collection.id)
        self._put(self._tables.collections, collection.id, collection)

    @override
    def rename_history(self, registry: str, collection: str, new_name: str) -> None:
        for entry in list(self._tables.history.values()):
            if (entry.registry, entry.collection) == (registry, collection):
                self._put(self._tables.history, entry.id, replace(entry, collection=new_name))

    @override
    def remove_collection(self, collection: Collection) -> None:
        for key in [key for key in self._tables.versions if key[0] == collection.id]:
            self._delete(self._tables.versions, key)
        self._put(self._tables.aliases, collection.id, {})
        self._delete(self._tables.collection_ids, (collection.registry, collection.name))
        self._delete(self._tables.collections, collection.id)

    @override
    def next_number(self, series: Series) -> int:
        number = self._tables.numbers.get(series.id, 0)
        self._put(self._tables.numbers, series.id, number + 1)
        return number

    @override
    def add_version(self, version: Version) -> None:
        self._put(self._tables.versions, (version.collection_id, version.number), version)

    @override
    def update_stage(self, version: Version) -> None:
        key = (version.collection_id, version.number)
        self._put(self._tables.versions, key, replace(self._tables.versions[key], stage=version.stage))

    @override
    def remove_version(self, version: Version) -> None:
        self._remove_aliases(version.collection_id, version.name)
        self._delete(self._tables.versions, (version.collection_id, version.number))

    def _remove_aliases(self, series_id: str, version_name: str) -> None:
        aliases = self._tables.aliases.get(series_id, {})
        others = {alias: holder for alias, holder in aliases.items() if holder != version_name}
        self._put(self._tables.aliases, series_id, others)

    @override
    def move_aliases(self, series: Series, moves: Mapping[str, int]) -> None:
        moved = {alias: f"v{number}" for alias, number in moves.items()}
        self._put(self._tables.aliases, series.id, {**self._tables.aliases.get(series.id, {}), **moved})

    @override
    def remove_alias(self, series: Series, alias: str) -> None:
        aliases = self._tables.aliases[series.id]
        others = {name: holder for name, holder in aliases.items() if name != alias}
        self._put(self._tables.aliases, series.id, others)

    @override
    def add_project(self, project_id: str, name: str) -> None:
        if name not in self._tables.projects:
            self._put(self._tables.projects, name, project_id)

    @override
    def rename_project(self, name: str, new_name: str) -> None:
        project_id = self._tables.projects[name]
        self._delete(self._tables.projects, name)
        self._put(self._tables.projects, new_name, project_id)

    @override
    def save_artifact(self, artifact: Artifact) -> None:
        project_id = self._tables.projects[artifact.project]
        if before := self._tables.artifacts.get(artifact.id):
            self._delete(self._tables.artifact_ids, (before.project, before.name))
        self._put(self._tables.artifact_ids, (project_id, artifact.name), artifact.id)
        self._put(self._tables.artifacts, artifact.id, replace(artifact, project=project_id))

    @override
    def add_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        key = (artifact_version.artifact_id, artifact_version.number)
        self._put(self._tables.artifact_versions, key, artifact_version)

    @override
    def save_run(self, run: Run) -> None:
        summary = replace(run.summary, project=self._tables.projects[run.summary.project])
        self._put(self._tables.runs, summary.id, replace(run, summary=summary))

    @override
    def remove_run(self, run: Run) -> None:
        self._remove_everything_of(run)
        id_ = run.summary.id
        for comment_id in self._comments_on(None, id_):
            self.remove_comment(comment_id)
        for edge in [edge for edge in self._tables.edges if edge.run_id == id_]:
            self._delete(self._tables.edges, edge)
        for key, version in list(self._tables.artifact_versions.items()):
            if version.run and version.run.id == id_:
                self._put(self._tables.artifact_versions, key, replace(version, run=None))

    @override
    def add_edge(self, edge: Edge) -> None:
        self._put(self._tables.edges, edge, None)

    @override
    def add_comment(self, comment: Comment) -> None:
        self._put(self._tables.comments, comment.id, comment)

    @override
    def update_comment(self, comment: Comment) -> None:
        if comment.id in self._tables.comments:
            self._put(self._tables.comments, comment.id, comment)

    @override
    def remove_comment(self, comment_id: str) -> None:
        if comment_id in self._tables.comments:
            self._delete(self._tables.comments, comment_id)

    @override
    def update_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        key = (artifact_version.artifact_id, artifact_version.number)
        self._put(self._tables.artifact_versions, key, artifact_version)

    @override
    def remove_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        self._remove_aliases(artifact_version.artifact_id, artifact_version.name)
        self._delete(self._tables.artifact_versions, (artifact_version.artifact_id, artifact_version.number))
        for edge in [edge for edge in self._tables.edges if edge.version_id == artifact_version.id]:
            self._delete(self._tables.edges, edge)
        for comment_id in self._comments_on(artifact_version.id, None):
            self.remove_comment(comment_id)
        if artifact_version.manifest:
            self._remove_unused_manifest(artifact_version.manifest.id)

    @override
    def add_manifest(self, manifest: ManifestSummary) -> None:
        self._put(self._tables.manifests, manifest.id, manifest)

    @override
    def add_files(self, manifest_id: str, entries: Sequence[ManifestEntry]) -> None:
        files = self._tables.files.get(manifest_id, {})
        self._put(self._tables.files, manifest_id, {**{entry.path: entry for entry in entries}, **files})

    @override
    def use_blobs(self, digests: Sequence[str], now: datetime) -> frozenset[str]:
        self._blobs.keep(digests, now)
        return frozenset(digests).difference(self._blobs.find(digests))

    @override
    def seal_manifest(self, manifest_id: str, *, is_stored: bool) -> ManifestSummary:
        sizes = [entry.size for entry in self._tables.files.get(manifest_id, {}).values()]
        known = [size for size in sizes if size is not None]
        size = sum(known) if len(known) == len(sizes) else None
        manifest = ManifestSummary(manifest_id, len(sizes), size, is_stored)
        self._put(self._tables.manifests, manifest_id, manifest)
        return manifest

    @override
    def add_pending_version(self, pending: PendingVersion) -> None:
        self._put(self._tables.pending, pending.id, pending)

    @override
    def touch_pending_version(self, version_id: str, now: datetime) -> None:
        if pending := self._tables.pending.get(version_id):
            self._put(self._tables.pending, version_id, replace(pending, updated_at=now))

    @override
    def remove_pending_version(self, pending: PendingVersion, *, keep_manifest: bool) -> None:
        if pending.id in self._tables.pending:
            self._delete(self._tables.pending, pending.id)
        if not keep_manifest:
            self._remove_unused_manifest(pending.manifest_id)

    def _remove_unused_manifest(self, manifest_id: str) -> None:
        versions = self._tables.artifact_versions.values()
        is_used = any(version.manifest and version.manifest.id == manifest_id for version in versions)
        if not is_used and manifest_id in self._tables.manifests:
            self._delete(self._tables.manifests, manifest_id)
            self._put(self._tables.files, manifest_id, {})

    @override
    def accepted_ids(self, event_ids: Iterable[EventId]) -> frozenset[EventId]:
        return frozenset(self._events.get(tuple(event_ids)))

    @override
    def count_events(self, root_event_id: EventId, count: int, *, limit: int) -> bool:
        counts = self._events.root_counts(root_event_id)
        if counts.events + count > limit:
            return False
        before = counts.events
        counts.events += count
        self._undo_steps.append(lambda: setattr(counts, "events", before))
        return True

    @override
    def alias_changed_at(self, series: Series, alias: str) -> datetime | None:
        return self._events.alias_changed_at(series.reference, alias)

    @override
    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        added = self._events.add(events, now)
        self._undo_steps.append(lambda: self._events.discard(added))

    @override
    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        for entry in entries:
            self._put(self._tables.history, entry.id, entry)


def _accepts(where: RegistryFilter, version: Version | ArtifactVersion) -> bool:
    source = version.artifact_version
    return (
        where.alias in (None, *version.aliases)
        and where.tag in (None, *source.tags)
        and _has_metadata(source.metadata, where)
    )


def _has_metadata(metadata: Mapping[str, Any], where: RegistryFilter) -> bool:
    for path, wanted in where.metadata:
        value: Any = metadata
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return False
            value = value[key]
        if not any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in wanted):
            return False
    return True


def _numbers_below(keys: Iterable[_VersionKey], series_id: str, cursor: str | None) -> list[int]:
    """Return the version numbers after the cursor, the highest first."""
    below = decode_number_cursor(cursor)
    return sorted((number for key, number in keys if key == series_id and number < below), reverse=True)
