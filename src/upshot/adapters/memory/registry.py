"""The registry in memory: dictionaries, and a list of undo steps for a failed transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from typing_extensions import override

from upshot.adapters.cursor import decode_cursor, decode_number_cursor, make_cursor
from upshot.adapters.memory.events import MemoryEvents
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

_SeriesKey = tuple[str, str]  # registry and collection, or project and artifact
_VersionKey = tuple[str, str, int]


class _Tables:
    """The state. Aliases have their own tables; the other records are stored without them."""

    def __init__(self) -> None:
        self.registries: dict[str, RegistrySettings] = {}
        self.collections: dict[_SeriesKey, Collection] = {}
        self.versions: dict[_VersionKey, Version] = {}
        self.artifacts: dict[_SeriesKey, Artifact] = {}
        self.artifact_versions: dict[_VersionKey, ArtifactVersion] = {}
        self.collection_aliases: dict[_SeriesKey, dict[str, str]] = {}
        self.artifact_aliases: dict[_SeriesKey, dict[str, str]] = {}
        self.collection_numbers: dict[_SeriesKey, int] = {}
        self.artifact_numbers: dict[_SeriesKey, int] = {}
        self.history: dict[str, HistoryEntry] = {}


class MemoryRegistry(RegistryStore):
    """
    `RegistryStore` in memory.

    Args:
        events: Stores the events of mutations.
    """

    def __init__(self, events: MemoryEvents) -> None:
        self._events = events
        self._tables = _Tables()
        self._lock = events.lock  # shared, so that nobody reads events of a transaction that may still fail

    @override
    def read(self, work: Callable[[RegistryView], T]) -> T:
        with self._lock:
            return work(_Transaction(self._tables, self._events))

    @override
    def transact(self, work: Callable[[RegistryTransaction], T], *, locks: Iterable[str]) -> T:
        with self._lock:
            transaction = _Transaction(self._tables, self._events)
            try:
                return work(transaction)
            except BaseException:
                transaction.undo()
                raise

    @override
    def add_warning(self, root_event_id: EventId, warning: str) -> bool:
        with self._lock:
            return self._events.set_warning(root_event_id, warning)


class _Transaction(RegistryTransaction):
    def __init__(self, tables: _Tables, events: MemoryEvents) -> None:
        self._tables = tables
        self._events = events
        self._undo_steps: list[Callable[[], object]] = []

    def undo(self) -> None:
        """Restore the earlier state, starting with the last change."""
        while self._undo_steps:
            self._undo_steps.pop()()

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if key in table:
            before = table[key]
            self._undo_steps.append(lambda: table.__setitem__(key, before))
        else:
            self._undo_steps.append(lambda: table.pop(key))
        table[key] = value

    def _delete(self, table: dict[Any, Any], key: Any) -> None:
        before = table.pop(key)
        self._undo_steps.append(lambda: table.__setitem__(key, before))

    @override
    def lock(self, keys: Iterable[str]) -> None:
        """Do nothing, because transactions run one at a time."""

    # --- reads --------------------------------------------------------------------------------------------------------

    @override
    def registry(self, name: str) -> RegistrySettings | None:
        return self._tables.registries.get(name)

    @override
    def registries(self) -> tuple[RegistrySettings, ...]:
        return tuple(self._tables.registries[name] for name in sorted(self._tables.registries))

    @override
    def collection(self, registry: str, name: str) -> Collection | None:
        found = self._tables.collections.get((registry, name))
        return replace(found, aliases=_sorted(self._tables.collection_aliases.get((registry, name)))) if found else None

    @override
    def versions(self, collection: Collection, numbers: Iterable[int]) -> Mapping[int, Version]:
        keys = ((collection.registry, collection.name, number) for number in set(numbers))
        found = (self._tables.versions[key] for key in keys if key in self._tables.versions)
        return {version.number: self._complete(version, collection) for version in found}

    def _complete(self, version: Version, collection: Collection) -> Version:
        source = version.artifact_version
        artifact = self.artifact(source.project, source.artifact_name)
        assert artifact is not None  # noqa: S101 - the artifact of a link cannot be removed
        return replace(
            version,
            artifact_version=self.artifact_versions(artifact, [source.number])[source.number],
            aliases=collection.aliases_of(version.name),
        )

    @override
    def linked_number(self, collection: Collection, artifact_version: ArtifactVersion) -> int | None:
        numbers = {(registry, name): number for registry, name, number in self.links_to(artifact_version)}
        return numbers.get((collection.registry, collection.name))

    @override
    def links_to(self, artifact_version: ArtifactVersion) -> tuple[tuple[str, str, int], ...]:
        reference = artifact_version.reference
        links = self._tables.versions.items()
        return tuple(sorted(key for key, version in links if version.artifact_version.reference == reference))

    @override
    def artifact(self, project: str, name: str) -> Artifact | None:
        found = self._tables.artifacts.get((project, name))
        return replace(found, aliases=_sorted(self._tables.artifact_aliases.get((project, name)))) if found else None

    @override
    def artifact_versions(self, artifact: Artifact, numbers: Iterable[int]) -> Mapping[int, ArtifactVersion]:
        keys = ((artifact.project, artifact.name, number) for number in set(numbers))
        found = (self._tables.artifact_versions[key] for key in keys if key in self._tables.artifact_versions)
        return {
            version.number: replace(version, manifest=None, aliases=artifact.aliases_of(version.name))
            for version in found
        }

    @override
    def manifest(self, artifact_version: ArtifactVersion) -> Mapping[str, str] | None:
        return self._tables.artifact_versions[_version_key(artifact_version)].manifest

    @override
    def names(self, kind: NameKind, within: str = "") -> tuple[str, ...]:
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

    @override
    def page_collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]:
        after = decode_cursor(cursor) if cursor is not None else ""
        names = [name for name in self.names("collection", registry) if name > after]
        items = tuple(found for name in names[:limit] if (found := self.collection(registry, name)))
        return Page(items, make_cursor(items[-1].name) if len(names) > limit else None)

    @override
    def page_versions(self, collection: Collection, *, cursor: str | None, limit: int) -> Page[Version]:
        numbers = _numbers_below(self._tables.versions, _series_key(collection), cursor)
        found = self.versions(collection, numbers[:limit])
        items = tuple(found[number] for number in numbers[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(numbers) > limit else None)

    @override
    def page_artifacts(self, project: str, *, cursor: str | None, limit: int) -> Page[Artifact]:
        after = decode_cursor(cursor) if cursor is not None else ""
        names = [name for name in self.names("artifact", project) if name > after]
        items = tuple(found for name in names[:limit] if (found := self.artifact(project, name)))
        return Page(items, make_cursor(items[-1].name) if len(names) > limit else None)

    @override
    def page_artifact_versions(self, artifact: Artifact, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]:
        numbers = _numbers_below(self._tables.artifact_versions, _series_key(artifact), cursor)
        found = self.artifact_versions(artifact, numbers[:limit])
        items = tuple(found[number] for number in numbers[:limit])
        return Page(items, make_cursor(str(items[-1].number)) if len(numbers) > limit else None)

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
        self._put(self._tables.collections, _series_key(collection), collection)

    @override
    def remove_collection(self, collection: Collection) -> None:
        series_key = _series_key(collection)
        for key in [key for key in self._tables.versions if key[:2] == series_key]:
            self._delete(self._tables.versions, key)
        self._put(self._tables.collection_aliases, series_key, {})
        self._delete(self._tables.collections, series_key)

    @override
    def next_number(self, series: Series) -> int:
        is_collection = isinstance(series, Collection)
        numbers = self._tables.collection_numbers if is_collection else self._tables.artifact_numbers
        number = numbers.get(_series_key(series), 0)
        self._put(numbers, _series_key(series), number + 1)
        return number

    @override
    def add_version(self, version: Version) -> None:
        self._put(self._tables.versions, (version.registry, version.collection, version.number), version)

    @override
    def remove_version(self, version: Version) -> None:
        self._remove_aliases(self._tables.collection_aliases, (version.registry, version.collection), version.name)
        self._delete(self._tables.versions, (version.registry, version.collection, version.number))

    def _remove_aliases(self, table: dict[_SeriesKey, dict[str, str]], key: _SeriesKey, version_name: str) -> None:
        self._put(table, key, {alias: holder for alias, holder in table.get(key, {}).items() if holder != version_name})

    @override
    def move_aliases(self, series: Series, moves: Mapping[str, int]) -> None:
        table, key = self._aliases(series), _series_key(series)
        moved = {alias: f"v{number}" for alias, number in moves.items()}
        self._put(table, key, {**table.get(key, {}), **moved})

    @override
    def remove_alias(self, series: Series, alias: str) -> None:
        table, key = self._aliases(series), _series_key(series)
        self._put(table, key, {name: holder for name, holder in table[key].items() if name != alias})

    def _aliases(self, series: Series) -> dict[_SeriesKey, dict[str, str]]:
        return self._tables.collection_aliases if isinstance(series, Collection) else self._tables.artifact_aliases

    @override
    def save_artifact(self, artifact: Artifact) -> None:
        self._put(self._tables.artifacts, _series_key(artifact), artifact)

    @override
    def add_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        self._put(self._tables.artifact_versions, _version_key(artifact_version), artifact_version)

    @override
    def update_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        key = _version_key(artifact_version)
        manifest = self._tables.artifact_versions[key].manifest
        self._put(self._tables.artifact_versions, key, replace(artifact_version, manifest=manifest))

    @override
    def remove_artifact_version(self, artifact_version: ArtifactVersion) -> None:
        project, artifact_name, _ = key = _version_key(artifact_version)
        self._remove_aliases(self._tables.artifact_aliases, (project, artifact_name), artifact_version.name)
        self._delete(self._tables.artifact_versions, key)

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
    def add_events(self, events: Sequence[Event], now: datetime) -> None:
        added = self._events.add(events, now)
        self._undo_steps.append(lambda: self._events.discard(added))

    @override
    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        for entry in entries:
            self._put(self._tables.history, entry.id, entry)


def _numbers_below(keys: Iterable[_VersionKey], series_key: _SeriesKey, cursor: str | None) -> list[int]:
    """Return the version numbers after the cursor, the highest first."""
    below = decode_number_cursor(cursor)
    return sorted((key[2] for key in keys if key[:2] == series_key and key[2] < below), reverse=True)


def _version_key(version: ArtifactVersion) -> _VersionKey:
    return (version.project, version.artifact_name, version.number)


def _series_key(series: Series) -> _SeriesKey:
    return (series.registry if isinstance(series, Collection) else series.project, series.name)


def _sorted(aliases: Mapping[str, str] | None) -> dict[str, str]:
    return dict(sorted((aliases or {}).items()))
