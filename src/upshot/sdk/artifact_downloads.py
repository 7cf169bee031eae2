"""Download the files of an artifact, and compare them with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from upshot.errors import InvalidInput
from upshot.sdk.connection import blob_cache, client, read_settings
from upshot.sdk.draft import find_files
from upshot.sdk.sdk_errors import InvalidArgument

if TYPE_CHECKING:
    from upshot.sdk.artifact import Artifact
    from upshot.sdk.entries import ArtifactManifestEntry


def download_entries(
    artifact: Artifact,
    entries: Sequence[ArtifactManifestEntry],
    root: str | os.PathLike[str] | None,
    *,
    skip_cache: bool | None,
    allow_missing_references: bool = False,
) -> str:
    """Download some of the files of an artifact, and return the directory. See `Artifact.download`."""
    from upshot.client.downloads import download
    from upshot.sdk.stored_elsewhere import download_references

    folder = _default_root(artifact) if root is None else Path(root)
    stored = [entry.to_entry() for entry in entries if entry.ref is None]
    try:
        download(client(), stored, folder, cache=None if skip_cache else blob_cache(), what=artifact.source_name)
        references = [entry.to_entry() for entry in entries if entry.ref is not None]
        download_references(references, folder, allow_missing=allow_missing_references)
    except InvalidInput as error:
        raise InvalidArgument(str(error)) from error
    return str(folder)


def verify_files(artifact: Artifact, root: str | os.PathLike[str] | None) -> None:
    """Compare downloaded files with an artifact. See `Artifact.verify`."""
    from upshot.client.file_digest import hash_file

    entries = artifact.manifest.entries
    folder = _default_root(artifact) if root is None else Path(root)
    for path, _ in find_files(folder.absolute()) if folder.is_dir() else ():
        if path not in entries and not path.rpartition("/")[2].startswith(".upshot-"):
            raise InvalidArgument(f"{folder / path} is not part of {artifact.name}; remove it")
    for path, entry in entries.items():
        file = folder.joinpath(*path.split("/"))
        if entry.ref is not None:
            continue
        if not file.is_file():
            raise InvalidArgument(f"{file} is missing; download {artifact.name} again")
        digest, _ = hash_file(file)
        if digest != entry.digest:
            raise InvalidArgument(f"{file} has the digest {digest}, not {entry.digest}; download {artifact.name} again")


def _default_root(artifact: Artifact) -> Path:
    name = artifact.source_name
    return read_settings().artifact_dir / (name.replace(":", "-") if os.name == "nt" else name)
