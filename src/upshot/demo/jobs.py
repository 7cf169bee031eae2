"""
How the jobs of the demo run: in containers where this machine's Docker answers, as processes where none does.

The sample automations name an image. A process runs without one, so what then answers events is a copy
of them whose jobs name this machine's own Python and the scripts themselves.
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
from upshot.demo.host_python import interpreter
from upshot.demo.image import (
    JOB_FOLDER,
    ExampleImage,
    NoEngine,
    engine_host,
    example_image,
    job_files,
    remove_containers,
)
from upshot.demo.sample_files import sample_automations
from upshot.embedded.docker_bridge import listen_on_bridge
from upshot.ids import new_id

_JOBS_FILE = """\
# Made by `upshot demo`.
backends:
  {name}: {backend}
queues:
  default: {{backend: {name}}}
"""
_USES_LAUNCH = re.compile(r"^\s+(?:- )?uses: launch$", re.MULTILINE)
_LABEL = "demo"
_OF_CONTAINERS = re.compile(r"^ +(?:image|pull|network):.*\n", re.MULTILINE)
_COMMAND = re.compile(rf"\[python3, {JOB_FOLDER}/(?P<script>[\w.]+)\]")


@dataclass(frozen=True, slots=True)
class JobsPlan:
    """How they run."""

    words: str  #: for people
    automations: Path  #: that answer the demo's events
    with_jobs: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)  #: environment variables of the system


@contextmanager
def plan_jobs(folder: Path, say: Callable[[str], None]) -> Iterator[JobsPlan]:
    """
    Decide, and make what is needed for it; afterwards remove what jobs that were cut off left behind.

    Args:
        folder: Of the demo's data, for files of ours.
        say: Told what takes a while.

    Raises:
        Unavailable: A Docker engine answers, and the image cannot be made there.
    """
    try:
        image = example_image(say)
        _check_way_back()
    except NoEngine as error:
        yield _as_processes(folder, error) if sys.platform == "linux" else _without(folder, error)
        return
    label = new_id("demo", SystemClock().now())
    try:
        yield _in_containers(folder, image, label)
    finally:
        remove_containers(f"{_LABEL}={label}")


def _check_way_back() -> None:
    """Raise NoEngine where containers could not call back: Docker without root has its bridge elsewhere."""
    listener, host = listen_on_bridge(0)
    if listener is not None:
        listener.close()
    if host is None:
        raise NoEngine(f"containers of the engine at {engine_host()} do not reach this machine")


def _in_containers(folder: Path, image: ExampleImage, label: str) -> JobsPlan:
    return JobsPlan(
        f"jobs run in containers of this machine's Docker, from {image.name} ({image.how})",
        sample_automations(),
        settings=_jobs_file(folder, {"uses": "docker", "host": engine_host(), "labels": {_LABEL: label}}),
    )


def _as_processes(folder: Path, why: NoEngine) -> JobsPlan:
    scripts = {there.name: here for there, here in job_files().items()}

    def without_container(text: str) -> str:
        own = _COMMAND.sub(lambda found: json.dumps([str(interpreter()), str(scripts[found["script"]])]), text)
        return _OF_CONTAINERS.sub("", own)

    # Root wants to be named; what runs here are our own samples.
    backend = {"uses": "process", **({} if os.geteuid() else {"user": "root"})}
    return JobsPlan(
        f"NO CONTAINERS: {why}\n"
        "So the same jobs run as processes of this machine; start Docker to see them in containers",
        _copied(folder, without_container),
        settings=_jobs_file(folder, backend),
    )


def _jobs_file(folder: Path, backend: Mapping[str, Any]) -> Mapping[str, str]:
    """The operator's file with one backend, as a setting."""
    path = folder.resolve() / "demo-jobs.yaml"
    path.write_text(_JOBS_FILE.format(name=backend["uses"], backend=json.dumps(backend)))
    return {"UPSHOT_JOBS_FILE": str(path)}


def _without(folder: Path, why: NoEngine) -> JobsPlan:
    return JobsPlan(
        f"NO JOBS: {why}\n"
        "Jobs as processes need Linux, so a version is promoted by hand; start Docker to see it evaluated",
        _copied(folder, lambda _: None),
        with_jobs=False,
    )


def _copied(folder: Path, change: Callable[[str], str | None]) -> Path:
    """The sample automations, those that launch changed; left out where the change gives None."""
    copies = folder / "demo-automations"
    shutil.rmtree(copies, ignore_errors=True)  # of an earlier demo on the same data
    copies.mkdir()
    for path in sample_automations().glob("*.yaml"):
        text: str | None = path.read_text()
        if text is not None and _USES_LAUNCH.search(text):
            text = change(text)
        if text is not None:
            (copies / path.name).write_text(text)
    return copies
