"""
Trees of files in the cache of this machine, each with the files of one artifact version, for programs that read them.

A tree is pinned while something uses it, and then nothing removes it. A pin is a file, so other processes see it, and
it outlives the process that made it. That process removes it, or its successor does. A pin that nobody has renewed for
`_PIN_SECONDS` is void.

    CACHE/trees/.lock                   held while pins are made, and while trees are chosen for removal
    CACHE/trees/DIGEST-NONCE/files      the files
                             pins       one file per pin; the time of the directory is that of the last use
                             size       bytes of all files
                             complete   written when all files are there and verified
                             filling    locked by the process that writes the files
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from upshot.client.blob_cache import new_file_beside
from upshot.clock import SystemClock
from upshot.domain.manifest import ManifestEntry

_PIN_SECONDS = 8 * 86_400  # longer than the longest job
_REMOVED = ".gone-"
_LOCK_CHECK_SECONDS = 0.2
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class FileTree:
    """A tree that is pinned. Its name is random, so the same path elsewhere is another machine's view of it."""

    path: Path

    @property
    def files(self) -> Path:
        """The directory with the files of the version, and nothing else."""
        return self.path / "files"


class FileTrees:
    """
    The trees in the cache of a user.

    Every method may raise `OSError` if the cache cannot be written.

    Args:
        folder: The directory of the cache, which is created when it is needed.
        limit: Maximum number of bytes. `trim` keeps to it, except for what is pinned.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder / "trees"
        self._limit = limit

    # --- pins -------------------------------------------------------------------------------------

    def pin(self, digest: str, size: int, name: str) -> FileTree:
        """
        Return the tree with this digest, which may have no files yet, and keep it until `unpin`.

        Args:
            digest: Of the artifact version.
            size: Bytes of its files.
            name: Of the pin. It must be a file name.
        """
        with self._locked():
            prefix = digest.removeprefix("sha256:")
            tree = next(iter(self._folder.glob(f"{prefix}-*")), None)
            if tree is None:
                tree = self._folder / f"{prefix}-{secrets.token_urlsafe(9)}"
                for directory in ("pins", "files"):
                    (tree / directory).mkdir(parents=True)
                (tree / "size").write_text(str(size))
            (tree / "pins" / name).touch()
        return FileTree(tree)

    def pins(self) -> frozenset[str]:
        """Return the names of all pins."""
        return frozenset(path.name for path in self._folder.glob("*/pins/*"))

    def renew(self, names: Collection[str]) -> None:
        """Keep these pins from becoming void."""
        for path in self._folder.glob("*/pins/*"):
            if path.name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path)

    def unpin(self, names: Collection[str]) -> None:
        """Remove pins. They need not exist."""
        for path in self._folder.glob("*/pins/*"):
            if path.name in names:
                path.unlink(missing_ok=True)

    # --- files ------------------------------------------------------------------------------------

    def fill(
        self,
        tree: FileTree,
        entries: Collection[ManifestEntry],
        write: Callable[[Path], None],
        check: Callable[[], None],
    ) -> None:
        """
        Write the files of a pinned tree, unless they are there. Another process that does so is waited for.

        Args:
            tree: The tree.
            entries: Its files.
            write: Writes and verifies them in the directory that it gets, and replaces those that differ.
            check: Called again and again while another process writes. What it raises ends the wait.
        """
        with (tree.path / "filling").open("a") as lock:
            while not _lock_now(lock.fileno()):
                check()
                time.sleep(_LOCK_CHECK_SECONDS)
            if _is_complete(tree, entries):
                return
            write(tree.files)
            _finish(tree.files, {entry.path for entry in entries})
            mark = new_file_beside(tree.path / "complete")
            mark.write_text(json.dumps({"boot": _boot_id()}))
            mark.replace(tree.path / "complete")

    # --- removal ----------------------------------------------------------------------------------

    def trim(self) -> None:
        """Remove the trees that were not used for the longest time, if the cache is larger than its limit."""
        if not self._folder.is_dir():
            return
        with self._locked():
            for tree in self._excess():
                tree.rename(tree.with_name(f"{_REMOVED}{tree.name}"))
        for removed in self._folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(removed, ignore_errors=True)  # the next call removes what is left

    def _excess(self) -> Iterator[Path]:
        trees = [(_time(tree / "pins"), _size(tree), tree) for tree in self._folder.glob("[!.]*") if tree.is_dir()]
        total = sum(size for _, size, _ in trees)
        for _, size, tree in sorted(trees):
            if total <= self._limit:
                return
            if not _has_pins(tree):
                total -= size
                yield tree

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _finish(root: Path, paths: Collection[str]) -> None:
    """Let everybody read the files, and remove what an interrupted download has left beside them."""
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 - 100,000 files, which the users of containers read
        for name in names:
            path = f"{folder}/{name}"
            if path.removeprefix(f"{root}/") in paths:
                os.chmod(path, 0o444)  # noqa: PTH101
            else:
                os.unlink(path)  # noqa: PTH108


def _lock_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_complete(tree: FileTree, entries: Iterable[ManifestEntry]) -> bool:
    """
    Return whether the files have not changed since they were verified.

    A machine that lost power may have lost what it had not written to its disk, so each boot verifies them again.
    """
    try:
        with (tree.path / "complete").open() as mark:
            verified_at = os.fstat(mark.fileno()).st_mtime_ns
            if json.load(mark)["boot"] != _boot_id():
                return False
        for entry in entries:
            status = os.lstat(f"{tree.files}/{entry.path}")
            if status.st_size != entry.size or status.st_ctime_ns > verified_at:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _has_pins(tree: Path) -> bool:
    oldest = SystemClock().now().timestamp() - _PIN_SECONDS
    return any(_time(pin) >= oldest for pin in (tree / "pins").glob("*"))


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(tree: Path) -> int:
    try:
        return int((tree / "size").read_text())
    except (OSError, ValueError):
        return 0


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # only Linux has it
        return ""
