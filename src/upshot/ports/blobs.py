"""
Stores of blobs: the bytes of files, found by the digest of their content.

The index (SQL) says which blobs there are and under which key. The files (a directory, or S3) hold the bytes. A key is
written once and never again: every upload gets a key of its own, so removing the bytes of one upload cannot remove
those of another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

PART_BYTES = 64 * 1024 * 1024  #: of every part of a large blob but the last; the largest blob of one request


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob whose bytes are stored and were verified."""

    digest: str  #: `sha256:…`
    size: int  #: bytes
    key: str  #: of its file


@dataclass(frozen=True, slots=True)
class BlobUpload:
    """The upload of a large blob in parts."""

    id: str  #: `upl_…`
    digest: str  #: that the client announced
    size: int  #: bytes that the client announced
    updated_at: datetime  #: of the last part
    parts: Mapping[int, str]  #: digest of each part that has arrived, by number, from 1

    @property
    def part_count(self) -> int:
        """Number of parts of the whole blob."""
        return -(-self.size // PART_BYTES)

    def part_size(self, number: int) -> int:
        """Return the bytes of a part, whose numbers begin with 1."""
        return min(PART_BYTES, self.size - (number - 1) * PART_BYTES)


class BlobIndex(Protocol):
    """Says which blobs are stored."""

    def find(self, digests: Collection[str]) -> Mapping[str, StoredBlob]:
        """Return the stored blobs among the digests."""
        ...

    def add(self, blobs: Sequence[StoredBlob], now: datetime) -> Sequence[StoredBlob]:
        """
        Add blobs whose bytes were verified.

        Returns:
            Those that are not added, because their content is stored under another key already.
        """
        ...

    def remove_unreachable(self, *, before: datetime, limit: int) -> Sequence[StoredBlob]:
        """
        Remove blobs that no manifest names and that were added before a time, and return them.

        Their files can be deleted after that: nobody finds them any more.
        """
        ...

    def create_upload(self, upload: BlobUpload) -> None:
        """Store a new upload."""
        ...

    def find_upload(self, upload_id: str) -> BlobUpload | None:
        """Return an upload, or None if it does not exist."""
        ...

    def find_upload_of(self, digest: str) -> BlobUpload | None:
        """Return the newest upload of a blob with this digest, so that a client can resume it."""
        ...

    def add_part(self, upload_id: str, number: int, digest: str, now: datetime) -> None:
        """Record a part that has arrived and was verified."""
        ...

    def remove_upload(self, upload_id: str) -> None:
        """Remove an upload."""
        ...

    def expired_uploads(self, *, before: datetime, limit: int) -> Sequence[str]:
        """Return ids of uploads without a new part since a time."""
        ...


class PartWriter(Protocol):
    """Writes one part of an upload."""

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        ...

    def close(self) -> None:
        """Make what was written durable."""
        ...

    def abort(self) -> None:
        """Stop without that."""
        ...


class BlobFiles(Protocol):
    """Holds bytes under keys. Every method raises `Unavailable` if the store does not answer or is full."""

    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        """Write a file. It is durable, and readers see all of it or nothing."""
        ...

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """
        Yield the bytes from `start` up to and without `end`.

        Raises:
            NotFound: There is no such file.
        """
        ...

    def local_path(self, key: str) -> str | None:
        """Return the path of the file on this machine, or None if it is elsewhere."""
        ...

    def open_part(self, upload: BlobUpload, number: int) -> PartWriter:
        """Begin to write a part of an upload. A part that was written before is replaced."""
        ...

    def finish(self, upload: BlobUpload, key: str) -> str:
        """
        Make the parts of an upload one file, and read it back once.

        The parts are durable after that and stay until `discard`.

        Returns:
            The digest of what was read. The caller decides whether the file stays.
        """
        ...

    def discard(self, upload_id: str) -> None:
        """Delete the parts of an upload."""
        ...

    def delete(self, keys: Collection[str]) -> None:
        """Delete files. A file that does not exist is no error."""
        ...

    def sign_download(self, key: str) -> str | None:
        """Return an address from which the file can be read for some time, or None if the store has none."""
        ...

    def sign_part(self, upload: BlobUpload, number: int) -> str | None:
        """Return an address to which the part can be sent for some time, or None if the store has none."""
        ...
