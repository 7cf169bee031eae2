import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from upshot.sdk.environment import (
    Environment,
    read_at_once,
    read_conda_environment,
    read_packages,
    read_slowly,
    without_credentials,
)


def git(*arguments):
    options = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *options, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_git(folder):
    """Remote, commit and difference are recorded, and no password of the remote."""
    git("init", "-q")
    (folder / "train.py").write_text("one\n")
    git("add", ".")
    git("commit", "-qm", "first")
    git("remote", "add", "origin", "https://user:secret@example.com/team/project.git")
    (folder / "train.py").write_text("two\n")

    values, files = read_slowly()

    assert values["git"]["commit"] == git("rev-parse", "HEAD")
    assert values["git"]["remote"] == "https://example.com/team/project.git"
    assert values["git"]["dirty"] is True
    assert b"-one\n+two\n" in files["code/diff.patch"]
    git("commit", "-qam", "second")
    values, files = read_slowly()
    assert values["git"]["dirty"] is False
    assert "code/diff.patch" not in files


def test_without_git(folder):
    """A directory that is not a repository has no commit."""
    values, files = read_slowly()

    assert values["git"] is None
    assert set(files) == {"environment/requirements.txt"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://token@example.com/a.git", "https://example.com/a.git"),
        ("https://user:pa@ss@example.com:8443/a", "https://example.com:8443/a"),
        ("git@example.com:team/a.git", "git@example.com:team/a.git"),
        ("ssh://git@example.com/a.git", "ssh://git@example.com/a.git"),
        ("/srv/git/a.git", "/srv/git/a.git"),
    ],
)
def test_credentials_of_a_remote(address, expected):
    """User and password of a web address are not recorded."""
    assert without_credentials(address) == expected


def test_packages():
    """The installed packages are lines of a requirements file, sorted."""
    lines = read_packages()

    names = [line.partition("==")[0].lower() for line in lines]
    assert names == sorted(names)
    assert any(line.startswith("pytest==") for line in lines)


def test_a_conda_environment(tmp_path):
    """The packages and channels of a conda environment are written as conda does."""
    folder = tmp_path / "env" / "conda-meta"
    folder.mkdir(parents=True)
    record = {
        "name": "python",
        "version": "3.11.7",
        "build": "h1",
        "channel": "https://conda.anaconda.org/conda-forge/linux-64",
    }
    (folder / "python.json").write_text(json.dumps(record))
    (folder / "damaged.json").write_text("{")

    text = read_conda_environment(tmp_path / "env")

    assert text == "name: env\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11.7=h1\n"
    assert read_conda_environment(tmp_path) is None


def test_graphics_cards(folder, monkeypatch):
    """Name, memory and driver of graphics cards are read from NVIDIA's program."""
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + 2 * "echo 'NVIDIA A100-SXM4, 81920, 535.104.05'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    values, _ = read_slowly()

    card = {"name": "NVIDIA A100-SXM4", "memory_bytes": 81920 * 1024 * 1024, "driver": "535.104.05"}
    assert values["gpus"] == [card, card]


def test_what_is_known_at_once(monkeypatch):
    """Arguments, program, machine and user are known when the run starts."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1", "x" * 5_000])

    info = read_at_once()

    assert info["argv"][:3] == ["train.py", "--lr", "0.1"]
    assert len(info["argv"][3]) == 1_000
    assert {"program", "python", "os", "hostname", "user", "cpu_count", "memory_bytes", "started_at"} <= set(info)
    assert info["notebook"] is False
    json.dumps(info)


def test_the_cells_of_a_notebook(monkeypatch):
    """The cells are recorded in the order in which they were run, after each cell."""
    work = []
    shell = type("ZMQInteractiveShell", (), {})()
    shell.user_ns = {"In": ["", "import upshot", "x = 1\nx"]}
    shell.events = SimpleNamespace(register=lambda event, function: work.append(function))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    files: dict[str, bytes] = {}
    environment = Environment(files.__setitem__, lambda info: None, save_code=False)

    environment.start()
    work[0](None)
    environment.finish(60)

    notebook = json.loads(files["code/notebook.ipynb"])
    assert ["".join(cell["source"]) for cell in notebook["cells"]] == ["import upshot", "x = 1\nx"]
    assert notebook["nbformat"] == 4
    assert environment.info["notebook"] is True
    assert b"pytest==" in files["environment/requirements.txt"]
