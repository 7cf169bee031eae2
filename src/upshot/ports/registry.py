"""The registry's state, and what actions may see and change of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from upshot.domain.event import Actor, Cause, Event
from upshot.domain.registry import (
    Artifact,
    ArtifactVersion,
    Change,
    Collection,
    HistoryEntry,
    RegistrySettings,
    Version,
)
from upshot.ids import EventId
from upshot.ports.paging import Page

T = TypeVar("T")


class RegistryChanges(Protocol):
    """What actions may see and change in the registry, in the name of an automation; `registry.Registry` is one."""

    def version(self, registry: str, collection: str, version: str) -> Version:
        """The version that `vN` or an alias means, as it is now."""
        ...

    def add_alias(
        self, registry: str, collection: str, alias: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Version]:
        """Give the alias to the version."""
        ...

    def add_tag(
        self,
        registry: str,
        collection: str,
        tag: str,
        version: str | None = None,
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Collection | Version]:
        """Tag the version, or the collection when version is None."""
        ...

    def update_version(
        self,
        registry: str,
        collection: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Version]:
        """Change the metadata of the artifact version behind a link, by a JSON merge patch."""
        ...

    def update_artifact_version(
        self,
        project: str,
        name: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[ArtifactVersion]:
        """Change the metadata of an artifact version, by a JSON merge patch."""
        ...

    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
        event_ids: Sequence[EventId] | None = None,
    ) -> tuple[Event, ...]:
        """
        Accept custom events.

        Args:
            events: Pairs of name and data.
            actor: Who emits.
            chain: What led here.
            event_ids: The events' ids, where the caller derives them; one that was accepted before is not
                accepted again.
        """
        ...


NameKind = Literal["registry", "collection", "project", "artifact"]


class RegistryView(Protocol):
    """Questions to the registry; all within one transaction, so they see one state."""

    def registry(self, name: str) -> RegistrySettings | None:
        """The registry and its rules; None when there is none of this name."""
        ...

    def registries(self) -> tuple[RegistrySettings, ...]:
        """All registries, by name."""
        ...

    def collection(self, registry: str, name: str) -> Collection | None:
        """The collection with all its aliases; None when there is none of this name."""
        ...

    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        """Those of the numbers that are linked; their aliases are read off the collection that is given."""
        ...

    def number_of(self, collection: Collection, artifact: ArtifactVersion) -> int | None:
        """Under which number the artifact version is linked; None when it is not."""
        ...

    def links_to(self, artifact: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        """Where the artifact version is linked: registry, collection and number, sorted."""
        ...

    def artifact(self, project: str, name: str) -> Artifact | None:
        """The artifact with its aliases in the project; None when there is none of this name."""
        ...

    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        """Those of the numbers that exist, without manifests; aliases are read off the artifact that is given."""
        ...

    def manifest(self, artifact: ArtifactVersion) -> Mapping[str, str] | None:
        """Content digest by path; None when only a digest was given."""
        ...

    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        """Names that exist, sorted, at most 1,000: all registries or projects, or what one of them holds."""
        ...

    def page_collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        """Collections, by name; `InvalidInput` for a cursor that no page gave, here and below."""
        ...

    def page_versions(self, collection: Collection, *, cursor: str | None, limit: int) -> Page[Version]:
        """Versions, the highest number first."""
        ...

    def page_artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        """Artifacts of a project, by name."""
        ...

    def page_artifact_versions(self, artifact: Artifact, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        """Artifact versions without manifests, the highest number first."""
        ...

    def page_history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        """What was done, newest first; None means any."""
        ...


class RegistryTransaction(RegistryView, Protocol):
    """The view, and what one mutation writes."""

    def lock(self, keys: Iterable[str]) -> None:
        """Wait for these keys too, and hold them to the end; what was read before may have changed since."""
        ...

    def save_registry(self, registry: RegistrySettings) -> None:
        """Make the registry, or change its rules."""
        ...

    def save_collection(self, collection: Collection) -> None:
        """Make the collection, or change its description and tags; aliases have their own verbs."""
        ...

    def remove_collection(self, collection: Collection) -> None:
        """Remove the collection with its versions and aliases; a later one of its name counts on from its numbers."""
        ...

    def next_number(self, of: Collection | Artifact) -> int:
        """Take the number of the next version; it is given once, whatever becomes of the version."""
        ...

    def add_version(self, version: Version) -> None:
        """Link; aliases have their own verbs."""
        ...

    def remove_version(self, version: Version) -> None:
        """Unlink, and remove its aliases."""
        ...

    def move_aliases(self, of: Collection | Artifact, moves: Mapping[str, int]) -> None:
        """Give each alias to the version of that number, whoever held it."""
        ...

    def remove_alias(self, of: Collection | Artifact, alias: str) -> None:
        """Take the alias from its holder."""
        ...

    def save_artifact(self, artifact: Artifact) -> None:
        """Make the artifact, and its project if it is the first there."""
        ...

    def add_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Keep a logged version with its manifest; aliases have their own verbs."""
        ...

    def change_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Change metadata, description and tags."""
        ...

    def remove_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Remove the version, which is linked nowhere, and its aliases."""
        ...

    def accepted(self, event_ids: Iterable[EventId]) -> frozenset[str]:
        """Those of the ids under which an event was accepted."""
        ...

    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        """Accept events; one whose id exists is left as it is."""
        ...

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Say what was done."""
        ...


class RegistryStore(Protocol):
    """
    The registry's state, with its events and history.

    `work` does nothing but talk to what it is given: it may run more than once, and an error that
    it raises comes through, with nothing written.
    """

    def read(self, work: Callable[[RegistryView], T]) -> T:
        """Run the work on one state."""
        ...

    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        """
        Run the work in one transaction.

        Args:
            work: The mutation.
            locks: Keys that are held by one transaction at a time, the others wait; taken in sorted order.
        """
        ...
