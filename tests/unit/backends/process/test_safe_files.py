"""Files in directories that a hostile job may have changed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from upshot.backends.process.safe_files import NotRegularFile, read_regular_file, remove_contents


def test_a_regular_file_is_read_up_to_its_limit(dir_fd, tmp_path):
    """A larger file is refused. A file that does not exist is None."""
    (tmp_path / "a").write_bytes(b"12345")

    assert read_regular_file(dir_fd, "a", limit_bytes=5) == b"12345"
    assert read_regular_file(dir_fd, "b", limit_bytes=5) is None
    with pytest.raises(NotRegularFile, match="has 5 bytes, and the limit is 4"):
        read_regular_file(dir_fd, "a", limit_bytes=4)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/cwd/{os.path.relpath(path)}")  # the path of a socket has at most 107 characters


def make_second_name(path: Path) -> None:
    path.write_text("x")
    path.with_name("other").hardlink_to(path)


@pytest.mark.parametrize("make", [make_link, Path.mkdir, os.mkfifo, make_socket, make_second_name])
def test_only_regular_files_are_opened(dir_fd, tmp_path, make):
    """Links, directories, FIFOs, sockets and files with two names are refused without waiting for them."""
    make(tmp_path / "a")

    with pytest.raises(NotRegularFile):
        read_regular_file(dir_fd, "a", limit_bytes=100)


def test_everything_in_a_directory_is_removed(dir_fd, tmp_path):
    """Nested and locked directories and names that collide are removed. What a link points to stays."""
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    (outside / "kept").mkdir(parents=True)
    for path in (".1/.1/.1/.2", "a/.1", "a/b/.1/c", ".3/x"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / ".2").write_text("a file with the name that a nested directory gets when it is moved")
    (tmp_path / "a" / "link").symlink_to(outside)
    (tmp_path / "a" / "b").chmod(0)

    remove_contents(dir_fd)

    assert list(tmp_path.iterdir()) == []
    assert (outside / "kept").is_dir()


def test_one_file_that_cannot_be_removed_does_not_keep_the_others(dir_fd, tmp_path, monkeypatch):
    """Everything else is removed, and the error is raised at the end."""
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
        remove_contents(dir_fd)

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["b", "b/stuck"]
