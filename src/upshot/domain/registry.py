"""What the registry keeps, as records: collections, versions, artifact versions, history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from upshot.domain.event import Event

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is logged again and again under one name in a project; its versions are artifact versions."""

    project: str
    name: str
    type: str  #: fixed when it is first logged: model, dataset, …
    aliases: Mapping[str, str]  #: in the project's scope: alias → version, such as {"latest": "v2"}

    @property
    def reference(self) -> str:
        """`project/name`."""
        return f"{self.project}/{self.name}"

    def aliases_of(self, version: str) -> tuple[str, ...]:
        """The aliases that the version (`v3`) holds, sorted."""
        return tuple(sorted(alias for alias, holder in self.aliases.items() if holder == version))


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """A logged thing: one numbered version of an artifact in a project."""

    project: str
    name: str
    type: str  #: the artifact's type, fixed when it is first logged: model, dataset, …
    number: int  #: counted from 0
    digest: str  #: `sha256:…` of the manifest, or as the user gave it
    metadata: Mapping[str, Any]
    description: str
    manifest: Mapping[str, str] | None  #: content digest by path; None when only a digest was given, and in lists
    aliases: tuple[str, ...]  #: in the project's scope, sorted
    tags: tuple[str, ...]  #: sorted
    created_at: datetime
    created_by: str

    @property
    def version(self) -> str:
        """`v3`."""
        return f"v{self.number}"

    @property
    def reference(self) -> str:
        """`project/name:v3`."""
        return f"{self.project}/{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Collection:
    """A registered model (or data set, …): where versions are linked and aliases live."""

    registry: str
    name: str
    artifact_type: str  #: fixed when it is made
    description: str  #: the model card, Markdown
    tags: tuple[str, ...]  #: sorted
    aliases: Mapping[str, str]  #: alias → version, such as {"production": "v3"}
    created_at: datetime
    created_by: str

    @property
    def reference(self) -> str:
        """`registry/collection`."""
        return f"{self.registry}/{self.name}"

    def aliases_of(self, version: str) -> tuple[str, ...]:
        """The aliases that the version (`v3`) holds, sorted."""
        return tuple(sorted(alias for alias, holder in self.aliases.items() if holder == version))


@dataclass(frozen=True, slots=True)
class Version:
    """One numbered entry of a collection: a link to an artifact version."""

    registry: str
    collection: str
    number: int  #: counted from 0 in link order; never used twice
    artifact: ArtifactVersion  #: tags, description and metadata belong to it
    aliases: tuple[str, ...]  #: in the collection, sorted
    linked_at: datetime
    linked_by: str

    @property
    def name(self) -> str:
        """`v3`."""
        return f"v{self.number}"

    @property
    def reference(self) -> str:
        """`registry/collection:v3`."""
        return f"{self.registry}/{self.collection}:{self.name}"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """A registry and its rules."""

    name: str
    protected_aliases: tuple[str, ...] = ()  #: patterns; only an admin may add, move or remove these


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One mutation, as the append-only history keeps it."""

    id: str
    time: datetime
    actor: str
    action: str  #: link, unlink, add-alias, …
    subject: str  #: `model/churn:v3`, `model/churn`, `model`, or `project/name:v0`
    mutation_id: str
    registry: str | None = None  #: None for what was done to an artifact in its project
    collection: str | None = None
    before: Mapping[str, Any] = field(default_factory=dict)  #: what it was
    after: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What a mutation gave: the thing as it is now, and the events that were accepted with it."""

    value: T
    events: tuple[Event, ...]  #: none: nothing changed
    created: bool = False  #: the thing did not exist before
