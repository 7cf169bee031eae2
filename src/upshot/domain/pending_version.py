"""Artifact versions whose files are still being uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class EarlierRequest:
    """When a program without a connection asked for something that is brought in now."""

    happened_at: datetime


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
