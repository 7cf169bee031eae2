"""Artifact versions whose files are still being uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class EarlierRequest:
    """When a program without a connection asked for something that is brought in now."""

    happened_at: datetime
    known_moves: Mapping[str, datetime] = field(default_factory=dict)  #: when the same program moved an alias last

    def known_time(self, alias: str) -> datetime:
        """Return the time up to which the program knows who has an alias."""
        return max(self.happened_at, self.known_moves.get(alias, self.happened_at))


@dataclass(frozen=True, slots=True)
class VersionRequest:
    """What a client asks for when it logs an artifact version."""

    project: str
    name: str  #: of the artifact
    artifact_type: str
    digest: str  #: of the manifest
    file_count: int  #: number of the manifest's entries
    metadata: Mapping[str, Any]
    description: str
    aliases: tuple[str, ...]  #: besides `latest`
    tags: tuple[str, ...]
    run_id: str | None = None  #: of the run that logs it; a stored request has the internal id
    ttl_seconds: int | None = None  #: see `ArtifactVersion`
    earlier: EarlierRequest | None = None  #: None if it is logged now


@dataclass(frozen=True, slots=True)
class PendingVersion:
    """An artifact version that nobody sees yet."""

    id: str  #: of the artifact version that it becomes
    manifest_id: str
    request: VersionRequest
    updated_at: datetime  #: of the last progress
