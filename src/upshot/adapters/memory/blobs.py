"""Blobs in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from typing_extensions import override

from upshot.clock import Clock, SystemClock
from upshot.errors import NotFound
from upshot.ports.blobs import UPLOADS, BlobFiles, BlobIndex, BlobUpload, BlobWriter, StoredBlob


class MemoryBlobs(BlobIndex):
    """
    `BlobIndex` in memory.

    Args:
        is_reachable: Whether a manifest names a digest.
    """

    def __init__(self, is_reachable: Callable[[str], bool] = lambda _: True) -> None:
        self.is_reachable = is_reachable
        self._blobs: dict[str, StoredBlob] = {}
        self._used_at: dict[str, datetime] = {}
        self._uploads: dict[str, BlobUpload] = {}

    @override
    def find(self, digests: Collection[str]) -> Mapping[str, StoredBlob]:
        return {digest: self._blobs[digest] for digest in digests if digest in self._blobs}

    @override
    def keep(self, digests: Collection[str], now: datetime) -> None:
        self._used_at.update((digest, now) for digest in digests if digest in self._blobs)

    @override
    def add(self, blobs: Sequence[StoredBlob], now: datetime) -> Sequence[StoredBlob]:
        self._used_at.update((blob.digest, now) for blob in blobs)
        return [blob for blob in blobs if self._blobs.setdefault(blob.digest, blob).key != blob.key]

    @override
    def remove(self, blob: StoredBlob) -> None:
        if self._blobs.get(blob.digest) == blob:
            del self._blobs[blob.digest], self._used_at[blob.digest]

    @override
    def needed(self, digests: Collection[str]) -> Collection[str]:
        return {digest for digest in digests if self.is_reachable(digest)}

    @override
    def remove_unreachable(self, *, before: datetime, limit: int) -> Sequence[StoredBlob]:
        old = sorted((used_at, digest) for digest, used_at in self._used_at.items() if used_at < before)
        unreachable = [digest for _, digest in old if not self.is_reachable(digest)][:limit]
        for digest in unreachable:
            del self._used_at[digest]
        return [self._blobs.pop(digest) for digest in unreachable]

    @override
    def create_upload(self, upload: BlobUpload) -> None:
        self._uploads[upload.id] = upload

    @override
    def find_upload(self, upload_id: str) -> BlobUpload | None:
        return self._uploads.get(upload_id)

    @override
    def find_upload_of(self, digest: str) -> BlobUpload | None:
        found = [upload for upload in self._uploads.values() if upload.digest == digest]
        return max(found, key=lambda upload: upload.id, default=None)

    @override
    def add_part(self, upload_id: str, number: int, digest: str, now: datetime) -> None:
        if upload := self._uploads.get(upload_id):
            self._uploads[upload_id] = replace(upload, parts={**upload.parts, number: digest}, updated_at=now)

    @override
    def touch_upload(self, upload_id: str, now: datetime) -> None:
        if upload := self._uploads.get(upload_id):
            self._uploads[upload_id] = replace(upload, updated_at=now)

    @override
    def remove_upload(self, upload_id: str) -> None:
        self._uploads.pop(upload_id, None)

    @override
    def remove_expired_uploads(self, *, before: datetime, limit: int) -> Sequence[str]:
        expired = [upload.id for upload in self._uploads.values() if upload.updated_at < before][:limit]
        for upload_id in expired:
            del self._uploads[upload_id]
        return expired


class MemoryBlobFiles(BlobFiles):
    """
    `BlobFiles` in memory.

    Args:
        clock: Returns the time at which a file is written.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._files: dict[str, bytes] = {}
        self._parts: dict[str, bytearray] = {}
        self._written_at: dict[str, datetime] = {}

    @override
    def write(self, files: Mapping[str, bytes]) -> None:
        for key, content in files.items():
            self._put(key, content)

    def _put(self, key: str, content: bytes) -> None:
        self._files[key] = content
        self._written_at[key] = self._clock.now()

    @override
    def open_file(self, key: str) -> BlobWriter:
        return _MemoryWriter(lambda content: self._put(key, content))

    @override
    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if key not in self._files:
            raise NotFound(f"{key}: the file of a blob is missing")
        yield self._files[key][start:end]

    @override
    def local_path(self, key: str) -> str | None:
        return None

    @override
    def open_part(self, upload: BlobUpload, number: int, digest: str) -> BlobWriter:
        def put(content: bytes) -> None:
            start = upload.part_start(number)
            self._written_at[f"{UPLOADS}{upload.id}"] = self._clock.now()
            parts = self._parts.setdefault(upload.id, bytearray(upload.size))
            parts[start : start + len(content)] = content

        return _MemoryWriter(put)

    @override
    def part_size(self, upload: BlobUpload, number: int, digest: str) -> int | None:
        return None  # there are no signed addresses

    @override
    def finish(self, upload: BlobUpload, key: str) -> str:
        if key not in self._files:
            if upload.size and upload.id not in self._parts:
                raise NotFound(f"{upload.id}: the file of a blob is missing")
            self._put(key, bytes(self._parts.get(upload.id, b"")))
        return f"sha256:{hashlib.sha256(self._files[key]).hexdigest()}"

    @override
    def discard(self, upload_id: str) -> None:
        self._parts.pop(upload_id, None)
        self._written_at.pop(f"{UPLOADS}{upload_id}", None)

    @override
    def delete(self, keys: Collection[str]) -> None:
        for key in keys:
            self._files.pop(key, None)
            self._written_at.pop(key, None)

    @override
    def page_keys(self, *, after: str, limit: int) -> Sequence[tuple[str, datetime]]:
        return sorted(item for item in self._written_at.items() if item[0] > after)[:limit]

    @override
    def sign_download(self, key: str) -> str | None:
        return None

    @override
    def sign_part(self, upload: BlobUpload, number: int, digest: str) -> str | None:
        return None


class _MemoryWriter(BlobWriter):
    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._content = bytearray()

    @override
    def write(self, chunk: bytes) -> None:
        self._content += chunk

    @override
    def close(self) -> None:
        self._put(bytes(self._content))

    @override
    def abort(self) -> None:
        """Forget what was written."""
