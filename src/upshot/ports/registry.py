"""The store of the registry, and the reads and changes that actions and jobs may make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from upshot.domain.comment import Comment
from upshot.domain.event import Event, Origin
from upshot.domain.manifest import ManifestEntry, ManifestSummary
from upshot.domain.pending_version import PendingVersion
from upshot.domain.registry import (
    Artifact,
    ArtifactVersion,
    Change,
    Collection,
    HistoryEntry,
    RegistrySettings,
    Series,
    Version,
)
from upshot.domain.run import Edge, EdgeKind, Run, RunSummary, VersionSummary
from upshot.domain.stage import Stage
from upshot.ids import EventId
from upshot.ports.metric_watches import ConditionStates
from upshot.ports.paging import Page
from upshot.ports.run_history import RunHistoryTransaction, RunHistoryView

T = TypeVar("T")


class RegistryChanges(Protocol):
    """The reads and changes that actions and jobs may make. `registry.service.Registry` implements them."""

    def version(self, registry: str, collection: str, version: str) -> Version:
        """Return a version by name (`v3`) or alias."""
        ...

    def add_alias(self, registry: str, collection: str, alias: str, version: str, *, origin: Origin) -> Change[Version]:
        """Add an alias to a version. Another version that holds the alias loses it."""
        ...

    def add_tag(
        self, registry: str, collection: str, tag: str, version: str | None = None, *, origin: Origin
    ) -> Change[Collection | Version]:
        """Add a tag to a version, or to its collection if `version` is None."""
        ...

    def set_stage(
        self,
        registry: str,
        collection: str,
        version: str,
        stage: Stage,
        *,
        archive_existing: bool = False,
        origin: Origin,
    ) -> Change[Version]:
        """Move a version to a stage, and optionally the other versions of the stage to `Archived`."""
        ...

    def update_version(
        self,
        registry: str,
        collection: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        origin: Origin,
    ) -> Change[Version]:
        """Change the metadata of the artifact version behind a link by a JSON merge patch."""
        ...

    def update_artifact_version(
        self,
        project: str,
        name: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        origin: Origin,
    ) -> Change[ArtifactVersion]:
        """Change the metadata of an artifact version by a JSON merge patch."""
        ...

    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        origin: Origin,
        event_ids: Sequence[EventId] | None = None,
    ) -> tuple[Event, ...]:
        """
        Accept custom events.

        Args:
            events: Pairs of name and data.
            origin: Who emits the events.
            event_ids: Ids of the events, if the caller derives them. An event whose id was accepted before is not
                accepted again.
        """
        ...


class VersionFiles(Protocol):
    """Reads the files of artifact versions. `registry.service.Registry` implements it."""

    def find_artifact_version(self, artifact_version_id: str) -> ArtifactVersion | None:
        """Return an artifact version, whatever its name is now, or None if it was deleted."""
        ...

    def files_of(self, version: ArtifactVersion) -> tuple[ManifestEntry, ...]:
        """Return all files of an artifact version that was logged with them, by path."""
        ...


NameKind = Literal["registry", "collection", "project", "artifact"]


@dataclass(frozen=True, slots=True)
class RegistryFilter:
    """Conditions on the items of a list. Each list uses those that its items have; None accepts everything."""

    alias: str | None = None  #: that the version has, or that some version of the collection or artifact has
    tag: str | None = None
    stage: Stage | None = None
    artifact_type: str | None = None
    #: Pairs of the path of a key, and the JSON values that it may have. They are not objects or lists.
    metadata: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = ()


EVERYTHING = RegistryFilter()


class RegistryView(RunHistoryView, Protocol):
    """Reads the registry. All reads of one transaction see the same state."""

    def has_project(self, name: str) -> bool:
        """Return whether there is a project with this name."""
        ...

    def registry(self, name: str) -> RegistrySettings | None:
        """Return a registry with its rules, or None if it does not exist."""
        ...

    def registries(self) -> tuple[RegistrySettings, ...]:
        """Return all registries, by name."""
        ...

    def collection(self, registry: str, name: str) -> Collection | None:
        """Return a collection with all its aliases, or None if it does not exist."""
        ...

    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        """Return the linked versions among the numbers; their aliases come from the given collection."""
        ...

    def version_by_id(self, version_id: str) -> Version | None:
        """Return a linked version, or None if no link has this id."""
        ...

    def artifact_version_by_id(self, artifact_version_id: str) -> ArtifactVersion | None:
        """Return an artifact version without its manifest, or None if none has this id."""
        ...

    def numbers_in_stage(self, collection: Collection, stage: Stage) -> tuple[int, ...]:
        """Return the numbers of the versions that are in a stage, sorted."""
        ...

    def linked_number(self, collection: Collection, artifact_version: ArtifactVersion) -> int | None:
        """Return the number under which the artifact version is linked in the collection, or None."""
        ...

    def links_to(self, artifact_version: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        """Return all links to the artifact version as registry, collection and number, sorted."""
        ...

    def linked_projects(self, registry: str) -> frozenset[str]:
        """Return the projects with artifact versions that are linked into a registry."""
        ...

    def digests_in(self, projects: Iterable[str], digests: Iterable[str]) -> frozenset[str]:
        """Return which of the digests belong to files of artifact versions in the projects."""
        ...

    def artifact(self, project: str, name: str) -> Artifact | None:
        """Return an artifact with its aliases in the project, or None if it does not exist."""
        ...

    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        """Return the existing versions among the numbers, without manifests; aliases come from the given artifact."""
        ...

    def page_files(self, manifest_id: str, *, cursor: str | None, limit: int) -> Page[ManifestEntry]:
        """Return the entries of a manifest, by path."""
        ...

    def file(self, manifest_id: str, path: str) -> ManifestEntry | None:
        """Return the entry with a path, or None."""
        ...

    def missing_blobs(self, manifest_id: str, limit: int) -> tuple[str, ...]:
        """Return digests of files of a manifest whose blobs are not stored; references have none."""
        ...

    def files_of_other_size(self, manifest_id: str, limit: int) -> Sequence[ManifestEntry]:
        """Return files whose announced size is not that of their stored blob."""
        ...

    def pending_version(self, version_id: str) -> PendingVersion | None:
        """Return an artifact version whose files are being uploaded, or None."""
        ...

    def expired_pending_versions(self, before: datetime, limit: int) -> tuple[PendingVersion, ...]:
        """Return pending versions without progress since a time, the oldest first."""
        ...

    def expiry_candidates(self, now: datetime, *, after: str, limit: int) -> tuple[str, ...]:
        """Return ids of artifact versions that may have expired, sorted. `domain.expiry` decides."""
        ...

    def run(self, project: str, run_id: str) -> Run | None:
        """Return a run by the id that its client made, or None."""
        ...

    def runs(self, ids: Iterable[str]) -> Mapping[str, Run]:
        """Return the runs among the internal ids."""
        ...

    def page_runs(self, project: str, *, cursor: str | None, limit: int) -> Page[Run]:
        """Return the runs of a project, newest first."""
        ...

    def edges(
        self, kind: EdgeKind, *, run_ids: Iterable[str] = (), version_ids: Iterable[str] = (), limit: int
    ) -> tuple[Edge, ...]:
        """Return edges at these runs, or at these versions, the oldest run first."""
        ...

    def artifact_versions_by_id(self, ids: Iterable[str]) -> Mapping[str, ArtifactVersion]:
        """Return the artifact versions among the ids."""
        ...

    def run_summaries(self, ids: Iterable[str]) -> Mapping[str, RunSummary]:
        """Return what the lineage says about the runs among the internal ids."""
        ...

    def version_summaries(self, ids: Iterable[str]) -> Mapping[str, VersionSummary]:
        """Return what the lineage says about the artifact versions among the ids."""
        ...

    def comment(self, comment_id: str) -> Comment | None:
        """Return a comment, or None."""
        ...

    def page_comments(
        self, version_id: str | None, run_id: str | None, *, cursor: str | None, limit: int
    ) -> Page[Comment]:
        """Return the comments on an artifact version or on a run (by internal id), the oldest first."""
        ...

    def count_comments(self, version_id: str | None, run_id: str | None) -> int:
        """Return the number of comments on an artifact version or on a run."""
        ...

    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        """Return up to 1,000 names, sorted: of all registries or projects, or of the items of one of them."""
        ...

    def page_collections(
        self, registry: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Collection]:
        """Return collections by name. This and the other page methods raise `InvalidInput` for an invalid cursor."""
        ...

    def page_versions(
        self, collection: Collection, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Version]:
        """Return versions, the highest number first."""
        ...

    def page_projects(self, *, cursor: str | None, limit: int) -> Page[str]:
        """Return the names of projects, sorted."""
        ...

    def page_artifacts(
        self, project: str, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[Artifact]:
        """Return artifacts of a project, by name."""
        ...

    def page_artifact_versions(
        self, artifact: Artifact, where: RegistryFilter = EVERYTHING, *, cursor: str | None, limit: int
    ) -> Page[ArtifactVersion]:
        """Return artifact versions without manifests, the highest number first."""
        ...

    def page_history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        """Return history entries, newest first. None means any registry or collection."""
        ...


class RegistryTransaction(RegistryView, RunHistoryTransaction, ConditionStates, Protocol):
    """Reads and writes within one transaction."""

    def lock(self, keys: Iterable[str]) -> None:
        """Wait for these locks and hold them until the end. Values read earlier may have changed since."""
        ...

    def save_registry(self, registry: RegistrySettings) -> None:
        """Create a registry, or change its rules."""
        ...

    def save_collection(self, collection: Collection) -> None:
        """Create a collection, or change its name, description, metadata, tags and ttl. Aliases have own methods."""
        ...

    def rename_history(self, registry: str, collection: str, new_name: str) -> None:
        """List the history entries of a collection under its new name."""
        ...

    def remove_collection(self, collection: Collection) -> None:
        """Remove a collection with its versions and aliases."""
        ...

    def next_number(self, series: Series) -> int:
        """Return the number of the next version. Every number is returned only once."""
        ...

    def add_version(self, version: Version) -> None:
        """Add a link. Aliases have their own methods."""
        ...

    def update_stage(self, version: Version) -> None:
        """Change the stage of a version."""
        ...

    def remove_version(self, version: Version) -> None:
        """Remove a link and its aliases."""
        ...

    def move_aliases(self, series: Series, moves: Mapping[str, int]) -> None:
        """Move each alias to the version with the given number."""
        ...

    def remove_alias(self, series: Series, alias: str) -> None:
        """Remove an alias from its holder."""
        ...

    def add_project(self, project_id: str, name: str) -> None:
        """Add a project, unless there is one with this name."""
        ...

    def rename_project(self, name: str, new_name: str) -> None:
        """Rename a project."""
        ...

    def save_artifact(self, artifact: Artifact) -> None:
        """Create an artifact in an existing project, or change its name and ttl."""
        ...

    def add_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        """Add an artifact version, whose manifest exists. Aliases have their own methods."""
        ...

    def add_manifest(self, manifest: ManifestSummary) -> None:
        """Add a manifest without entries."""
        ...

    def add_files(self, manifest_id: str, entries: Sequence[ManifestEntry]) -> None:
        """Add entries to a manifest. An entry whose path is there stays as it is."""
        ...

    def use_blobs(self, digests: Sequence[str], now: datetime) -> frozenset[str]:
        """Keep stored blobs, which a manifest is about to name, and return the digests that are not stored."""
        ...

    def seal_manifest(self, manifest_id: str, *, is_stored: bool) -> ManifestSummary:
        """Count the entries of a manifest that is complete, and return the manifest."""
        ...

    def add_pending_version(self, pending: PendingVersion) -> None:
        """Add an artifact version whose files are being uploaded."""
        ...

    def touch_pending_version(self, version_id: str, now: datetime) -> None:
        """Record progress of a pending version."""
        ...

    def remove_pending_version(self, pending: PendingVersion, *, keep_manifest: bool) -> None:
        """Remove a pending version, and its manifest unless a version has it now."""
        ...

    def save_run(self, run: Run) -> None:
        """Create a run in an existing project, or change it. Its creation does not change."""
        ...

    def add_edge(self, edge: Edge) -> None:
        """Add an edge, unless it exists."""
        ...

    def add_comment(self, comment: Comment) -> None:
        """Add a comment. Its subject exists."""
        ...

    def update_comment(self, comment: Comment) -> None:
        """Change the text of a comment, unless it was removed."""
        ...

    def remove_comment(self, comment_id: str) -> None:
        """Remove a comment, if it exists."""
        ...

    def update_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        """Change metadata, description, tags and ttl."""
        ...

    def remove_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        """
        Remove an artifact version without links, its aliases, edges and comments.

        Its manifest is removed, too, if it is the only version that has it.
        """
        ...

    def accepted_ids(self, event_ids: Iterable[EventId]) -> frozenset[EventId]:
        """Return the ids that belong to accepted events."""
        ...

    def count_events(self, root_event_id: EventId, count: int, *, limit: int) -> bool:
        """
        Count events that automations and jobs add because of one event.

        Returns:
            False, and nothing is counted, if there would be more than `limit`.
        """
        ...

    def alias_changed_at(self, series: Series, alias: str) -> datetime | None:
        """
        Return when an alias of a collection or an artifact was last added, moved or removed; None if never.

        What a program without a connection asked for counts as of the time when it asked.
        """
        ...

    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        """Accept events. An event whose id exists stays as it is."""
        ...

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Append entries to the history."""
        ...


class RegistryStore(Protocol):
    """
    Stores the registry's state, events and history.

    `work` has no effects other than calls of the object that it gets, because it may run more than
    once. An error that it raises is raised to the caller, and nothing is written.
    """

    def read(self, work: Callable[[RegistryView], T]) -> T:
        """Run the work on one consistent state."""
        ...

    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        """
        Run the work in one transaction.

        Args:
            work: The mutation.
            locks: Keys of locks that the transaction holds. They are taken in sorted order.
        """
        ...

    def add_warning(self, root_event_id: EventId, warning: str) -> bool:
        """Store why some of what an event led to was not carried out. Return False if it has a warning already."""
        ...
