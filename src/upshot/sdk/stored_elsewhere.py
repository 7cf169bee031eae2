"""References: files of an artifact that are stored elsewhere, by `file://` and `https://` addresses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from upshot.client.blob_cache import new_file_beside
from upshot.client.file_digest import copy_and_hash, hash_file
from upshot.domain.manifest import ManifestEntry
from upshot.sdk.draft import find_files
from upshot.sdk.sdk_errors import InvalidArgument

_MAX_OBJECTS = 100_000
_HTTP = frozenset({"http", "https"})


def find_references(uri: str, name: str | None, *, checksum: bool, max_objects: int | None) -> list[ManifestEntry]:
    """
    Return the entries for an address: one, or one for each file of a local directory.

    Raises:
        InvalidArgument: It is not an address, or nothing is there.
    """
    parts = urlsplit(uri)
    if not parts.scheme:
        raise InvalidArgument(f"reference {uri!r}: the scheme is missing; write file:///…, https://… or s3://…")
    if parts.scheme == "file":
        return list(islice(_local_references(uri, name, checksum=checksum), max_objects or _MAX_OBJECTS))
    path = name or unquote(PurePosixPath(parts.path).name) or parts.netloc
    if parts.scheme in _HTTP and checksum:
        from upshot.client.other_servers import describe  # loads the HTTP library

        size, etag = describe(uri)
        return [ManifestEntry(path, etag or _hash_of_address(uri, size), size, uri)]
    return [ManifestEntry(path, _hash_of_address(uri, None), None, uri)]


def fetch_reference(entry: ManifestEntry, target: Path) -> None:
    """
    Write what a reference points to into a file, and compare it with what was recorded.

    Raises:
        InvalidArgument: It is not there, it has changed, or its scheme is not supported.
    """
    uri = entry.ref or ""
    scheme = urlsplit(uri).scheme
    new_path = new_file_beside(target)
    try:
        digest = _fetch(uri, scheme, entry.path, new_path)
        is_equal = entry.size in (None, new_path.stat().st_size)
        if entry.digest not in {digest, _hash_of_address(uri, entry.size)} or not is_equal:
            raise InvalidArgument(f"{entry.path}: {uri} has changed since the artifact was logged")
        new_path.replace(target)
    finally:
        new_path.unlink(missing_ok=True)


def _fetch(uri: str, scheme: str, path: str, new_path: Path) -> str:
    """Write what an address points to into a file, and return its checksum."""
    if scheme == "file":
        try:
            with _local_path(uri).open("rb") as source, new_path.open("xb") as copy:
                return copy_and_hash(source, copy)
        except OSError as error:
            raise InvalidArgument(f"{path}: {uri} cannot be read: {error.strerror or error}") from error
    if scheme in _HTTP:
        from upshot.client.other_servers import fetch  # loads the HTTP library

        return fetch(uri, new_path) or ""
    raise InvalidArgument(
        f"{path}: {uri} cannot be downloaded here, because {scheme}:// is not supported; fetch it with its own client, "
        "and call download(allow_missing_references=True) for the rest"
    )


def _local_references(uri: str, name: str | None, *, checksum: bool) -> Iterator[ManifestEntry]:
    path = _local_path(uri)
    if path.is_dir():
        prefix = f"{name}/" if name else ""
        for inner, file in find_files(path):
            yield _local_entry(f"{prefix}{inner}", file, file.absolute().as_uri(), checksum=checksum)
    elif path.is_file():
        yield _local_entry(name or path.name, path, uri, checksum=checksum)
    else:
        raise InvalidArgument(f"reference {uri!r}: {path} does not exist")


def _local_entry(path: str, file: Path, uri: str, *, checksum: bool) -> ManifestEntry:
    if checksum:
        digest, size = hash_file(file)
        return ManifestEntry(path, digest, size, uri)
    size = file.stat().st_size
    return ManifestEntry(path, _hash_of_address(uri, size), size, uri)


def _local_path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _hash_of_address(uri: str, size: int | None) -> str:
    """Return the digest of a reference without a checksum."""
    return f"sha256:{hashlib.sha256(json.dumps([uri, size]).encode()).hexdigest()}"
