"""docs/jobs-walkthrough.md can be followed, command by command."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.docker_engines import HOW_TO, find_engine
from tests.project.repository import ROOT, blocks
from tests.servers import free_port
from tests.waiting import until

PAGE = ROOT / "docs" / "jobs-walkthrough.md"
BIN = Path(sys.executable).parent
PORT = "9000"  # of the stand-ins, on the page


def _scripts(port):
    """What goes into a terminal each, with a port that is free, and without the clone's environment."""
    texts = [block.text.replace(PORT, port) for block in blocks("sh") if block.page == PAGE]
    return [text.replace(". .venv/bin/activate\n", "") for text in texts]


def _commands():
    lines = [line for block in blocks("console") if block.page == PAGE for line in block.text.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@contextmanager
def _terminal(script, folder, environment, name):
    """A script that runs until Ctrl-C."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"set -e\n{script}"],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(40)


@pytest.mark.live
@pytest.mark.timeout(240)
def test_the_walkthrough_can_be_followed(tmp_path):
    """Each command succeeds, the worse candidate is refused and the better one promoted, as the page says."""
    engine = find_engine()
    if engine is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")
    for folder in ("automations", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "UPSHOT_PORT": "0"}
    image, receivers, up = _scripts(str(free_port()))

    def run(command):
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    with ExitStack() as stack:
        made = run(image)
        assert "upshot-example:latest is there" in made.stdout, made.stderr
        got = stack.enter_context(_terminal(receivers, tmp_path, environment, "receivers"))
        until(lambda: "receiving on" in got.read_text())
        log = stack.enter_context(_terminal(up, tmp_path, environment, "up"))
        until(lambda: re.search(r"jobs +reach it at http://[\d.]+:\d+", log.read_text()), "Upshot is up")
        for command in _commands():
            until(lambda: run(command).returncode == 0, command)  # noqa: B023 - run within this turn; what follows takes seconds

        def executions():
            return run("upshot executions list").stdout

        until(lambda: "has an accuracy of 0.8133, below 0.87" in executions(), "the worse one is refused")
        until(
            lambda: '"accuracy": 0.9433' in run("upshot registry show model/fraud:production").stdout,
            "the better one is promoted",
        )
        until(lambda: got.read_text().count("/github/repos/acme/deploy/dispatches") == 2, "both are dispatched")
        history = run("upshot registry history model/fraud").stdout
        assert "quantize-production/quantize" in history
        assert "evaluate-candidate" in history

        def jobs():
            return [job["id"] for job in json.loads(run("upshot jobs list --json").stdout)]

        until(lambda: len(jobs()) == 5, "three evaluations, two quantizations")
        until(lambda: not any(engine.containers(f"upshot.job={job}") for job in jobs()), "their containers are removed")
    engine.close()
