"""The data directory of `upshot up`: its locks, its secrets and its endpoint file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from upshot.client.endpoint import Endpoint, endpoint_path, read_endpoint, remove_endpoint, write_endpoint
from upshot.embedded.data_dir import ChildrenLock, DataDir, SupervisorLock
from upshot.errors import ConfigError

ENDPOINT = Endpoint("http://127.0.0.1:8080", "secret", "redis://…", "sqlite:///…", {"web": 1, "worker": 2})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_created_once_and_are_private(tmp_path):
    """Token and password stay the same after a restart, and other users cannot read them."""
    data_dir = DataDir(tmp_path / "data")

    assert data_dir.token() == DataDir(tmp_path / "data").token()
    assert data_dir.redis_password() == DataDir(tmp_path / "data").redis_password()
    assert mode(data_dir.path) == 0o700
    assert mode(data_dir.path / "token") == 0o600
    assert mode(data_dir.path / ".gitignore") == 0o600


def test_a_new_data_directory_is_ignored_by_git(tmp_path):
    """A directory that already exists gets no `.gitignore`, because it may contain the user's own files."""
    assert (DataDir(tmp_path / "data").path / ".gitignore").read_text() == "*\n"

    DataDir(tmp_path)
    assert not (tmp_path / ".gitignore").exists()


def test_a_directory_that_cannot_be_created_is_named(tmp_path):
    """If a file is in its place, the error names the path and the option that changes it."""
    (tmp_path / "data").write_text("a file")

    with pytest.raises(ConfigError, match=r"data.*--data"):
        DataDir(tmp_path / "data")


def test_a_second_supervisor_is_refused(tmp_path):
    """The error names the process and the address of the first one."""
    data_dir = DataDir(tmp_path)
    SupervisorLock(data_dir).write_holder("http://127.0.0.1:8080")

    with pytest.raises(ConfigError, match=rf"process {os.getpid()}, http://127\.0\.0\.1:8080"):
        SupervisorLock(data_dir)


def test_the_children_lock_is_held_while_a_child_process_lives(tmp_path):
    """The next supervisor can tell whether a process of a killed one still uses the directory."""
    data_dir = DataDir(tmp_path)
    lock = ChildrenLock(data_dir)
    assert lock.acquire()
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fd], stderr=subprocess.DEVNULL
    )
    os.close(lock.fd)

    next_lock = ChildrenLock(data_dir)
    assert not next_lock.acquire()
    child.communicate(b"\n")
    assert next_lock.acquire()


def test_an_endpoint_is_read_as_it_was_written(tmp_path):
    """The CLI reads what the supervisor writes. Other users cannot read it."""
    write_endpoint(tmp_path, ENDPOINT)

    assert read_endpoint(tmp_path) == ENDPOINT
    assert mode(endpoint_path(tmp_path)) == 0o600

    remove_endpoint(tmp_path)
    assert read_endpoint(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 1}'], ids=repr)
def test_an_invalid_endpoint_file_is_named(tmp_path, text):
    """A file with other content is a clear error instead of a crash."""
    endpoint_path(tmp_path).write_text(text)

    with pytest.raises(ConfigError, match=r"endpoint\.json"):
        read_endpoint(tmp_path)
