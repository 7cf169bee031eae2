"""A file of an artifact version."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.domain.manifest import FileDiff, ManifestEntry


class FileJson(TypedDict):
    """A file of an artifact version, or a reference to one that is stored elsewhere."""

    path: str
    digest: str
    size: int | None  #: bytes; null if it is unknown
    ref: str | None  #: URI of a reference; null for a file that is stored here


def file_json(entry: ManifestEntry) -> FileJson:
    """Return the JSON object of a file."""
    return {"path": entry.path, "digest": entry.digest, "size": entry.size, "ref": entry.ref}


class ChangedFileJson(TypedDict):
    """A file that two versions have with different content."""

    path: str
    before: FileJson
    after: FileJson


class DiffJson(TypedDict):
    """How one artifact version differs from another. Long lists of files are cut, and the counts are complete."""

    before: str  #: reference of the version in the path
    after: str  #: reference of the version that it is compared with
    files_compared: bool  #: false if the files of one version are not known, because it was logged with a digest only
    added: list[FileJson]  #: by path, up to 1,000
    removed: list[FileJson]  #: the same
    changed: list[ChangedFileJson]  #: the same
    added_count: int
    removed_count: int
    changed_count: int
    metadata: dict[str, Any]  #: by key that differs: `{before, after}`; null where the key is missing


def diff_json(before: str, after: str, files: FileDiff | None, metadata: dict[str, Any]) -> DiffJson:
    """Return the JSON object of a comparison. `files` is None if the files were not compared."""
    found = files or FileDiff()
    return {
        "before": before,
        "after": after,
        "files_compared": files is not None,
        "added": [file_json(entry) for entry in found.added],
        "removed": [file_json(entry) for entry in found.removed],
        "changed": [
            {"path": file.before.path, "before": file_json(file.before), "after": file_json(file.after)}
            for file in found.changed
        ],
        "added_count": found.added_count,
        "removed_count": found.removed_count,
        "changed_count": found.changed_count,
        "metadata": metadata,
    }
