"""Blobs in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from typing_extensions import override

from upshot.errors import NotFound
from upshot.ports.blobs import BlobFiles, BlobIndex, BlobUpload, PartWriter, StoredBlob


class MemoryBlobs(BlobIndex):
    """`BlobIndex` in memory. It does not see manifests, so it removes nothing."""

    def __init__(self) -> None:
        self._blobs: dict[str, StoredBlob] = {}
        self._uploads: dict[str, BlobUpload] = {}

    @override
    def find(self, digests: Collection[str]) -> Mapping[str, StoredBlob]:
        return {digest: self._blobs[digest] for digest in digests if digest in self._blobs}

    @override
    def add(self, blobs: Sequence[StoredBlob], now: datetime) -> Sequence[StoredBlob]:
        return [blob for blob in blobs if self._blobs.setdefault(blob.digest, blob) is not blob]

    @override
    def remove_unreachable(self, *, before: datetime, limit: int) -> Sequence[StoredBlob]:
        return []

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
    def remove_upload(self, upload_id: str) -> None:
        self._uploads.pop(upload_id, None)

    @override
    def expired_uploads(self, *, before: datetime, limit: int) -> Sequence[str]:
        return [upload.id for upload in self._uploads.values() if upload.updated_at < before][:limit]


class MemoryBlobFiles(BlobFiles):
    """`BlobFiles` in memory."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._parts: dict[str, dict[int, bytes]] = {}

    @override
    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        self._files[key] = b"".join(chunks)

    @override
    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if key not in self._files:
            raise NotFound(f"{key}: the file of a blob is missing")
        yield self._files[key][start:end]

    @override
    def local_path(self, key: str) -> str | None:
        return None

    @override
    def open_part(self, upload: BlobUpload, number: int) -> PartWriter:
        return _MemoryPart(self._parts.setdefault(upload.id, {}), number)

    @override
    def finish(self, upload: BlobUpload, key: str) -> str:
        parts = self._parts.get(upload.id, {})
        self._files[key] = b"".join(parts[number] for number in sorted(parts))
        return f"sha256:{hashlib.sha256(self._files[key]).hexdigest()}"

    @override
    def discard(self, upload_id: str) -> None:
        self._parts.pop(upload_id, None)

    @override
    def delete(self, keys: Collection[str]) -> None:
        for key in keys:
            self._files.pop(key, None)

    @override
    def sign_download(self, key: str) -> str | None:
        return None

    @override
    def sign_part(self, upload: BlobUpload, number: int) -> str | None:
        return None


class _MemoryPart(PartWriter):
    def __init__(self, parts: dict[int, bytes], number: int) -> None:
        self._parts = parts
        self._number = number
        self._content = b""

    @override
    def write(self, chunk: bytes) -> None:
        self._content += chunk

    @override
    def close(self) -> None:
        self._parts[self._number] = self._content

    @override
    def abort(self) -> None:
        """Forget what was written."""
