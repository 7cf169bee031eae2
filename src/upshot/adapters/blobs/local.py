"""Blobs in a directory of this machine, or in one that several machines share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TypeVar

from typing_extensions import override

from upshot.errors import BlobsUnavailable, NoSpace, NotFound
from upshot.ports.blobs import LOST_REMEDY, UPLOADS, BlobFiles, BlobUpload, BlobWriter

T = TypeVar("T")

WRITE_THREADS = 16  #: that write small files. A file system makes many files durable together in about one step
_FEW_ITEMS = 2  # that are not worth a thread
_CHUNK_BYTES = 1024 * 1024
_WRITABLE, _SEALED = 0o600, 0o400
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class LocalBlobs(BlobFiles):
    """
    Holds every blob as one file.

    A file is written under its own key at once, because nobody knows the key before the index has it. What a crash
    leaves behind is removed later.

    Args:
        directory: Made with the first blob. Only its owner can read it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._threads: ThreadPoolExecutor | None = None
        self._threads_lock = Lock()

    @override
    def write(self, files: Mapping[str, bytes]) -> None:
        contents = {self._path(key): content for key, content in files.items()}
        directories = {path.parent for path in contents}
        try:
            for directory in directories:
                _make_directory(directory)
            # Two passes: the first fsync writes the names and the lengths of many files to the disk's journal.
            self._in_threads(lambda item: _write_file(*item), contents.items())
            self._in_threads(_sync, contents)
            self._in_threads(_sync, directories)
        except BaseException:
            self.delete(files)
            raise

    def _in_threads(self, work: Callable[[T], object], items: Collection[T]) -> None:
        if len(items) <= _FEW_ITEMS:
            for item in items:
                work(item)
            return
        with self._threads_lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="blobs")
        results = [self._threads.submit(work, item) for item in items]
        errors = [error for result in results if (error := result.exception()) is not None]
        if errors:
            raise errors[0]

    @override
    def open_file(self, key: str) -> BlobWriter:
        path = self._path(key)
        with _reporting(path):
            _make_directory(path.parent)
            return _LocalFile(path)

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
    def open_part(self, upload: BlobUpload, number: int, digest: str) -> BlobWriter:
        path = self._upload_path(upload.id)
        with _reporting(path):
            _make_directory(path.parent)
            return _LocalPart(path, upload.part_start(number))

    @override
    def part_size(self, upload: BlobUpload, number: int, digest: str) -> int | None:
        return None  # there are no signed addresses

    @override
    def finish(self, upload: BlobUpload, key: str) -> str:
        source, path = self._upload_path(upload.id), self._path(key)
        with _reporting(source):
            if path.exists():  # an earlier attempt came so far, or another one is faster
                os.utime(path)
                return _hash_file(path)
            _make_directory(path.parent)
            if upload.size == 0:
                _make_directory(source.parent)
                os.close(os.open(source, os.O_RDONLY | os.O_CREAT, _WRITABLE))
            _seal(source)
            digest = _hash_file(source)
            try:
                _link(source, path)
            except FileExistsError:
                return _hash_file(path)
            _sync(path.parent)
        return digest

    @override
    def discard(self, upload_id: str) -> None:
        path = self._upload_path(upload_id)
        with _reporting(path):
            path.unlink(missing_ok=True)

    @override
    def delete(self, keys: Collection[str]) -> None:
        for key in keys:
            path = self._path(key)
            with _reporting(path), contextlib.suppress(FileNotFoundError):
                path.unlink()

    @override
    def page_keys(self, *, after: str, limit: int) -> Sequence[tuple[str, datetime]]:
        found: list[tuple[str, datetime]] = []
        with _reporting(self._directory):
            for directory in self._directories():
                prefix = f"{directory.relative_to(self._directory).as_posix()}/"
                if prefix < after and not after.startswith(prefix):
                    continue
                for name in sorted(path.name for path in directory.iterdir()):
                    if f"{prefix}{name}" > after:
                        with contextlib.suppress(FileNotFoundError):
                            written = datetime.fromtimestamp((directory / name).stat().st_mtime, UTC)
                            found.append((f"{prefix}{name}", written))
                    if len(found) == limit:
                        return found
        return found

    def _directories(self) -> Iterable[Path]:
        return sorted([*self._directory.glob("sha256/??"), *self._directory.glob(UPLOADS.rstrip("/"))])

    @override
    def sign_download(self, key: str) -> str | None:
        return None

    @override
    def sign_part(self, upload: BlobUpload, number: int, digest: str) -> str | None:
        return None

    def _path(self, key: str) -> Path:
        return self._directory / key

    def _upload_path(self, upload_id: str) -> Path:
        return self._directory / UPLOADS / upload_id


class _LocalFile(BlobWriter):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SEALED)

    @override
    def write(self, chunk: bytes) -> None:
        with _reporting(self._path):
            _write_all(self._descriptor, chunk)

    @override
    def close(self) -> None:
        with _reporting(self._path):
            try:
                try:
                    os.fsync(self._descriptor)
                finally:
                    os.close(self._descriptor)
                _sync(self._path.parent)
            except BaseException:
                self._path.unlink(missing_ok=True)
                raise

    @override
    def abort(self) -> None:
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)


class _LocalPart(BlobWriter):
    """
    All parts of an upload are in one file, each at its position.

    A client that was slow may still write a part that it has sent again meanwhile. So `finish` seals the file: it takes
    away the permission to write, under a lock, and every write looks at that under the same lock.
    """

    def __init__(self, path: Path, position: int) -> None:
        self._path = path
        self._position = position
        try:
            self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT, _WRITABLE)
        except PermissionError:
            if _is_writable(path.stat()):
                raise
            self._descriptor = None

    @override
    def write(self, chunk: bytes) -> None:
        if self._descriptor is None:
            return
        with _reporting(self._path):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            try:
                if _is_writable(os.fstat(self._descriptor)):
                    self._position += _write_all(self._descriptor, chunk, self._position)
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @override
    def close(self) -> None:
        if self._descriptor is None:
            return
        try:
            with _reporting(self._path):
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    @override
    def abort(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{path.name}: the file of a blob is missing; {LOST_REMEDY}") from error
    except OSError as error:
        kind = NoSpace if error.errno in _FULL else BlobsUnavailable
        raise kind(f"{path}: {error.strerror or error}; the store of blobs cannot be used now") from error


def _write_file(path: Path, content: bytes) -> None:
    with _reporting(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SEALED)
        try:
            _write_all(descriptor, content)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, content: bytes, position: int | None = None) -> int:
    view = memoryview(content)
    while view:
        written = os.write(descriptor, view) if position is None else os.pwrite(descriptor, view, position)
        view = view[written:]
        if position is not None:
            position += written
    return len(content)


def _hash_file(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return f"sha256:{hashlib.file_digest(file, hashlib.sha256).hexdigest()}"


def _seal(path: Path) -> None:
    """Let nobody write to the parts of an upload any more, and make them durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.fchmod(descriptor, _SEALED)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.utime(descriptor)  # it is new: the verification of a large file takes a while
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_writable(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_IWUSR)


def _link(source: Path, path: Path) -> None:
    """
    Give a file its own name. It has the old one, too, until that is removed, so it can be repeated.

    Raises:
        FileExistsError: The name is taken.
    """
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        source.rename(path)


def _make_directory(directory: Path) -> None:
    """Make a directory and those above it, whose names are durable then."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    with _reporting(directory):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        _sync(directory.parent)


def _sync(path: Path) -> None:
    """Make the content of a file, or the names in a directory, durable."""
    with _reporting(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
