"""
The image of the sample jobs, built with `docker build` from `examples/` and the package `upshot`.

The base is an image with this machine's own Python and what `upshot` requires. No image registry and no package index
is needed. Where the machine's Python does not run in a container, as on macOS, the base is a Python image that Docker
already has, and the build installs what `upshot` requires. Docker's build cache makes a second build instant.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from upshot.backends.docker.options import DEFAULT_SOCKET
from upshot.demo.build_context import package_files, package_wheel, required_distributions, write_context
from upshot.demo.host_python import PACKAGES, interpreter, is_portable, write_build_context
from upshot.demo.sample_files import examples
from upshot.errors import Unavailable

IMAGE = "upshot-example:latest"  #: the image that the sample automations name
JOB_DIRECTORY = PurePosixPath("/job")  #: where the image has the scripts of the sample jobs

_BASE = "upshot-example-python"
_LOCAL = "unix://"
_MAX_ANSWER_SECONDS = 10.0
_MAX_BUILD_SECONDS = 600.0
_COPIED_SUFFIXES = frozenset({".csv", ".py"})  # of what examples/Dockerfile copies
# The lines of examples/Dockerfile that install the package `upshot`.
_INSTALLATION = re.compile(r"^COPY upshot-.*\nRUN pip install .*\n", re.MULTILINE)
_NEW_ENOUGH = re.compile(r"python:3(\.[1-9][0-9].*|-.*)?")


class NoEngine(Unavailable):
    """This machine has no Docker engine that can run the sample jobs. The text says why."""


@dataclass(frozen=True, slots=True)
class ExampleImage:
    """The image of the sample jobs."""

    id: str  #: `sha256:…`
    source: str  #: what it was built from, for people


def engine_host() -> str:
    """Return the address of this machine's engine: DOCKER_HOST, or Docker's default socket."""
    return os.environ.get("DOCKER_HOST") or f"{_LOCAL}{DEFAULT_SOCKET}"  # noqa: TID251 - Docker's variable, not ours


def build_image(report: Callable[[str], None]) -> ExampleImage:
    """
    Build the image of the sample jobs on this machine's engine.

    Args:
        report: Called with a line for people before a step that takes seconds.

    Raises:
        NoEngine: No engine of this machine answers, or it has no Python image and this machine cannot provide one.
        Unavailable: The engine answers, but the build fails.
    """
    host = engine_host()
    if not host.startswith(_LOCAL):
        raise NoEngine(f"DOCKER_HOST is {host}; containers of another machine cannot call back to this one")
    try:
        _docker("version", max_seconds=_MAX_ANSWER_SECONDS)
    except NoEngine:
        raise
    except Unavailable as error:
        raise NoEngine(f"no Docker engine answers: {error}") from error
    files: dict[PurePosixPath, Path | bytes] = {
        PurePosixPath(path.relative_to(examples())): path
        for path in examples().rglob("*")
        if path.suffix in _COPIED_SUFFIXES
    }
    dockerfile = (examples() / "Dockerfile").read_text()
    if is_portable():
        base, source = build_host_python(report), f"this machine's Python {platform.python_version()}"
        files |= package_files()
        dockerfile = _INSTALLATION.sub(f"COPY upshot {PACKAGES}/upshot\n", dockerfile)
    else:
        base = source = _python_image()
        wheel, content = package_wheel()
        files[PurePosixPath(wheel)] = content
    with tempfile.TemporaryFile() as context:
        write_context(context, dockerfile, files)
        context.seek(0)
        id_ = _docker("build", "--quiet", "--build-arg", f"BASE={base}", "--tag", IMAGE, "-", stdin=context)
    return ExampleImage(id_, f"{source}, the package upshot and the scripts in {examples()}")


def _python_image() -> str:
    """
    Return the name of a Python image that the engine has.

    Raises:
        NoEngine: It has none that is new enough.
    """
    names = _docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "python").split()
    if base := next(filter(_NEW_ENOUGH.fullmatch, names), None):
        return base
    raise NoEngine("Docker has no Python image; run `docker pull python:3-slim`")


def build_host_python(report: Callable[[str], None]) -> str:
    """
    Build a base image from this machine's own Python, unless the engine already has it.

    Args:
        report: Called with a line for people before the build.

    Returns:
        The name of the image. Its tag identifies the Python.

    Raises:
        Unavailable: A shared library cannot be found, or the build fails.
    """
    python = interpreter().stat()
    versions = sorted(f"{each.name}=={each.version}" for each in required_distributions())
    identity = (sys.version, platform.machine(), str(python.st_size), str(python.st_mtime_ns), *versions)
    name = f"{_BASE}:{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"
    if not _docker("image", "ls", "--quiet", name):
        report(f"building an image with this machine's Python {platform.python_version()}")
        with tempfile.TemporaryFile() as context:
            write_build_context(context)
            context.seek(0)
            _docker("build", "--quiet", "--tag", name, "-", stdin=context)
    return name


def remove_containers(label: str) -> None:
    """Remove all containers that have a label (`name=value`), and their volumes. Ignore errors of the engine."""
    with suppress(Unavailable):
        if ids := _docker("ps", "--all", "--quiet", "--filter", f"label={label}").split():
            _docker("rm", "--force", "--volumes", *ids)


def _docker(*arguments: str, stdin: IO[bytes] | None = None, max_seconds: float = _MAX_BUILD_SECONDS) -> str:
    """Run Docker's command-line client and return its output."""
    command = f"docker {arguments[0]}"
    # Docker contexts and other builders may belong to another engine than the one that the jobs run on.
    environment = {**os.environ, "DOCKER_HOST": engine_host(), "BUILDX_BUILDER": "default"}  # noqa: TID251 - passed on
    try:
        done = subprocess.run(
            ["docker", *arguments],  # noqa: S607 - wherever this machine has it
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=max_seconds,
            env=environment,
        )
    except FileNotFoundError as error:
        raise NoEngine("the `docker` command is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{command}` did not finish within {max_seconds:g} s") from error
    if done.returncode:
        raise Unavailable(f"`{command}` failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode().strip()
