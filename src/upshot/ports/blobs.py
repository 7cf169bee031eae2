"""
Stores of blobs: the bytes of files, found by the digest of their content.

The index (SQL) says which blobs there are and under which key. The files (a directory, or S3) hold the bytes. A key is
written once and never again: every upload gets a key of its own, so removing the bytes of one upload cannot remove
those of another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

UPLOADS = "uploads/"  #: keys of the parts of uploads begin with this, followed by the id of the upload
PART_BYTES = 64 * 1024 * 1024  #: of every part of a large blob but the last; the largest blob of one request


#: What to do about a blob whose bytes are lost.
LOST_REMEDY = "restore it from a backup, or log an artifact with the same content again"


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

    def part_start(self, number: int) -> int:
        """Return the position of the first byte of a part."""
        return (number - 1) * PART_BYTES

    def part_size(self, number: int) -> int:
        """Return the bytes of a part, whose numbers begin with 1."""
        return min(PART_BYTES, self.size - self.part_start(number))


class BlobIndex(Protocol):
    """Says which blobs are stored."""

    def find(self, digests: Collection[str]) -> Mapping[str, StoredBlob]:
        """Return the stored blobs among the digests."""
        ...

    def keep(self, digests: Collection[str], now: datetime) -> None:
        """Record that stored blobs are in use, so that they are not removed as unreachable soon."""
        ...

    def add(self, blobs: Sequence[StoredBlob], now: datetime) -> Sequence[StoredBlob]:
        """
        Add blobs whose bytes were verified.

        Returns:
            Those that are not added, because their content is stored under another key already.
        """
        ...

    def remove(self, blob: StoredBlob) -> None:
        """Remove a blob whose bytes are lost, unless it is stored under another key meanwhile."""
        ...

    def needed(self, digests: Collection[str]) -> Collection[str]:
        """Return the digests that a manifest names."""
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

    def touch_upload(self, upload_id: str, now: datetime) -> None:
        """Record progress of an upload, so that it does not expire."""
        ...

    def remove_upload(self, upload_id: str) -> None:
        """Remove an upload."""
        ...

    def remove_expired_uploads(self, *, before: datetime, limit: int) -> Sequence[str]:
        """Remove uploads without progress since a time, and return their ids. Their parts can be deleted after that."""
        ...


class BlobWriter(Protocol):
    """Writes one file, or one part of an upload."""

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        ...

    def close(self) -> None:
        """Make what was written durable."""
        ...

    def abort(self) -> None:
        """Stop without that. A file that is not complete is deleted."""
        ...


class BlobFiles(Protocol):
    """Holds bytes under keys. Every method raises `Unavailable` if the store does not answer or is full."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write small files. When it returns, all of them are durable. If it raises, none is needed."""
        ...

    def open_file(self, key: str) -> BlobWriter:
        """Begin to write a file of up to 64 MiB."""
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

    def open_part(self, upload: BlobUpload, number: int, digest: str) -> BlobWriter:
        """
        Begin to write a part of an upload. A part that was written before is replaced.

        Nothing is written to an upload that is being finished: all its parts have arrived already.
        """
        ...

    def part_size(self, upload: BlobUpload, number: int, digest: str) -> int | None:
        """Return the bytes of a part that a client has sent to a signed address, or None if it is not there."""
        ...

    def finish(self, upload: BlobUpload, key: str) -> str:
        """
        Make the parts of an upload one durable file, and read it back once.

        It can be repeated with the same key after a crash, and by several callers at the same time.

        Returns:
            The digest of what was read. The caller decides whether the file stays.

        Raises:
            NotFound: The parts are not there, and neither is the file.
        """
        ...

    def discard(self, upload_id: str) -> None:
        """Delete the parts of an upload."""
        ...

    def delete(self, keys: Collection[str]) -> None:
        """Delete files. A file that does not exist is no error."""
        ...

    def page_keys(self, *, after: str, limit: int) -> Sequence[tuple[str, datetime]]:
        """
        Return keys of files and of the parts of uploads, sorted, with the times when they were written.

        Args:
            after: Return keys after this one; empty to begin.
            limit: How many to return. A shorter answer is the last one.
        """
        ...

    def sign_download(self, key: str) -> str | None:
        """Return an address from which the file can be read for some time, or None if the store has none."""
        ...

    def sign_part(self, upload: BlobUpload, number: int, digest: str) -> str | None:
        """Return an address to which the part can be sent for some time, or None if the store has none."""
        ...


def upload_of(key: str) -> str | None:
    """Return the id of the upload whose parts have this key, or None if it is the key of a blob."""
    return key.split("/")[1] if key.startswith(UPLOADS) else None
