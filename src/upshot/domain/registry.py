"""Records of the registry: collections, artifacts, their versions, and history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from upshot.domain.event import Event
from upshot.domain.manifest import ManifestSummary
from upshot.domain.run import RunSummary
from upshot.domain.stage import Stage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A series of artifact versions that are logged under one name in a project."""

    id: str  #: stays the same when the artifact or its project is renamed
    project: str
    name: str
    artifact_type: str  #: model, dataset, …; the first version sets it
    aliases: Mapping[str, str]  #: version by alias in the project, such as {"latest": "v2"}
    ttl_seconds: int | None = None  #: after which versions without their own expire; None: without limit

    @property
    def reference(self) -> str:
        """`project/artifact`."""
        return f"{self.project}/{self.name}"

    def aliases_of(self, version_name: str) -> tuple[str, ...]:
        """Return the aliases of a version (`v3`), sorted."""
        return tuple(sorted(alias for alias, holder in self.aliases.items() if holder == version_name))


@dataclass(frozen=True, slots=True)
class ArtifactVersion:
    """One numbered version of an artifact in a project."""

    id: str
    artifact_id: str
    project: str
    artifact_name: str
    artifact_type: str  #: model, dataset, …
    number: int  #: counted from 0
    digest: str  #: `sha256:…` of the manifest, or as the client sent it
    metadata: Mapping[str, Any]
    description: str
    manifest: ManifestSummary | None  #: None if the client sent only a digest
    aliases: tuple[str, ...]  #: in the project, sorted
    tags: tuple[str, ...]  #: sorted
    created_at: datetime
    created_by: str
    run: RunSummary | None = None  #: that logged it
    ttl_seconds: int | None = None  #: after which it expires; 0: never; None: that of its artifact and collections

    @property
    def name(self) -> str:
        """`v3`."""
        return f"v{self.number}"

    @property
    def reference(self) -> str:
        """`project/artifact:v3`."""
        return f"{self.project}/{self.artifact_name}:{self.name}"

    @property
    def artifact_version(self) -> ArtifactVersion:
        """This record, so that both kinds of version have the property."""
        return self

    def with_artifact_version(self, artifact_version: ArtifactVersion) -> ArtifactVersion:
        """Return the given artifact version, so that both kinds of version have the method."""
        return artifact_version


@dataclass(frozen=True, slots=True)
class Collection:
    """A registered model (or data set, …): versions are linked to it, and it holds their aliases."""

    id: str  #: stays the same when the collection is renamed
    registry: str
    name: str
    artifact_type: str  #: model, dataset, …; fixed at creation
    description: str  #: the model card, Markdown
    metadata: Mapping[str, Any]
    tags: tuple[str, ...]  #: sorted
    aliases: Mapping[str, str]  #: version by alias, such as {"production": "v3"}
    created_at: datetime
    created_by: str
    ttl_seconds: int | None = None  #: after which a link no longer keeps its version; None: without limit

    @property
    def reference(self) -> str:
        """`registry/collection`."""
        return f"{self.registry}/{self.name}"

    def aliases_of(self, version_name: str) -> tuple[str, ...]:
        """Return the aliases of a version (`v3`), sorted."""
        return tuple(sorted(alias for alias, holder in self.aliases.items() if holder == version_name))


@dataclass(frozen=True, slots=True)
class Version:
    """One numbered entry of a collection: a link to an artifact version."""

    id: str
    collection_id: str
    registry: str
    collection: str
    number: int  #: counted from 0 in the order of links; never used again
    artifact_version: ArtifactVersion  #: tags, description and metadata belong to it
    aliases: tuple[str, ...]  #: in the collection, sorted
    stage: Stage
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

    def with_artifact_version(self, artifact_version: ArtifactVersion) -> Version:
        """Return the version with a changed artifact version."""
        return replace(self, artifact_version=artifact_version)


#: A numbered series of versions with aliases.
Series = Collection | Artifact


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """A registry and its rules."""

    name: str
    protected_aliases: tuple[str, ...] = ()  #: globs; only an admin may add, move or remove matching aliases
    allowed_automations: tuple[str, ...] = ()  #: names of the automations that may also move these aliases


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change in the append-only history."""

    id: str
    time: datetime
    actor: str
    action: str  #: link, unlink, add-alias, …
    subject: str  #: `model/churn:v3`, `model/churn`, `model`, or `project/artifact:v0`
    mutation_id: str
    registry: str | None = None  #: None for a change of an artifact in its project
    collection: str | None = None
    before: Mapping[str, Any] = field(default_factory=dict)  #: values that the change replaced
    after: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CardRevision:
    """A description (model card) that a collection has or had."""

    description: str  #: Markdown
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """The result of a mutation."""

    value: T  #: the record after the mutation
    events: tuple[Event, ...]  #: accepted with the mutation; empty if nothing changed
    created: bool = False  #: the record did not exist before
    metadata_ignored: bool = False  #: a version with equal content exists, and keeps its own metadata
    kept_aliases: tuple[str, ...] = ()  #: requested aliases that somebody has moved since it happened
