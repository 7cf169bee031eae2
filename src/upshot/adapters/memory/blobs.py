"""The index of blobs in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from typing_extensions import override

from upshot.ports.blobs import BlobIndex, BlobUpload, StoredBlob


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
