"""The registry's verbs: each is one transaction that writes the new state and its events together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upshot.clock import Clock
from upshot.domain.event import Actor, Cause, Event
from upshot.domain.registry import ArtifactVersion, Change, Collection, HistoryEntry, RegistrySettings, Version
from upshot.ports import EventPublisher, Page, RegistryStore


class Registry:
    """Answers and changes; published after the commit, and again by the relay if that failed."""

    def __init__(
        self, store: RegistryStore, publisher: EventPublisher, clock: Clock, *, base_url: str | None = None
    ) -> None: ...

    # registries
    def registries(self) -> tuple[RegistrySettings, ...]: ...
    def protect_aliases(self, registry: str, patterns: Sequence[str], *, actor: Actor) -> RegistrySettings: ...

    # collections
    def create_collection(
        self, registry: str, name: str, artifact_type: str, *, description: str = "", actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Collection]: ...
    def update_collection(
        self, registry: str, name: str, *, description: str, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Collection]: ...
    def delete_collection(self, registry: str, name: str, *, actor: Actor, chain: tuple[Cause, ...] = ()) -> Change[None]: ...
    def collection(self, registry: str, name: str) -> Collection: ...
    def collections(self, registry: str, *, cursor: str | None, limit: int) -> Page[Collection]: ...

    # artifacts
    def log_artifact(
        self,
        project: str,
        name: str,
        artifact_type: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        digest: str | None = None,
        manifest: Mapping[str, str] | None = None,
        description: str = "",
        aliases: Sequence[str] = (),
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[ArtifactVersion]: ...
    def artifact_version(self, reference: str) -> ArtifactVersion: ...
    def artifact_versions(self, project: str, name: str, *, cursor: str | None, limit: int) -> Page[ArtifactVersion]: ...
    def delete_artifact_version(self, reference: str, *, actor: Actor, chain: tuple[Cause, ...] = ()) -> Change[None]: ...

    # versions
    def link(
        self, registry: str, collection: str, artifact: str, *, aliases: Sequence[str] = (), actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Version]: ...
    def unlink(self, registry: str, collection: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()) -> Change[None]: ...
    def version(self, registry: str, collection: str, version: str) -> Version: ...
    def versions(self, registry: str, collection: str, *, cursor: str | None, limit: int) -> Page[Version]: ...
    def update_version(
        self,
        registry: str,
        collection: str,
        version: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        description: str | None = None,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
    ) -> Change[Version]:
        """`metadata` is a JSON merge patch (RFC 7396): null removes a key."""

    # aliases and tags
    def add_alias(
        self, registry: str, collection: str, alias: str, version: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Version]: ...
    def remove_alias(
        self, registry: str, collection: str, alias: str, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[None]: ...
    def add_tag(
        self, registry: str, collection: str, tag: str, version: str | None = None, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Collection | Version]: ...
    def remove_tag(
        self, registry: str, collection: str, tag: str, version: str | None = None, *, actor: Actor, chain: tuple[Cause, ...] = ()
    ) -> Change[Collection | Version]: ...

    # custom events and history
    def emit(
        self,
        events: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        actor: Actor,
        chain: tuple[Cause, ...] = (),
        event_ids: Sequence[str] | None = None,
    ) -> tuple[Event, ...]: ...
    def history(
        self, registry: str | None, collection: str | None, *, cursor: str | None, limit: int
    ) -> Page[HistoryEntry]: ...
