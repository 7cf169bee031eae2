"""Manifests: the files of an artifact version, each with a path and the digest of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One file of an artifact version."""

    path: str  #: inside the artifact, with `/`
    digest: str  #: `sha256:…` of the content; of a reference its checksum, or a hash of URI and size
    size: int | None  #: bytes; None if it is unknown
    ref: str | None = None  #: URI of a reference, whose content is not stored here; None for a stored file


def manifest_digest(entries: Iterable[ManifestEntry]) -> str:
    """
    Return the digest of a manifest. It depends on paths and content digests only.

    Args:
        entries: In any order.
    """
    digests = dict(sorted((entry.path, entry.digest) for entry in entries))
    text = json.dumps(digests, ensure_ascii=False, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What is known of a manifest without its entries."""

    id: str
    file_count: int
    size: int | None  #: bytes of all files; None if the size of one is unknown
    is_stored: bool  #: the content of every file that is not a reference is stored here and was verified


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file that two versions have with different content."""

    before: ManifestEntry
    after: ManifestEntry


@dataclass(frozen=True, slots=True)
class FileDiff:
    """How the files of one version differ from those of another. Long lists are cut, and the counts are complete."""

    added: tuple[ManifestEntry, ...] = ()
    removed: tuple[ManifestEntry, ...] = ()
    changed: tuple[ChangedFile, ...] = ()
    added_count: int = 0
    removed_count: int = 0
    changed_count: int = 0
