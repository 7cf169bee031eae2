"""Read local files: their digests, in constant memory."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from upshot.domain.manifest import ManifestEntry
from upshot.errors import InvalidInput

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to log, or a reference to one that is stored elsewhere."""

    entry: ManifestEntry
    source: Path | None  #: None for a reference
    may_change: bool = True  #: the file belongs to the program, which may write to it later
    original: Path | None = None  #: the file that `source` is a copy of


def digest_of(content: bytes) -> str:
    """Return the digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def hash_file(path: Path) -> tuple[str, int]:
    """
    Return the digest and the size of a file.

    Raises:
        InvalidInput: The file changes while it is read.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.sha256()
        size = 0
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
        raise InvalidInput(f"{path}: the file changes while it is read; add it when it is complete")
    return f"sha256:{digest.hexdigest()}", size


def read_range(path: Path, start: int, size: int) -> Iterator[bytes]:
    """
    Yield the bytes of a part of a file.

    Raises:
        InvalidInput: The file is shorter.
    """
    with path.open("rb") as file:
        file.seek(start)
        left = size
        while left:
            chunk = file.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise InvalidInput(f"{path}: the file has changed since it was added; add it again")
            left -= len(chunk)
            yield chunk


def hash_range(path: Path, start: int, size: int) -> str:
    """Return the digest of a part of a file."""
    digest = hashlib.sha256()
    for chunk in read_range(path, start, size):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def md5_of_range(path: Path, start: int, size: int) -> str:
    """Return the value of the header `Content-MD5` for a part of a file. S3 compares it with what arrives."""
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in read_range(path, start, size):
        digest.update(chunk)
    return base64.b64encode(digest.digest()).decode()


def copy_and_hash(source: BinaryIO, target: BinaryIO) -> str:
    """Copy a file, and return the digest of what was copied."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return f"sha256:{digest.hexdigest()}"
