"""References: files of an artifact that are stored elsewhere, by `file://`, `https://` and `s3://` addresses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import unquote, urlsplit

from upshot.client.blob_cache import new_file_beside
from upshot.client.file_digest import copy_and_hash, hash_file
from upshot.domain.manifest import ManifestEntry
from upshot.errors import InvalidInput
from upshot.sdk.draft import find_files
from upshot.sdk.sdk_errors import InvalidArgument

_MAX_OBJECTS = 100_000
_HTTP = frozenset({"http", "https"})


def find_references(uri: str, name: str | None, *, checksum: bool, max_objects: int | None) -> list[ManifestEntry]:
    """
    Return the entries for an address: one, or one for each file below a directory or a key.

    Raises:
        InvalidArgument: It is not an address, nothing is there, or there are more files than `max_objects`.
        InvalidInput: The other server or the bucket does not have it.
    """
    parts = urlsplit(uri)
    if not parts.scheme:
        raise InvalidArgument(f"reference {uri!r}: the scheme is missing; write file:///…, https://… or s3://…")
    limit = _MAX_OBJECTS if max_objects is None else max_objects
    found = list(islice(_find(uri, parts.scheme, name, checksum=checksum), limit + 1))
    if len(found) > limit:
        raise InvalidArgument(f"reference {uri!r}: more than {limit:,} files are there; raise max_objects")
    return found


def download_references(entries: Iterable[ManifestEntry], folder: Path, *, allow_missing: bool = False) -> None:
    """
    Write what references point to into a directory, several at a time.

    Args:
        entries: References.
        folder: The directory of the artifact.
        allow_missing: Leave out what cannot be fetched.

    Raises:
        InvalidArgument: One is not there, it has changed, or its scheme is not supported.
        InvalidInput: The other server or the bucket does not have one.
    """
    from upshot.client.downloads import safe_target
    from upshot.client.uploads import run_in_threads

    def fetch(entry: ManifestEntry) -> None:
        target = safe_target(folder, entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch_reference(entry, target)
        except (InvalidInput, InvalidArgument):
            if not allow_missing:
                raise

    run_in_threads(fetch, entries)


def _find(uri: str, scheme: str, name: str | None, *, checksum: bool) -> Iterator[ManifestEntry]:
    path = urlsplit(uri).path
    default = unquote(PurePosixPath(path).name) or urlsplit(uri).netloc
    if scheme == "file":
        yield from _local_references(uri, name, checksum=checksum)
    elif not checksum:
        yield ManifestEntry(name or default, _hash_of_address(uri, None), None, uri)
    elif scheme == "s3":
        yield from _bucket_references(uri, name)
    elif scheme in _HTTP:
        from upshot.client.other_servers import describe  # loads the HTTP library

        size, etag = describe(uri)
        yield ManifestEntry(name or default, etag or _hash_of_address(uri, size), size, uri)
    else:
        yield ManifestEntry(name or default, _hash_of_address(uri, None), None, uri)


def _fetch_reference(entry: ManifestEntry, target: Path) -> None:
    uri = entry.ref or ""
    scheme = urlsplit(uri).scheme
    if target.is_file() and hash_file(target) == (entry.digest, entry.size):
        return
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
    if scheme == "s3":
        return str(_buckets(uri).fetch(uri, new_path) or "")
    raise InvalidArgument(
        f"{path}: {uri} cannot be downloaded here, because {scheme}:// is not supported; fetch it with its own client; "
        "download(allow_missing_references=True) downloads the rest, and `upshot download --stored` what is stored here"
    )


def _bucket_references(uri: str, name: str | None) -> Iterator[ManifestEntry]:
    buckets = _buckets(uri)
    key = buckets.key_of(uri)
    for found in buckets.find_objects(uri):
        inner = found.key.removeprefix(key).lstrip("/")
        is_single = found.key == key
        path = (name or PurePosixPath(key).name) if is_single else f"{name.rstrip('/')}/{inner}" if name else inner
        yield ManifestEntry(path, found.checksum or _hash_of_address(found.uri, found.size), found.size, found.uri)


def _buckets(uri: str) -> ModuleType:
    """Return the module for buckets, whose library is an extra."""
    try:
        from upshot.client import buckets
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f'{uri}: buckets need the extra s3: pip install "upshot[s3]" (the module {error.name} is not installed); '
            "or record the address alone with checksum=False"
        ) from error
    return buckets


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
