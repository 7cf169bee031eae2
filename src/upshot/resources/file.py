"""A file of an artifact version."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.domain.manifest import ManifestEntry


class FileJson(TypedDict):
    """A file of an artifact version, or a reference to one that is stored elsewhere."""

    path: str
    digest: str
    size: int | None  #: bytes; null if it is unknown
    ref: str | None  #: URI of a reference; null for a file that is stored here


def file_json(entry: ManifestEntry) -> FileJson:
    """Return the JSON object of a file."""
    return {"path": entry.path, "digest": entry.digest, "size": entry.size, "ref": entry.ref}
