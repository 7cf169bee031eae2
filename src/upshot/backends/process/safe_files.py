"""
Access files in directories that a job may write to.

The job may be hostile. Every path is opened one component at a time, and links are never followed.
"""

# ruff: noqa: PTH123, PTH208 - a job can swap a path while it is in use, but not an open directory

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from upshot.backends.process.shim import create_file

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}  # rename(2): something else has the new name
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: opening a FIFO does not wait


class NotRegularFile(Exception):
    """The file is too large, or not a regular file. The text says what it is."""


@contextlib.contextmanager
def open_dir(name: str, dir_fd: int | None = None) -> Iterator[int]:
    """Open a directory for a `with` block. Raise OSError if it is a link or not a directory."""
    fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def read_regular_file(dir_fd: int, name: str, *, limit_bytes: int) -> bytes | None:
    """
    Return the content of a file, or None if it does not exist.

    Raises:
        NotRegularFile: It is a link, a directory, a device, a FIFO or a socket, has several hard
            links, or is larger than the limit.
        OSError: It cannot be read.
    """
    try:
        # Check before opening: opening a device can have side effects.
        _check_regular(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), limit_bytes)
        fd = os.open(name, _FILE_FLAGS, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        _check_regular(os.fstat(fd), limit_bytes)
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise NotRegularFile(f"has more than {limit_bytes} bytes, which is the limit")
    return data


def _check_regular(status: os.stat_result, limit_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFLNK: "is a link",
            stat.S_IFDIR: "is a directory",
            stat.S_IFIFO: "is a named pipe",
            stat.S_IFSOCK: "is a socket",
        }
        raise NotRegularFile(kinds.get(stat.S_IFMT(status.st_mode), "is a device"))
    if status.st_nlink != 1:
        raise NotRegularFile(f"is a file with {status.st_nlink} names (hard links)")
    if status.st_size > limit_bytes:
        raise NotRegularFile(f"has {status.st_size} bytes, and the limit is {limit_bytes}")


def create_private_file(dir_fd: int, name: str, data: bytes, *, owner: tuple[int, int] | None) -> None:
    """
    Create a file that only its owner can read.

    Args:
        dir_fd: Open directory.
        name: Name of the file, without directories.
        data: Content.
        owner: uid and gid; None: this process's own.
    """
    fd = create_file(dir_fd, name, data, mode=0o400)
    try:
        if owner is not None:
            os.fchown(fd, *owner)
    finally:
        os.close(fd)


def create_private_dir(dir_fd: int, name: str, *, owner: tuple[int, int] | None) -> None:
    """Create a directory that only its owner can enter."""
    os.mkdir(name, 0o700, dir_fd=dir_fd)
    if owner is not None:
        with open_dir(name, dir_fd) as fd:
            os.fchown(fd, *owner)


def remove_contents(dir_fd: int) -> None:
    """
    Remove everything in a directory, however deeply nested.

    Nested directories are moved to the top and emptied there, so neither recursion nor the number of
    open files limits the depth.

    Raises:
        OSError: Something cannot be removed. Everything else is removed before the first such error is raised.
    """
    remover = _TreeRemover(dir_fd)
    while names := set(os.listdir(dir_fd)) - remover.stuck.keys():
        for name in names:
            remover.remove(name)
    for error in remover.stuck.values():
        raise error


class _TreeRemover:
    def __init__(self, top_fd: int) -> None:
        self.stuck: dict[str, OSError] = {}  #: error by name, for what cannot be removed from the top
        self._top_fd = top_fd
        self._moved = 0

    def remove(self, name: str) -> None:
        """Remove one entry of the top directory, or record why it cannot be removed."""
        try:
            if not _is_directory(self._top_fd, name):
                os.unlink(name, dir_fd=self._top_fd)
                return
            with _open_locked_dir(name, self._top_fd) as nested_fd:
                for inner in os.listdir(nested_fd):
                    with contextlib.suppress(OSError):  # then the directory is not empty, and `rmdir` fails
                        self._take_out(nested_fd, inner)
            os.rmdir(name, dir_fd=self._top_fd)
        except OSError as error:
            self.stuck[name] = error

    def _take_out(self, nested_fd: int, name: str) -> None:
        """Remove one entry of a nested directory, or move it to the top if it is a directory."""
        if not _is_directory(nested_fd, name):
            os.unlink(name, dir_fd=nested_fd)
            return
        with _open_locked_dir(name, nested_fd):  # a move changes its `..`, which needs write permission
            pass
        while True:
            self._moved += 1
            try:
                os.rename(name, f".{self._moved}", src_dir_fd=nested_fd, dst_dir_fd=self._top_fd)
            except OSError as error:
                if error.errno not in _NAME_TAKEN:
                    raise
            else:
                return


def _is_directory(dir_fd: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)


@contextlib.contextmanager
def _open_locked_dir(name: str, dir_fd: int) -> Iterator[int]:
    """Open a directory even if its owner has removed all permissions from it."""
    if not os.access(name, os.R_OK | os.W_OK | os.X_OK, dir_fd=dir_fd, follow_symlinks=False):
        os.chmod(name, 0o700, dir_fd=dir_fd)
    with open_dir(name, dir_fd) as fd:
        yield fd
