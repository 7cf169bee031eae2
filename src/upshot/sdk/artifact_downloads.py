"""Download the files of an artifact, and compare them with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from upshot.client.login import NoServer
from upshot.errors import InvalidInput, Unavailable
from upshot.sdk.connection import blob_cache, client, read_settings
from upshot.sdk.draft import find_files
from upshot.sdk.sdk_errors import InvalidArgument
from upshot.sdk.version_cache import remember_version

if TYPE_CHECKING:
    from upshot.client.http import Client
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
    from upshot.sdk.session import current_run
    from upshot.sdk.stored_elsewhere import download_references

    run = current_run()
    is_offline = run is not None and run.offline
    folder = _default_root(artifact) if root is None else Path(root)
    stored = [entry.to_entry() for entry in entries if entry.ref is None]
    try:
        server = _client(is_offline=is_offline)
        download(server, stored, folder, cache=None if skip_cache else blob_cache(), what=artifact.source_name)
        references = [entry.to_entry() for entry in entries if entry.ref is not None]
        download_references(references, folder, allow_missing=allow_missing_references)
    except InvalidInput as error:
        raise InvalidArgument(str(error)) from error
    except Unavailable as error:
        if not is_offline:
            raise
        raise InvalidArgument(
            f"{artifact.name}: the run is offline, and not all of its files are in the cache of this machine; download "
            "it once while a server answers"
        ) from error
    if not (is_offline or skip_cache):
        remember_version(artifact.version_json(), (entry.to_entry() for entry in entries), artifact.asked_for)
    return str(folder)


def _client(*, is_offline: bool) -> Client:
    """Return the client. An offline run gets one, too: only what is not in the cache needs an answer."""
    try:
        return client()
    except NoServer:
        if not is_offline:
            raise
        from upshot.client.http import Client

        return Client("http://offline.invalid", None, is_local=True)


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
