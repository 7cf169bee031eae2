"""Blobs in a directory of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from typing_extensions import override

from upshot.errors import NotFound, Unavailable
from upshot.ids import new_nonce
from upshot.ports.blobs import PART_BYTES, BlobFiles, BlobUpload, PartWriter

_CHUNK_BYTES = 1024 * 1024


class LocalBlobs(BlobFiles):
    """
    Holds every blob as one file.

    Args:
        directory: Made with the first blob. Only its owner can read it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @override
    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        path = self._path(key)
        with _reporting(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_name(f"{path.name}.{new_nonce()}")
            try:
                with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            _sync_directory(path.parent)

    @override
    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        path = self._path(key)
        with _reporting(path), path.open("rb", buffering=0) as file:
            file.seek(start)
            remaining = end - start if end is not None else None
            while remaining is None or remaining > 0:
                chunk = file.read(_CHUNK_BYTES if remaining is None else min(_CHUNK_BYTES, remaining))
                if not chunk:
                    return
                if remaining is not None:
                    remaining -= len(chunk)
                yield chunk

    @override
    def local_path(self, key: str) -> str | None:
        return str(self._path(key))

    @override
    def open_part(self, upload: BlobUpload, number: int) -> PartWriter:
        path = self._upload_path(upload.id)
        with _reporting(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return _LocalPart(path, (number - 1) * PART_BYTES)

    @override
    def finish(self, upload: BlobUpload, key: str) -> str:
        source, path = self._upload_path(upload.id), self._path(key)
        digest = hashlib.sha256()
        with _reporting(source):
            if upload.size == 0:
                source.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                source.touch(mode=0o600)
            with source.open("rb", buffering=0) as file:
                os.fsync(file.fileno())
                buffer = bytearray(_CHUNK_BYTES)
                while size := file.readinto(buffer):
                    digest.update(memoryview(buffer)[:size])
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            source.replace(path)
            _sync_directory(path.parent)
        return f"sha256:{digest.hexdigest()}"

    @override
    def discard(self, upload_id: str) -> None:
        path = self._upload_path(upload_id)
        with _reporting(path):
            path.unlink(missing_ok=True)

    @override
    def delete(self, keys: Collection[str]) -> None:
        for key in keys:
            path = self._path(key)
            with _reporting(path):
                path.unlink(missing_ok=True)

    @override
    def sign_download(self, key: str) -> str | None:
        return None

    @override
    def sign_part(self, upload: BlobUpload, number: int) -> str | None:
        return None

    def _path(self, key: str) -> Path:
        return self._directory / key

    def _upload_path(self, upload_id: str) -> Path:
        return self._directory / "uploads" / upload_id


class _LocalPart(PartWriter):
    """All parts of an upload are in one file, each at its position."""

    def __init__(self, path: Path, position: int) -> None:
        self._path = path
        self._position = position
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    @override
    def write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with _reporting(self._path):
            while view:
                written = os.pwrite(self._descriptor, view, self._position)
                self._position += written
                view = view[written:]

    @override
    def close(self) -> None:
        try:
            with _reporting(self._path):
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    @override
    def abort(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{path}: the file of a blob is missing; restore it from a backup") from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror or error}; the store of blobs cannot be used now") from error


def _sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
