"""Copy a tree of files for a job. On file systems that can, a copy shares the blocks of the original (a reflink)."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

_FICLONE = 0x40049409  # from linux/fs.h
_CHUNK_BYTES = 8 * 1024 * 1024


def copy_tree(source: Path, target: Path, check: Callable[[], None]) -> None:
    """
    Copy a tree of directories and regular files. Everybody can read the copy, and only its top can be written to.

    Args:
        source: A directory that no job can write to.
        target: The copy, which is a new directory.
        check: Called at least once for every `_CHUNK_BYTES`. What it raises ends the copy.

    Raises:
        OSError: Something cannot be read or written.
    """
    for folder, _, names in os.walk(source, onerror=_raise):
        copied = target / Path(folder).relative_to(source)
        copied.mkdir()
        for name in names:
            check()
            _copy_file(f"{folder}/{name}", f"{copied}/{name}", check)
    for folder, _, _ in os.walk(target, topdown=False, onerror=_raise):
        if folder != str(target):  # a directory that cannot be written to cannot be moved
            os.chmod(folder, 0o555)  # noqa: PTH101, S103 - there may be many, below a directory that is private


def _raise(error: OSError) -> None:
    raise error


def _copy_file(source: str, target: str, check: Callable[[], None]) -> None:
    with open(source, "rb") as original, open(target, "xb") as copy:  # noqa: PTH123 - there may be many
        os.fchmod(copy.fileno(), 0o444)
        with contextlib.suppress(OSError):  # another file system, or one that cannot do it
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
            return
        left = os.fstat(original.fileno()).st_size
        while left:
            check()
            copied = os.sendfile(copy.fileno(), original.fileno(), None, min(left, _CHUNK_BYTES))
            if not copied:
                raise OSError(f"{source} became shorter while it was copied")
            left -= copied
