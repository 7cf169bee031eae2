"""
A cache of blobs on this machine, shared by all processes of a user.

A blob is written under another name first, so that no reader gets half of it. Its digest is compared whenever it is
read, so that a damaged one is fetched again: a blob may be the same file as a download, which programs may change.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from upshot.client.file_digest import copy_and_hash
from upshot.clock import SystemClock

_BYTES_PER_GB = 1_000_000_000
_MAX_SHARE = 4  # a larger blob than this part of the cache would drive out everything else
_KEPT_PART = 0.8  # of the limit, after blobs have been removed
_STALE_SECONDS = 86_400  # after which an unfinished file was left by a crash


def cache_location(cache_dir: Path | None, cache_gb: float, *, data: Path) -> tuple[Path, int]:
    """
    Return the directory of the cache and its maximum number of bytes.

    Args:
        cache_dir: The setting of this name.
        cache_gb: The setting of this name.
        data: The data directory. It contains the cache of a user without a home.
    """
    if cache_dir is None:
        try:
            cache_dir = Path("~/.cache/upshot/artifacts").expanduser()
        except RuntimeError:  # a container may run as any user
            cache_dir = data / "cache"
    return cache_dir.absolute(), int(cache_gb * _BYTES_PER_GB)


class BlobCache:
    """
    The cache in a directory.

    Args:
        folder: The directory, which is created when it is needed.
        limit: Maximum number of bytes. `trim` keeps to it.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def copy_to(self, digest: str, target: Path) -> bool:
        """
        Write a blob to a file, which is replaced as a whole.

        Returns:
            Whether the cache has the blob, undamaged.
        """
        path = self._path(digest)
        try:
            source = path.open("rb")
        except OSError:
            return False
        with source:
            new_path = new_file_beside(target)
            try:
                with new_path.open("xb") as copy:
                    is_equal = copy_and_hash(source, copy) == digest
                if is_equal:
                    new_path.replace(target)
            finally:
                new_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            if is_equal:
                _mark_used(path)
            else:
                path.unlink()
        return is_equal

    def add(self, digest: str, source: Path) -> None:
        """Keep a file whose digest was just compared. A cache that cannot be written keeps nothing."""
        path = self._path(digest)
        with contextlib.suppress(OSError):
            if path.exists() or source.stat().st_size * _MAX_SHARE > self._limit:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            new_path = new_file_beside(path)
            try:
                try:
                    os.link(source, new_path)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(source, new_path)
                _mark_used(new_path)
                new_path.replace(path)
            finally:
                new_path.unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove the blobs that were not used for the longest time, if the cache is larger than its limit."""
        now = SystemClock().now().timestamp()
        blobs = []
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(OSError):  # another process removed it
                status = path.stat()
                if not path.name.startswith("."):
                    blobs.append((status.st_atime, status.st_size, path))
                elif now - status.st_ctime > _STALE_SECONDS:
                    path.unlink()
        total = sum(size for _, size, _ in blobs)
        if total <= self._limit:
            return
        for _, size, path in sorted(blobs):
            if total <= self._limit * _KEPT_PART:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self._folder / name[:2] / name


def _mark_used(path: Path) -> None:
    """Set the time of the last access, by which `trim` sorts. The time of the last change is the user's."""
    now = SystemClock().now().timestamp()
    os.utime(path, (now, path.stat().st_mtime))


def new_file_beside(path: Path) -> Path:
    """Return a path in the same directory that nothing uses."""
    return path.with_name(f".upshot-{secrets.token_urlsafe(9)}")
