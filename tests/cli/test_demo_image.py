"""The image of the sample jobs: this machine's Python, without a registry."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import PurePosixPath

import pytest
from click.testing import CliRunner

from upshot.cli import main
from upshot.demo import image as demo_image
from upshot.demo.image import IMAGE, NoEngine, example_image
from upshot.demo.sample_files import examples
from upshot.errors import Unavailable


@pytest.fixture(scope="module")
def docker():
    """Runs a command in the image, and gives what it printed."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers: apt-get install docker.io, start dockerd, and run again")

    def run(image, *command, options=()):
        done = subprocess.run(
            ["docker", "run", "--rm", "--network=none", *options, image, *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.live
def test_its_python_is_this_machines_and_whole(docker):
    """The same version, with its library, TLS and extensions, for any user and on a root that is read-only."""
    image = example_image(print)

    said = docker(
        image.name,
        "python3",
        "-c",
        "import csv, ctypes, decimal, hashlib, json, sqlite3, ssl, sys, tempfile, urllib.request, zoneinfo\n"
        "ssl.create_default_context(); tempfile.mkdtemp(); print(sys.version)",
        options=("--user=65534", "--read-only", "--tmpfs=/tmp"),
    )

    assert said.strip() == sys.version


@pytest.mark.live
def test_it_is_made_once_and_found_from_then_on(docker):
    """The second time says nothing and changes nothing; `latest`, which the samples name, is the same image."""
    first = example_image(print)
    said: list[str] = []

    second = example_image(said.append)

    assert said == []
    assert (second.name, second.id) == (first.name, first.id)
    assert docker(IMAGE, "python3", "-c", "import os; print(sorted(os.listdir('/job')))") == (
        "['evaluate.py', 'holdout.csv', 'quantize.py']\n"
    )


@pytest.mark.live
def test_another_script_makes_another_image(docker, tmp_path, monkeypatch):
    """Nobody runs an old script by a stale image; the Python below it is kept once."""
    monkeypatch.setattr(demo_image, "examples", lambda: tmp_path)
    shutil.copytree(examples(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "evaluate" / "evaluate.py").write_text("print('another')\n")
    usual = example_image(print)  # of the changed folder
    try:
        assert docker(usual.name, "python3", "/job/evaluate.py") == "another\n"
        monkeypatch.undo()
        assert example_image(print).id != usual.id
        assert docker(IMAGE, "python3", "-c", "print(open('/job/evaluate.py').read())") != "print('another')\n\n"
    finally:
        subprocess.run(["docker", "rmi", usual.name], capture_output=True, check=False)


@pytest.mark.live
def test_the_command_says_what_is_there(docker):
    """`upshot demo --image` makes it and nothing else."""
    done = CliRunner().invoke(main, ["demo", "--image"])

    assert done.exit_code == 0, done.output
    assert f"{IMAGE} is there: upshot-example:" in done.output
    assert "starting Upshot" not in done.output


def test_where_no_engine_answers_that_is_said(monkeypatch, tmp_path):
    """The reason names the place where none answers."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    with pytest.raises(NoEngine, match=r"no Docker engine answers: there is no socket .*/none\.sock"):
        example_image(print)


def test_an_engine_elsewhere_is_not_used(monkeypatch):
    """Its containers could not call back, and it has other files and perhaps another processor."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")

    with pytest.raises(NoEngine, match="another machine"):
        example_image(print)


def test_the_command_says_that_no_engine_answers(monkeypatch, tmp_path):
    """One line, and an exit code for scripts."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    done = CliRunner().invoke(main, ["demo", "--image"])

    assert done.exit_code != 0
    assert isinstance(done.exception, Unavailable | SystemExit)


def test_the_same_files_make_the_same_layer(tmp_path):
    """Byte for byte, whenever they were written: an engine keeps it once."""
    layers = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        (folder / "x.py").write_text("print(1)\n")
        layers.append(io.BytesIO())
        demo_image._write_layer(layers[-1], {PurePosixPath("/job/x.py"): folder / "x.py"})

    assert layers[0].getvalue() == layers[1].getvalue()
    with tarfile.open(fileobj=io.BytesIO(layers[0].getvalue())) as tar:
        assert tar.getnames() == ["job", "job/x.py"]


def test_what_is_sent_to_the_engine_is_an_archive(tmp_path):
    """Any number of bytes, a whole number of tar's blocks included."""
    for size in (0, 1, 511, 512, 513, 3_000_000):
        content = bytes(size)
        sent = b"".join(demo_image._packed("layer.tar", io.BytesIO(content))) + bytes(1024)
        with tarfile.open(fileobj=io.BytesIO(sent)) as tar:
            assert tar.extractfile("layer.tar").read() == content
