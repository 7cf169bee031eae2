"""Files in folders that a job may write to: reached step by step, never through a link, and not believed."""

# ruff: noqa: PTH123, PTH208 - a path could be swapped under us; an open folder cannot

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from upshot.backends.process.shim import write_new

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}  # rename(2): something else has the name
_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not to wait for who writes into a FIFO


class NotRegularFile(Exception):
    """What is there is no plain file, or too large a one; the text says what it is."""


@contextlib.contextmanager
def opened(name: str, within: int | None = None) -> Iterator[int]:
    """A folder, open; raises OSError where it is none, or a link."""
    folder = os.open(name, _FOLDER, dir_fd=within)
    try:
        yield folder
    finally:
        os.close(folder)


def read_plain(folder: int, name: str, *, limit_bytes: int) -> bytes | None:
    """
    Read a file; None when it is not there.

    Raises:
        NotPlain: It is a link, a folder, a device, a FIFO, a file of two names, or larger than the limit.
        OSError: It cannot be read.
    """
    try:
        # Before it is opened: to open a device can do something already.
        _check_plain(os.stat(name, dir_fd=folder, follow_symlinks=False), limit_bytes)
        file = os.open(name, _PLAIN, dir_fd=folder)
    except FileNotFoundError:
        return None
    with open(file, "rb", buffering=0) as source:
        _check_plain(os.fstat(file), limit_bytes)
        chunks = list(_chunks(source.fileno(), limit_bytes + 1))
    data = b"".join(chunks)
    if len(data) > limit_bytes:
        raise NotRegularFile(f"has more than the {limit_bytes} bytes that are taken")
    return data


def _chunks(file: int, most: int) -> Iterator[bytes]:
    while most > 0 and (chunk := os.read(file, min(most, 1024 * 1024))):
        most -= len(chunk)
        yield chunk


def _check_plain(found: os.stat_result, limit_bytes: int) -> None:
    kinds = {
        stat.S_IFLNK: "is a link",
        stat.S_IFDIR: "is a folder",
        stat.S_IFIFO: "is a named pipe",
        stat.S_IFSOCK: "is a socket",
    }
    if not stat.S_ISREG(found.st_mode):
        raise NotRegularFile(kinds.get(stat.S_IFMT(found.st_mode), "is a device"))
    if found.st_nlink != 1:
        raise NotRegularFile(f"is a file with {found.st_nlink} names (hard links)")
    if found.st_size > limit_bytes:
        raise NotRegularFile(f"has {found.st_size} bytes, and at most {limit_bytes} are taken")


def write_private(folder: int, name: str, data: bytes, *, owner: tuple[int, int] | None) -> None:
    """
    Make a file that its owner alone can read.

    Args:
        folder: Open folder.
        name: Of the file; one part of a path.
        data: Its content.
        owner: User and group; None: us.
    """
    file = write_new(folder, name, data, mode=0o400)
    try:
        if owner is not None:
            os.fchown(file, *owner)
    finally:
        os.close(file)


def make_folder(folder: int, name: str, *, owner: tuple[int, int] | None) -> None:
    """Make a folder that its owner alone can enter."""
    os.mkdir(name, 0o700, dir_fd=folder)
    if owner is not None:
        with opened(name, folder) as made:
            os.fchown(made, *owner)


def empty(folder: int) -> None:
    """
    Remove all that is in a folder, however deep it goes: what is nested is moved to its top, and emptied there.

    Raises:
        OSError: The first of what cannot be removed; the rest is.
    """
    clearance = _TreeRemover(folder)
    while names := set(os.listdir(folder)) - clearance.stuck.keys():
        for name in names:
            clearance.clear(name)
    for error in clearance.stuck.values():
        raise error


class _TreeRemover:
    def __init__(self, top: int) -> None:
        self.stuck: dict[str, OSError] = {}  #: what cannot be removed, by its name at the top
        self._top = top
        self._moved = 0

    def clear(self, name: str) -> None:
        """Remove one thing at the top, or note why that cannot be."""
        try:
            self._clear(name)
        except OSError as error:
            self.stuck[name] = error

    def _clear(self, name: str) -> None:
        if not _is_folder(self._top, name):
            os.unlink(name, dir_fd=self._top)
            return
        with _entered(name, self._top) as nested:
            for inner in os.listdir(nested):
                with contextlib.suppress(OSError):  # the folder is not empty then, and says so below
                    self._take_out(nested, inner)
        os.rmdir(name, dir_fd=self._top)

    def _take_out(self, nested: int, name: str) -> None:
        if not _is_folder(nested, name):
            os.unlink(name, dir_fd=nested)
            return
        with _entered(name, nested):  # to move it, its `..` is written
            pass
        while True:
            self._moved += 1
            try:
                os.rename(name, f".{self._moved}", src_dir_fd=nested, dst_dir_fd=self._top)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
            else:
                return


def _is_folder(folder: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


@contextlib.contextmanager
def _entered(name: str, within: int) -> Iterator[int]:
    """A folder, open, though its owner has shut it."""
    if not os.access(name, os.R_OK | os.W_OK | os.X_OK, dir_fd=within, follow_symlinks=False):
        os.chmod(name, 0o700, dir_fd=within)
    with opened(name, within) as folder:
        yield folder
