"""
The image of the sample jobs, built with `docker build` from `examples/`.

The base is a Python image that Docker already has, or an image with this machine's own Python. No image
registry is needed. Docker's build cache makes a second build instant.
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
from pathlib import PurePosixPath
from typing import IO

from upshot.backends.docker.options import DEFAULT_SOCKET
from upshot.demo.host_python import interpreter, is_portable, write_build_context
from upshot.demo.sample_files import examples
from upshot.errors import Unavailable

IMAGE = "upshot-example:latest"  #: the image that the sample automations name
JOB_DIRECTORY = PurePosixPath("/job")  #: where the image has the scripts of the sample jobs

_BASE = "upshot-example-python"
_LOCAL = "unix://"
_MAX_ANSWER_SECONDS = 10.0
_MAX_BUILD_SECONDS = 600.0
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
    names = _docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "python").split()
    base = next(filter(_NEW_ENOUGH.fullmatch, names), None)
    if base:
        source = base
    elif is_portable():
        base, source = build_host_python(report), f"this machine's Python {platform.python_version()}"
    else:
        raise NoEngine("Docker has no Python image; run `docker pull python:3-slim`")
    id_ = _docker("build", "--quiet", "--build-arg", f"BASE={base}", "--tag", IMAGE, str(examples()))
    return ExampleImage(id_, f"{source} and the scripts in {examples()}")


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
    identity = (sys.version, platform.machine(), str(python.st_size), str(python.st_mtime_ns))
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
