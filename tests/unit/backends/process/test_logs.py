"""Logs of process jobs, which are read while they are written and rotated."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.backends.process.logs import read_log
from upshot.backends.process.safe_files import open_dir
from upshot.backends.process.shim import LOG, LogWriter

LOG_BYTES = 8192  # the minimum: two segments of 4096 bytes


@given(
    st.lists(st.tuples(st.integers(0, 9000), st.booleans()), max_size=12),
    st.integers(1, 12_000),
)
def test_each_read_continues_where_the_last_one_ended(tmp_path_factory, steps, limit_bytes):
    """
    A read returns exactly what was written since the previous read. If that is more than the limit or
    than what is kept, it returns the newest part and reports that something was skipped.
    """
    job = tmp_path_factory.mktemp("job")
    (job / LOG).mkdir()
    written, position = b"", None
    with open_dir(str(job)) as dir_fd:
        log = LogWriter(dir_fd, LOG_BYTES)
        for size, reads in [*steps, (0, True)]:
            chunk = bytes((len(written) + i) % 251 for i in range(size))
            log.write(chunk)
            written += chunk
            if not reads:
                continue
            before = int(position or 0)
            read = read_log(dir_fd, position, limit_bytes=limit_bytes)
            position = read.position
            assert int(position) == len(written)
            assert len(read.data) <= limit_bytes
            assert written.endswith(read.data)
            assert read.skipped == (len(read.data) < len(written) - before)
            assert len(read.data) >= min(limit_bytes, len(written) - before, LOG_BYTES // 2)
    assert sum(path.stat().st_size for path in (job / LOG).iterdir()) <= LOG_BYTES


@pytest.mark.parametrize("position", ["", "unknown", "-5", "1:2"])
def test_an_unknown_position_means_the_beginning(dir_fd, tmp_path, position):
    """A position that another backend returned is not an error."""
    (tmp_path / LOG).mkdir()
    LogWriter(dir_fd, LOG_BYTES).write(b"hello")

    assert read_log(dir_fd, position, limit_bytes=100).data == b"hello"


def test_a_full_disk_does_not_block_the_command(dir_fd, tmp_path, monkeypatch):
    """What cannot be written is dropped. Later output is kept again."""
    (tmp_path / LOG).mkdir()
    log = LogWriter(dir_fd, LOG_BYTES)
    log.write(b"before,")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        log.write(b"lost,")
    log.write(b"after")

    assert read_log(dir_fd, None, limit_bytes=100).data == b"before,after"
