"""
How the demo runs its jobs: in containers if this machine's Docker answers, otherwise as processes.

The sample automations name an image. A process has no image, so without Docker the demo uses copies of
the automations whose jobs run the sample scripts with this machine's own Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upshot.clock import SystemClock
from upshot.demo.image import IMAGE, JOB_DIRECTORY, NoEngine, build_image, engine_host, remove_containers
from upshot.demo.sample_files import examples, sample_automations
from upshot.embedded.docker_bridge import listen_on_bridge
from upshot.ids import new_id

_JOBS_FILE = """\
# Written by `upshot demo`.
backends:
  {name}: {backend}
queues:
  default: {{backend: {name}}}
"""
_LABEL = "demo"
_USES_LAUNCH = re.compile(r"^\s+(?:- )?uses: launch$", re.MULTILINE)
_CONTAINER_OPTIONS = re.compile(r"^ +(?:image|pull|network):.*\n", re.MULTILINE)
_COMMAND = re.compile(rf"\[python3, {JOB_DIRECTORY}/(?P<script>[\w.]+)(?P<arguments>[^\]]*)\]")


@dataclass(frozen=True, slots=True)
class JobsPlan:
    """How the demo runs its jobs."""

    description: str  #: for people
    automations: Path  #: the directory of automation files that the demo uses
    with_jobs: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)  #: environment variables for `upshot up`


@contextmanager
def plan_jobs(data: Path, report: Callable[[str], None]) -> Iterator[JobsPlan]:
    """
    Decide how the jobs run, and prepare it. On exit, remove the containers of jobs that were interrupted.

    Args:
        data: The data directory of the demo, for generated files.
        report: Called with a line for people before a step that takes seconds.

    Raises:
        Unavailable: A Docker engine answers, but the image of the jobs cannot be built.
    """
    try:
        image = build_image(report)
        _check_callbacks()
    except NoEngine as error:
        yield _plan_processes(data, error) if sys.platform == "linux" else _plan_without_jobs(data, error)
        return
    label = new_id("demo", SystemClock().now())
    try:
        yield JobsPlan(
            f"jobs run in containers of this machine's Docker, from {IMAGE} ({image.source})",
            _copy_automations(data, lambda text: text),
            settings=_write_jobs_file(data, {"uses": "docker", "host": engine_host(), "labels": {_LABEL: label}}),
        )
    finally:
        remove_containers(f"{_LABEL}={label}")


def _check_callbacks() -> None:
    """Raise NoEngine if containers cannot call this machine, such as those of a Docker that runs without root."""
    listener, host = listen_on_bridge(0)
    if listener is not None:
        listener.close()
    if host is None:
        raise NoEngine(f"containers of the engine at {engine_host()} cannot reach this machine")


def _plan_processes(data: Path, reason: NoEngine) -> JobsPlan:
    def host_command(found: re.Match[str]) -> str:
        script = next(examples().glob(f"*/{found['script']}"))
        return f"[{json.dumps(sys.executable)}, {json.dumps(str(script))}{found['arguments']}]"

    def without_container(text: str) -> str:
        return _CONTAINER_OPTIONS.sub("", _COMMAND.sub(host_command, text))

    # The jobs import the package `upshot` as this program does.
    backend: dict[str, Any] = {"uses": "process", "env": ["PATH", "LANG", "PYTHONPATH"]}
    if os.geteuid() == 0:
        backend["user"] = "root"  # jobs run as root only if the jobs file says so; these are our own samples
    return JobsPlan(
        f"NO CONTAINERS: {reason}\n"
        "The same jobs run as processes of this machine instead; start Docker to see them in containers",
        _copy_automations(data, without_container),
        settings=_write_jobs_file(data, backend),
    )


def _plan_without_jobs(data: Path, reason: NoEngine) -> JobsPlan:
    return JobsPlan(
        f"NO JOBS: {reason}\n"
        "Jobs as processes need Linux, so the demo promotes a version by hand; start Docker to see it evaluated",
        _copy_automations(data, lambda _: None),
        with_jobs=False,
    )


def _write_jobs_file(data: Path, backend: Mapping[str, Any]) -> Mapping[str, str]:
    """Write a jobs file with one backend. Return the setting that names it."""
    path = data.resolve() / "demo-jobs.yaml"
    path.write_text(_JOBS_FILE.format(name=backend["uses"], backend=json.dumps(backend)))
    return {"UPSHOT_JOBS_FILE": str(path)}


def _copy_automations(data: Path, change: Callable[[str], str | None]) -> Path:
    """Copy the sample automations. Change those that launch jobs; leave out those for which `change` returns None."""
    copies = data / "demo-automations"
    shutil.rmtree(copies, ignore_errors=True)  # from an earlier demo on the same data directory
    copies.mkdir()
    for path in sample_automations():
        text: str | None = path.read_text()
        if text is not None and _USES_LAUNCH.search(text):
            text = change(text)
        if text is not None:
            (copies / path.name).write_text(text)
    return copies
