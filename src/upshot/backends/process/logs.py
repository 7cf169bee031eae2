"""Read the log of a command while its shim writes and rotates the log's segments."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from upshot.backends.process.safe_files import open_dir
from upshot.backends.process.shim import LOG
from upshot.backends.protocol import LogRead

_SEGMENT_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ATTEMPTS = 10  # A segment lasts for megabytes, so only a hostile job can delete segments so often during a read.


class _LogRotated(Exception):
    """A segment was deleted while the log was read."""


def read_log(job_fd: int, position: str | None, *, limit_bytes: int) -> LogRead:
    """
    Read the log from a position.

    Args:
        job_fd: The open job directory.
        position: Position that an earlier read returned: an offset in the whole log, in bytes. None
            and unknown formats mean the beginning.
        limit_bytes: Maximum number of bytes to return. If there are more, return the newest.
    """
    offset = int(position) if position is not None and position.isdecimal() else 0
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(_LogRotated), open_dir(LOG, job_fd) as log_fd:
            return _read(log_fd, offset, limit_bytes)
    return LogRead(b"", str(offset))


def _read(log_fd: int, offset: int, limit_bytes: int) -> LogRead:
    segments = sorted(int(name) for name in os.listdir(log_fd) if name.isdecimal())
    if not segments:
        return LogRead(b"", str(offset))
    with _open_segment(log_fd, segments[-1]) as fd:
        end = segments[-1] + os.fstat(fd).st_size
    start = max(min(offset, end), end - limit_bytes, segments[0])
    data = b""
    for segment, next_segment in zip(segments, [*segments[1:], end], strict=True):
        if next_segment > start:
            with _open_segment(log_fd, segment) as fd:
                begin = max(start, segment)
                data += os.pread(fd, next_segment - begin, begin - segment)
    return LogRead(data, str(start + len(data)), skipped=start > offset)


@contextlib.contextmanager
def _open_segment(log_fd: int, segment: int) -> Iterator[int]:
    try:
        fd = os.open(str(segment), _SEGMENT_FLAGS, dir_fd=log_fd)
    except FileNotFoundError as error:
        raise _LogRotated from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"the log segment {segment} is not a regular file")
        yield fd
    finally:
        os.close(fd)
