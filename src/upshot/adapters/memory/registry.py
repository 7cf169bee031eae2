"""The registry in memory: dictionaries, and a list of what a failed transaction must put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from upshot.adapters.cursor import after_cursor, make_cursor, number_after_cursor
from upshot.adapters.memory.events import MemoryEvents
from upshot.domain.event import Event
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, HistoryEntry, RegistrySettings, Version
from upshot.ids import EventId
from upshot.ports.paging import Page
from upshot.ports.registry import NameKind, RegistryTransaction, RegistryView

T = TypeVar("T")

_Name = tuple[str, str]  # registry and collection, or project and artifact
_Numbered = tuple[str, str, int]


class _Tables:
    """The state; collections, artifacts and their versions are kept without aliases, which have their own table."""

    def __init__(self) -> None:
        self.registries: dict[str, RegistrySettings] = {}
        self.collections: dict[_Name, Collection] = {}
        self.versions: dict[_Numbered, Version] = {}
        self.artifacts: dict[_Name, Artifact] = {}
        self.artifact_versions: dict[_Numbered, ArtifactVersion] = {}
        self.collection_aliases: dict[_Name, dict[str, str]] = {}
        self.artifact_aliases: dict[_Name, dict[str, str]] = {}
        self.collection_numbers: dict[_Name, int] = {}
        self.artifact_numbers: dict[_Name, int] = {}
        self.history: dict[str, HistoryEntry] = {}


class MemoryRegistry:
    """
    `RegistryStore` in memory.

    Args:
        events: Where the events of mutations are kept.
    """

    def __init__(self, events: MemoryEvents) -> None:
        self._events = events
        self._tables = _Tables()
        self._lock = events.lock  # so that nobody sees events of a transaction that may still fail

    def read(self, work: Callable[[RegistryView], T]) -> T:
        """Run the work on one state."""
        with self._lock:
            return work(_Transaction(self._tables, self._events))

    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        """Run the work in one transaction, one at a time."""
        with self._lock:
            transaction = _Transaction(self._tables, self._events)
            try:
                return work(transaction)
            except BaseException:
                transaction.undo()
                raise


class _Transaction:
    """`RegistryTransaction` on the tables."""

    def __init__(self, tables: _Tables, events: MemoryEvents) -> None:
        self._tables = tables
        self._events = events
        self._undo: list[Callable[[], object]] = []

    def undo(self) -> None:
        """Put everything back, the last change first."""
        while self._undo:
            self._undo.pop()()

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if key in table:
            before = table[key]
            self._undo.append(lambda: table.__setitem__(key, before))
        else:
            self._undo.append(lambda: table.pop(key))
        table[key] = value

    def _drop(self, table: dict[Any, Any], key: Any) -> None:
        before = table.pop(key)
        self._undo.append(lambda: table.__setitem__(key, before))

    def lock(self, keys: Iterable[str]) -> None:
        """Nothing to wait for: transactions run one at a time."""

    # --- questions ----------------------------------------------------------------------------

    def registry(self, name: str) -> RegistrySettings | None:
        """The registry and its rules."""
        return self._tables.registries.get(name)

    def registries(self) -> tuple[RegistrySettings, ...]:
        """All registries, by name."""
        return tuple(self._tables.registries[name] for name in sorted(self._tables.registries))

    def collection(self, registry: str, name: str) -> Collection | None:
        """The collection with all its aliases."""
        found = self._tables.collections.get((registry, name))
        return replace(found, aliases=_sorted(self._tables.collection_aliases.get((registry, name)))) if found else None

    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        """Those of the numbers that are linked."""
        keys = ((collection.registry, collection.name, number) for number in set(numbers))
        found = (self._tables.versions[key] for key in keys if key in self._tables.versions)
        return {version.number: self._complete(version, collection) for version in found}

    def _complete(self, version: Version, collection: Collection) -> Version:
        source = version.artifact
        artifact = self.artifact(source.project, source.name)
        assert artifact is not None  # noqa: S101 - a link's source cannot be removed
        return replace(
            version,
            artifact=self.artifact_versions(artifact, [source.number])[source.number],
            aliases=collection.aliases_of(version.name),
        )

    def number_of(self, collection: Collection, artifact: ArtifactVersion) -> int | None:
        """Under which number the artifact version is linked."""
        homes = {(registry, name): number for registry, name, number in self.links_to(artifact)}
        return homes.get((collection.registry, collection.name))

    def links_to(self, artifact: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        """Where the artifact version is linked."""
        links = self._tables.versions.items()
        return tuple(sorted(key for key, version in links if version.artifact.reference == artifact.reference))

    def artifact(self, project: str, name: str) -> Artifact | None:
        """The artifact with its aliases in the project."""
        found = self._tables.artifacts.get((project, name))
        return replace(found, aliases=_sorted(self._tables.artifact_aliases.get((project, name)))) if found else None

    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        """Those of the numbers that exist."""
        keys = ((artifact.project, artifact.name, number) for number in set(numbers))
        found = (self._tables.artifact_versions[key] for key in keys if key in self._tables.artifact_versions)
        return {one.number: replace(one, manifest=None, aliases=artifact.aliases_of(one.version)) for one in found}

    def manifest(self, artifact: ArtifactVersion) -> Mapping[str, str] | None:
        """Content digest by path."""
        return self._tables.artifact_versions[_key(artifact)].manifest

    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
        """Names that exist, sorted."""
        match kind:
            case "registry":
                found = set(self._tables.registries)
            case "collection":
                found = {name for registry, name in self._tables.collections if registry == within}
            case "project":
                found = {project for project, _ in self._tables.artifacts}
            case "artifact":
                found = {name for project, name in self._tables.artifacts if project == within}
        return tuple(sorted(found))

    def page_collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        """Collections, by name."""
        after = after_cursor(cursor) if cursor is not None else ""
        names = [name for name in self.names("collection", registry) if name > after]
        items = tuple(found for name in names[:limit] if (found := self.collection(registry, name)))
        return Page(items, make_cursor(items[-1].name) if len(names) > limit else None)

    def page_versions(self, collection: Collection, *, cursor: str | None, limit: int) -> Page[Version]:
        """Versions, the highest number first."""
        below = number_after_cursor(cursor)
        home = (collection.registry, collection.name)
        numbers = sorted((key[2] for key in self._tables.versions if key[:2] == home and key[2] < below), reverse=True)
        found = self.versions(collection, numbers[:limit])
        items = tuple(found[number] for number in numbers[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(numbers) > limit else None)

    def page_artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        """Artifacts of a project, by name."""
        after = after_cursor(cursor) if cursor is not None else ""
        names = [name for name in self.names("artifact", project) if name > after]
        items = tuple(found for name in names[:limit] if (found := self.artifact(project, name)))
        return Page(items, make_cursor(items[-1].name) if len(names) > limit else None)

    def page_artifact_versions(self, artifact: Artifact, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        """Artifact versions, the highest number first."""
        below = number_after_cursor(cursor)
        home = (artifact.project, artifact.name)
        kept = self._tables.artifact_versions
        numbers = sorted((key[2] for key in kept if key[:2] == home and key[2] < below), reverse=True)
        found = self.artifact_versions(artifact, numbers[:limit])
        items = tuple(found[number] for number in numbers[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(numbers) > limit else None)

    def page_history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]:
        """What was done, newest first."""
        last = after_cursor(cursor) if cursor is not None else None
        found = [
            entry
            for entry in self._tables.history.values()
            if registry in (None, entry.registry)
            and collection in (None, entry.collection)
            and (last is None or entry.id < last)
        ]
        found.sort(key=lambda entry: entry.id, reverse=True)
        items = tuple(found[:limit])
        return Page(items, make_cursor(items[-1].id) if len(found) > limit else None)

    # --- changes ------------------------------------------------------------------------------

    def save_registry(self, registry: RegistrySettings) -> None:
        """Make the registry, or change its rules."""
        self._put(self._tables.registries, registry.name, registry)

    def save_collection(self, collection: Collection) -> None:
        """Make the collection, or change its description and tags."""
        self._put(self._tables.collections, (collection.registry, collection.name), collection)

    def remove_collection(self, collection: Collection) -> None:
        """Remove the collection with its versions and aliases."""
        home = (collection.registry, collection.name)
        for key in [key for key in self._tables.versions if key[:2] == home]:
            self._drop(self._tables.versions, key)
        self._put(self._tables.collection_aliases, home, {})
        self._drop(self._tables.collections, home)

    def next_number(self, of: Collection | Artifact) -> int:
        """Take the number of the next version."""
        key, numbers = _key_of(of), self._numbers(of)
        number = numbers.get(key, 0)
        self._put(numbers, key, number + 1)
        return number

    def add_version(self, version: Version) -> None:
        """Link."""
        self._put(self._tables.versions, (version.registry, version.collection, version.number), version)

    def remove_version(self, version: Version) -> None:
        """Unlink, and remove its aliases."""
        home = (version.registry, version.collection)
        left = {a: name for a, name in self._tables.collection_aliases.get(home, {}).items() if name != version.name}
        self._put(self._tables.collection_aliases, home, left)
        self._drop(self._tables.versions, (*home, version.number))

    def move_aliases(self, of: Collection | Artifact, moves: Mapping[str, int]) -> None:
        """Give each alias to the version of that number, whoever held it."""
        aliases = self._aliases(of)
        moved = {alias: f"v{number}" for alias, number in moves.items()}
        self._put(aliases, _key_of(of), {**aliases.get(_key_of(of), {}), **moved})

    def remove_alias(self, of: Collection | Artifact, alias: str) -> None:
        """Take the alias from its holder."""
        aliases = self._aliases(of)
        self._put(aliases, _key_of(of), {a: name for a, name in aliases[_key_of(of)].items() if a != alias})

    def _aliases(self, of: Collection | Artifact) -> dict[_Name, dict[str, str]]:
        return self._tables.collection_aliases if isinstance(of, Collection) else self._tables.artifact_aliases

    def _numbers(self, of: Collection | Artifact) -> dict[_Name, int]:
        return self._tables.collection_numbers if isinstance(of, Collection) else self._tables.artifact_numbers

    def save_artifact(self, artifact: Artifact) -> None:
        """Make the artifact, and its project if it is the first there."""
        self._put(self._tables.artifacts, (artifact.project, artifact.name), artifact)

    def add_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Keep a logged version with its manifest."""
        self._put(self._tables.artifact_versions, _key(artifact), artifact)

    def change_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Change metadata, description and tags."""
        manifest = self._tables.artifact_versions[_key(artifact)].manifest
        self._put(self._tables.artifact_versions, _key(artifact), replace(artifact, manifest=manifest))

    def remove_artifact_version(self, artifact: ArtifactVersion) -> None:
        """Remove the version, which is linked nowhere, and its aliases."""
        home = (artifact.project, artifact.name)
        left = {a: name for a, name in self._tables.artifact_aliases.get(home, {}).items() if name != artifact.version}
        self._put(self._tables.artifact_aliases, home, left)
        self._drop(self._tables.artifact_versions, _key(artifact))

    def accepted(self, event_ids: Iterable[EventId]) -> frozenset[str]:
        """Those of the ids under which an event was accepted."""
        return frozenset(self._events.get(tuple(event_ids)))

    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        """Accept events; one whose id exists is left as it is."""
        new = self._events.add(events, now)
        self._undo.append(lambda: self._events.take_back(new))

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Say what was done."""
        for entry in entries:
            self._put(self._tables.history, entry.id, entry)


def _key(artifact: ArtifactVersion) -> _Numbered:
    return (artifact.project, artifact.name, artifact.number)


def _key_of(of: Collection | Artifact) -> _Name:
    return (of.registry if isinstance(of, Collection) else of.project, of.name)


def _sorted(aliases: Mapping[str, str] | None) -> dict[str, str]:
    return dict(sorted((aliases or {}).items()))
