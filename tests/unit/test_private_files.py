"""Other users of the machine cannot read what Upshot stores, whichever command creates it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until
from upshot.cli.settings import settings_with
from upshot.private_files import create_private, is_private_directory, make_data_directory, make_private_directory
from upshot.wiring.parts import open_database


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def readable_for_others(directory: Path) -> list[str]:
    """Return what is in a directory, or is the directory itself, and is not private."""
    return [str(path) for path in (directory, *directory.rglob("*")) if not path.is_socket() and mode(path) & 0o077]


def test_the_migration_creates_private_files(tmp_path):
    """`upshot migrate` on a machine with the usual umask creates a directory and a database for its user only."""
    command = [sys.executable, "-m", "upshot", "migrate", "--data", str(tmp_path / "data")]
    subprocess.run(command, check=True, umask=0o022, capture_output=True)

    assert (tmp_path / "data" / "upshot.db").exists()
    assert readable_for_others(tmp_path / "data") == []


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_processes_create_private_files(tmp_path, command):
    """`upshot serve` and `upshot worker` create a directory, a database and its journals for their user only."""
    data = tmp_path / "data"
    environment = {**os.environ, "UPSHOT_REDIS_URL": "redis://127.0.0.1:1/0", "UPSHOT_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "upshot", command, "--data", str(data), "--automations", str(tmp_path)],
        umask=0o022,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (data / "upshot.db-wal").exists() or process.poll() is not None)
        assert process.poll() is None
        assert readable_for_others(data) == []
    finally:
        process.kill()
        process.wait()


def test_a_database_that_others_could_read_becomes_private(tmp_path):
    """An older release created the directory and the files in it for everyone."""
    settings = settings_with(data=tmp_path / "data")
    open_database(settings).close()
    for path in (settings.data, *settings.data.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)

    database = open_database(settings)
    try:
        assert readable_for_others(settings.data) == []
    finally:
        database.close()


def test_a_directory_with_other_files_keeps_its_mode(tmp_path):
    """`--data .` does not lock the users of a project out. The database in it is private."""
    (tmp_path / "README.md").write_text("a project")
    tmp_path.chmod(0o755)
    open_database(settings_with(data=tmp_path)).close()

    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "upshot.db") == 0o600


@pytest.mark.parametrize("names", [(), ("lost+found",), ("settings.env", "secrets", "jobs.yaml")])
def test_an_existing_data_directory_becomes_private(tmp_path, names):
    """An operator has prepared the directory."""
    tmp_path.chmod(0o755)
    for name in names:
        (tmp_path / name).mkdir()

    assert not make_data_directory(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_new_file_is_private_and_an_old_one_stays(tmp_path):
    """Creating a file twice keeps what is in it."""
    create_private(tmp_path / "file")
    (tmp_path / "file").write_text("kept")
    create_private(tmp_path / "file")

    assert mode(tmp_path / "file") == 0o600
    assert (tmp_path / "file").read_text() == "kept"


def test_a_link_is_not_a_private_directory(tmp_path):
    """Somebody else can point a link anywhere."""
    make_private_directory(tmp_path / "private")
    (tmp_path / "link").symlink_to(tmp_path / "private")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)

    assert is_private_directory(tmp_path / "private")
    assert not is_private_directory(tmp_path / "link")
    assert not is_private_directory(tmp_path / "open")
    assert not is_private_directory(tmp_path / "missing")


@pytest.mark.parametrize("name", ["job_feature%2Fx", "job[2]", "ü#?", "a b", "x?mode=memory", os.fsdecode(b"\xff")])
def test_the_database_is_in_the_directory_whatever_its_name(tmp_path, name):
    """A URL would need an escape for some of these characters."""
    open_database(settings_with(data=tmp_path / name)).close()

    assert (tmp_path / name / "upshot.db").stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
