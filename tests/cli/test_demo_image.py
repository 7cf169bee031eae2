"""The image of the sample jobs, which is built without an image registry."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile

import pytest
from click.testing import CliRunner

import upshot
from tests.docker_engines import HOW_TO
from upshot.cli import main
from upshot.demo import image as demo_image
from upshot.demo.build_context import package_files, package_wheel
from upshot.demo.image import IMAGE, NoEngine, build_host_python, build_image
from upshot.demo.sample_files import examples


@pytest.fixture(scope="module")
def docker():
    """Return a function that runs a command in an image and returns its output."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")

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
def test_the_base_image_has_this_machines_whole_python(docker):
    """It has the same version with library, TLS and extensions, for any user, on a read-only root file system."""
    printed = docker(
        build_host_python(print),
        "python3",
        "-c",
        "import csv, ctypes, decimal, hashlib, json, sqlite3, ssl, sys, tempfile, urllib.request, zoneinfo\n"
        "ssl.create_default_context(); tempfile.mkdtemp(); print(sys.version)",
        options=("--user=65534", "--read-only", "--tmpfs=/tmp"),
    )

    assert printed.strip() == sys.version


@pytest.mark.live
def test_a_second_build_changes_nothing(docker):
    """The second build reports nothing and results in the same image, which has the scripts of all sample jobs."""
    first = build_image(print)
    reported: list[str] = []

    second = build_image(reported.append)

    assert reported == []
    assert second == first
    assert docker(IMAGE, "python3", "-c", "import os; print(sorted(os.listdir('/job')))") == (
        "['evaluate.py', 'holdout.csv', 'quantize.py', 'transactions.csv', 'verify.py']\n"
    )
    in_image = docker(IMAGE, "python3", "-c", "import upshot; print(upshot.Artifact('a', type='model').name)")
    assert in_image == "a\n"


@pytest.mark.live
def test_a_changed_script_changes_the_image(docker, tmp_path, monkeypatch):
    """No job runs an old script because of a stale image."""
    name = "upshot-example:changed"  # other tests run jobs in the usual image meanwhile
    monkeypatch.setattr(demo_image, "IMAGE", name)
    monkeypatch.setattr(demo_image, "examples", lambda: tmp_path)
    shutil.copytree(examples(), tmp_path, dirs_exist_ok=True)
    original = build_image(print)
    (tmp_path / "evaluate" / "evaluate.py").write_text("print('changed')\n")

    changed = build_image(print)

    try:
        assert changed.id != original.id
        assert docker(name, "python3", "/job/evaluate.py") == "changed\n"
    finally:
        subprocess.run(["docker", "rmi", name], capture_output=True, check=False)


@pytest.mark.live
def test_the_option_builds_only_the_image(docker):
    """`upshot demo --image` builds the image and starts nothing."""
    done = CliRunner().invoke(main, ["demo", "--image"])

    assert done.exit_code == 0, done.output
    assert f"{IMAGE} is built: sha256:" in done.output
    assert "starting Upshot" not in done.output


def test_where_this_python_runs_in_no_container_the_base_is_a_python_image(monkeypatch):
    """On another system than Linux, the build installs the package on a recent Python image that the engine has."""
    commands: list[tuple[str, ...]] = []
    contexts: list[bytes] = []

    def fake_docker(*arguments, stdin=None, **_options):
        commands.append(arguments)
        if stdin is not None:
            contexts.append(stdin.read())
        return "python:2.7\npython:3.6-slim\npython:3.12-slim\n" if arguments[:2] == ("image", "ls") else "sha256:1"

    monkeypatch.setattr(demo_image, "_docker", fake_docker)
    monkeypatch.setattr(demo_image, "is_portable", lambda: False)

    image = build_image(print)

    assert image.source == f"python:3.12-slim, the package upshot and the scripts in {examples()}"
    assert "BASE=python:3.12-slim" in commands[-1]
    with tarfile.open(fileobj=io.BytesIO(contexts[0])) as archive:
        assert {f"upshot-{upshot.__version__}-py3-none-any.whl", "evaluate/evaluate.py"} <= set(archive.getnames())
        dockerfile = archive.extractfile("Dockerfile")
        assert dockerfile is not None
        assert b"RUN pip install --no-cache-dir /tmp/upshot-*.whl" in dockerfile.read()


def test_the_wheel_of_the_package_can_be_installed(tmp_path):
    """The wheel that an image is built with has the package as it is installed here, and pip accepts it."""
    name, content = package_wheel()
    (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target"]

    subprocess.run([*command, tmp_path / "packages", tmp_path / name], check=True)

    installed = {str(path.relative_to(tmp_path / "packages")) for path in (tmp_path / "packages").rglob("*.py")}
    assert installed == {str(path) for path in package_files() if path.suffix == ".py"}


def test_without_an_engine_the_error_names_its_address(monkeypatch, tmp_path):
    """If no engine answers, the error contains the socket that was tried."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    with pytest.raises(NoEngine, match=r"(no Docker engine answers: .*/none\.sock|`docker` command is not installed)"):
        build_image(print)


def test_without_the_docker_command_the_error_says_so(monkeypatch, tmp_path):
    """The engine is reached through the `docker` command. Without it, the demo runs its jobs as processes."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NoEngine, match="the `docker` command is not installed"):
        build_image(print)


def test_an_engine_of_another_machine_is_not_used(monkeypatch):
    """Its containers could not call back to this machine."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")

    with pytest.raises(NoEngine, match="another machine"):
        build_image(print)


def test_the_option_fails_without_an_engine(monkeypatch, tmp_path):
    """`upshot demo --image` prints one line and exits with 1."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    done = CliRunner().invoke(main, ["demo", "--image"])

    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
