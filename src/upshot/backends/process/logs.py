"""Reads what a command has said, while its shim writes and turns over the pieces of the log."""

from __future__ import annotations

import contextlib
import os
import stat

from upshot.backends.process.safe_files import opened
from upshot.backends.process.shim import LOG
from upshot.backends.protocol import LogRead

_PIECE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


_TRIES = 10  # a piece lasts for megabytes; whoever is overtaken so often is played with


class _LogRotated(Exception):
    """A piece went while it was read."""


def read_log(job: int, position: str | None, *, limit_bytes: int) -> LogRead:
    """
    Read on from a position: a number of bytes from the beginning of all that was ever said.

    Args:
        job: The job's folder, open.
        position: Of an earlier read; None, or one that we did not give: from the beginning.
        limit_bytes: At most so much, the newest.
    """
    after = int(position) if position is not None and position.isdecimal() else 0
    for _ in range(_TRIES):
        with contextlib.suppress(_LogRotated), opened(LOG, job) as folder:
            return _read(folder, after, limit_bytes)
    return LogRead(b"", str(after))


def _read(folder: int, after: int, limit_bytes: int) -> LogRead:
    begins = sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
    if not begins:
        return LogRead(b"", str(after))
    end = begins[-1] + _size(folder, begins[-1])
    begin = max(min(after, end), end - limit_bytes, begins[0])
    data = b"".join(
        _cut(folder, piece, max(begin, piece), until)
        for piece, until in zip(begins, [*begins[1:], end], strict=True)
        if until > begin
    )
    return LogRead(data, str(begin + len(data)), skipped=begin > after)


def _open(folder: int, piece: int) -> int:
    try:
        file = os.open(str(piece), _PIECE, dir_fd=folder)
    except FileNotFoundError as error:
        raise _LogRotated from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"the log's piece {piece} is no plain file")
    return file


def _size(folder: int, piece: int) -> int:
    file = _open(folder, piece)
    try:
        return os.fstat(file).st_size
    finally:
        os.close(file)


def _cut(folder: int, piece: int, begin: int, end: int) -> bytes:
    """The bytes from `begin` up to `end`, counted over the whole log."""
    file = _open(folder, piece)
    try:
        return os.pread(file, end - begin, begin - piece)
    finally:
        os.close(file)
