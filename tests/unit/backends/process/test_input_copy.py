"""The copy of a job's input: complete, readable, and without more space where the file system can do that."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from upshot.backends.process import input_copy
from upshot.backends.process.input_copy import copy_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "model.bin").write_bytes(bytes(range(256)) * 100)
    (source / "empty").touch()
    return source


def refuse(*arguments: int) -> int:
    """Answer as a file system that cannot share blocks."""
    raise OSError(errno.EOPNOTSUPP, "not supported")


def go_on() -> None:
    """Let the copy go on."""


@pytest.mark.parametrize("chunk_bytes", [1000, 10**9])
def test_a_copy_is_complete_and_read_only(source, tmp_path, monkeypatch, chunk_bytes):
    """It has every file, and only its top can be changed, so that it can be moved."""
    monkeypatch.setattr(input_copy, "_CHUNK_BYTES", chunk_bytes)
    target = tmp_path / "target"

    copy_tree(source, target, go_on)

    assert (target / "sub" / "model.bin").read_bytes() == bytes(range(256)) * 100
    assert (target / "empty").read_bytes() == b""
    modes = {path.name: path.stat().st_mode & 0o777 for path in target.rglob("*")}
    assert modes == {"sub": 0o555, "model.bin": 0o444, "empty": 0o444}


def test_blocks_are_shared_where_the_file_system_can(source, tmp_path, monkeypatch):
    """Where a reflink works, no byte is copied. Where it does not, the bytes are."""
    asked = []

    def ioctl(target: int, request: int, original: int) -> int:
        asked.append(request)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    copy_tree(source, tmp_path / "shared", go_on)
    assert asked == [0x40049409, 0x40049409]  # FICLONE, as linux/fs.h defines it
    assert (tmp_path / "shared" / "sub" / "model.bin").stat().st_size == 0  # the kernel would have shared the blocks

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    copy_tree(source, tmp_path / "copied", go_on)
    assert (tmp_path / "copied" / "sub" / "model.bin").stat().st_size == 25_600


def test_a_copy_can_be_stopped(source, tmp_path, monkeypatch):
    """A job that was cancelled does not have to wait for the rest of a large file."""
    monkeypatch.setattr(input_copy, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    calls = 0

    def stop_later() -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        copy_tree(source, tmp_path / "target", stop_later)

    assert (tmp_path / "target" / "sub" / "model.bin").stat().st_size < 25_600


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path):
    """A copy without its files is no copy."""
    with pytest.raises(FileNotFoundError):
        copy_tree(tmp_path / "none", tmp_path / "target", go_on)
