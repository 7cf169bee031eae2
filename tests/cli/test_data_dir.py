"""The data folder: who may work on it, and what it keeps to itself."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from upshot.client.endpoint import Endpoint, endpoint_path, read_endpoint, remove_endpoint, write_endpoint
from upshot.embedded.data_dir import ChildrenLock, DataDir, SupervisorLock
from upshot.errors import ConfigError

ENDPOINT = Endpoint("http://127.0.0.1:8080", "secret", "redis://…", "sqlite:///…", {"web": 1, "worker": 2})


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_are_closed_to_others(tmp_path):
    """Token and password stay the same over restarts, and other users cannot read them."""
    folder = DataDir(tmp_path / "data")

    assert folder.token() == DataDir(tmp_path / "data").token()
    assert folder.redis_password() == DataDir(tmp_path / "data").redis_password()
    assert mode(folder.path) == 0o700
    assert mode(folder.path / "token") == 0o600


def test_the_data_folder_is_never_committed(tmp_path):
    """A data folder that is made inside a git repository ignores itself; in a user's own nothing is ignored."""
    assert (DataDir(tmp_path / "data").path / ".gitignore").read_text() == "*\n"

    DataDir(tmp_path)
    assert not (tmp_path / ".gitignore").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """A data folder where a file stands is a clear error."""
    (tmp_path / "data").write_text("a file")

    with pytest.raises(ConfigError, match=r"data.*--data"):
        DataDir(tmp_path / "data")


def test_a_second_supervisor_is_told_who_was_first(tmp_path):
    """The one that comes second learns process and address of the one that runs."""
    folder = DataDir(tmp_path)
    SupervisorLock(folder).sign("http://127.0.0.1:8080")

    with pytest.raises(ConfigError, match=rf"process {os.getpid()}, http://127\.0\.0\.1:8080"):
        SupervisorLock(folder)


def test_a_part_holds_the_folder_for_as_long_as_it_lives(tmp_path):
    """While a process of a killed supervisor still works, the next one can see that it does."""
    folder = DataDir(tmp_path)
    lock = ChildrenLock(folder)
    assert lock.take()
    part = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor], stderr=subprocess.DEVNULL
    )
    os.close(lock.descriptor)

    next_one = ChildrenLock(folder)
    assert not next_one.take()
    part.communicate(b"\n")
    assert next_one.take()


def test_an_endpoint_is_read_as_it_was_written(tmp_path):
    """What the supervisor writes, the CLI reads; and nobody else may."""
    write_endpoint(tmp_path, ENDPOINT)

    assert read_endpoint(tmp_path) == ENDPOINT
    assert mode(endpoint_path(tmp_path)) == 0o600

    remove_endpoint(tmp_path)
    assert read_endpoint(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": 1}'], ids=repr)
def test_a_foreign_endpoint_file_is_named(tmp_path, text):
    """A file that is no endpoint is an error that says which file, not a crash."""
    endpoint_path(tmp_path).write_text(text)

    with pytest.raises(ConfigError, match=r"endpoint\.json"):
        read_endpoint(tmp_path)
