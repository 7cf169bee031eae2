"""The files of process jobs: logs that turn over, folders that a hostile job has filled, records that appear once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.backends.process.logs import read_log
from upshot.backends.process.safe_files import NotRegularFile, empty, opened, read_plain
from upshot.backends.process.shim import LOG, LogWriter, Process, descendants, publish, read_process


@pytest.fixture
def folder(tmp_path) -> Iterator[int]:
    with opened(str(tmp_path)) as made:
        yield made


# --- logs -----------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 9000), st.booleans()), max_size=12),
    st.integers(1, 12_000),
)
def test_reads_follow_the_log_over_its_turns(tmp_path_factory, steps, limit_bytes):
    """
    Whatever is written and read when: each read is the exact continuation of the one before, or the newest
    that is kept, within the limit, and says so.
    """
    job = tmp_path_factory.mktemp("job")
    (job / LOG).mkdir()
    said, position = b"", None
    with opened(str(job)) as folder:
        log = LogWriter(folder, 8192)
        for size, reads in [*steps, (0, True)]:
            piece = bytes((len(said) + i) % 251 for i in range(size))
            log.write(piece)
            said += piece
            if not reads:
                continue
            before = int(position or 0)
            read = read_log(folder, position, limit_bytes=limit_bytes)
            position = read.position
            assert int(position) == len(said)
            assert len(read.data) <= limit_bytes
            assert said.endswith(read.data)
            assert read.skipped == (len(read.data) < len(said) - before)
            assert len(read.data) >= min(limit_bytes, len(said) - before, 4096)
    assert sum(path.stat().st_size for path in (job / LOG).iterdir()) <= 8192


@pytest.mark.parametrize("position", ["", "not ours", "-5", "1:2"])
def test_a_position_that_is_not_ours_is_the_beginning(folder, tmp_path, position):
    """Another backend's position does not end in an error."""
    (tmp_path / LOG).mkdir()
    LogWriter(folder, 8192).write(b"hello")

    assert read_log(folder, position, limit_bytes=100).data == b"hello"


def test_a_full_disk_does_not_hold_up_the_command(folder, tmp_path, monkeypatch):
    """What cannot be kept is left out; what comes afterwards is kept again."""
    (tmp_path / LOG).mkdir()
    log = LogWriter(folder, 8192)
    log.write(b"before,")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.write(b"lost,")
    log.write(b"after")

    assert read_log(folder, None, limit_bytes=100).data == b"before,after"


# --- files that are not believed ------------------------------------------------------------------


def test_a_plain_file_is_read(folder, tmp_path):
    """Up to its limit, and not a byte more; one that is not there is None."""
    (tmp_path / "a").write_bytes(b"12345")

    assert read_plain(folder, "a", limit_bytes=5) == b"12345"
    assert read_plain(folder, "b", limit_bytes=5) is None
    with pytest.raises(NotRegularFile, match="has 5 bytes, and at most 4 are taken"):
        read_plain(folder, "a", limit_bytes=4)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/cwd/{os.path.relpath(path)}")  # a socket's path may have no more than 107 characters


def make_second_name(path: Path) -> None:
    path.write_text("x")
    path.with_name("other").hardlink_to(path)


@pytest.mark.parametrize("make", [make_link, Path.mkdir, os.mkfifo, make_socket, make_second_name])
def test_what_is_no_plain_file_is_not_opened(folder, tmp_path, make):
    """Links, folders, FIFOs, sockets and files of two names are refused, and none is waited for."""
    make(tmp_path / "a")

    with pytest.raises(NotRegularFile):
        read_plain(folder, "a", limit_bytes=100)


def test_a_folder_is_emptied_of_everything(folder, tmp_path):
    """Names that collide with ours, links to elsewhere, shut folders: all goes, and nothing beyond."""
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    (outside / "kept").mkdir(parents=True)
    for path in (".1/.1/.1/.2", "a/.1", "a/b/.1/c", ".3/x"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / ".2").write_text("a file where a folder is to be moved")
    (tmp_path / "a" / "link").symlink_to(outside)
    (tmp_path / "a" / "b").chmod(0)

    empty(folder)

    assert list(tmp_path.iterdir()) == []
    assert (outside / "kept").is_dir()


def test_what_cannot_be_removed_is_said_and_the_rest_goes(folder, tmp_path, monkeypatch):
    """One file that stays does not keep the others."""
    for name in ("a", "b/stuck", "b/c", "d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    unlink = os.unlink

    def refuse(name, *, dir_fd):
        if name == "stuck":
            raise PermissionError(1, "Operation not permitted")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OSError, match="not empty"):
        empty(folder)

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["b", "b/stuck"]


def test_a_record_appears_once_and_whole(folder, tmp_path):
    """Who comes second is told so, and the first one's record stays."""
    first = publish(folder, "claim", {"who": 1})
    second = publish(folder, "claim", {"who": 2})

    assert first is not None
    assert second is None
    assert (tmp_path / "claim").read_text() == '{"who": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]
    os.close(first)


# --- processes ------------------------------------------------------------------------------------


def test_the_kernels_table_of_processes_is_read():
    """We are our parent's child, and of our session; a number that nobody has is nobody."""
    us = read_process(os.getpid())

    assert us is not None
    assert (us.parent, us.session, us.is_dead) == (os.getppid(), os.getsid(0), False)
    assert read_process(2**22 + 1) is None


def test_descendants_are_found_over_all_generations():
    """Children and theirs, and neither their ancestors nor others."""
    table = [Process(pid, parent, 1, 0, is_dead=False) for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 1))]

    assert descendants({2}, table) == {3, 4}
