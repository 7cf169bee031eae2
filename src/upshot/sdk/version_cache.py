"""Versions that were downloaded to this machine, so that an offline run can use them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from upshot.client.blob_cache import cache_location, new_file_beside
from upshot.domain.manifest import ManifestEntry
from upshot.sdk.connection import read_settings

_FOLDER = "versions"  # beside the cache of files


def remember_version(version: Mapping[str, Any], entries: Iterable[ManifestEntry], asked_for: str | None) -> None:
    """
    Keep what is known of a version whose files are in the cache.

    Args:
        version: As the server describes it.
        entries: Its files.
        asked_for: The reference with which the program found it, such as `model/net:staging`.
    """
    files = [[entry.path, entry.digest, entry.size, entry.ref] for entry in entries]
    content = json.dumps({"version": version, "files": files})
    for reference in {version["reference"], version["artifact"], asked_for} - {None}:
        path = _path(str(reference))
        with contextlib.suppress(OSError):  # it is only a help
            path.parent.mkdir(parents=True, exist_ok=True)
            new = new_file_beside(path)
            new.write_text(content, encoding="utf-8")
            new.replace(path)


def find_version(reference: str) -> tuple[dict[str, Any], list[ManifestEntry]] | None:
    """Return a version that was downloaded, and its files; None if there is none with this reference."""
    try:
        stored = json.loads(_path(reference).read_text(encoding="utf-8"))
        return stored["version"], [ManifestEntry(*file) for file in stored["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _path(reference: str) -> Path:
    settings = read_settings()
    folder = cache_location(settings.cache_dir, settings.cache_gb, data=settings.data)[0]
    return folder.parent / _FOLDER / f"{hashlib.sha256(reference.encode()).hexdigest()}.json"
