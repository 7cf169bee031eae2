"""The commands of docs/jobs-walkthrough.md work as the page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.docker_engines import HOW_TO, find_engine
from tests.project.repository import ROOT, blocks
from tests.servers import free_port
from tests.waiting import until

PAGE = ROOT / "docs" / "jobs-walkthrough.md"
BIN = Path(sys.executable).parent
RECEIVERS_PORT = "9000"  # on the page


def scripts(port):
    """Return the script of each terminal, with another port and without the virtual environment of the clone."""
    texts = [block.text.replace(RECEIVERS_PORT, port) for block in blocks("sh") if block.page == PAGE]
    return [text.replace(". .venv/bin/activate\n", "") for text in texts]


def commands():
    """Return the commands that the page shows behind a prompt."""
    lines = [line for block in blocks("console") if block.page == PAGE for line in block.text.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@contextmanager
def terminal(script, directory, environment, name):
    """Run a script in the background, and stop it with Ctrl-C. Yield the file with its output."""
    log = directory / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"set -e\n{script}"],
            cwd=directory,
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
def test_the_walkthrough_works(tmp_path):
    """Each command succeeds, the worse candidate is rejected, and the better one is promoted."""
    engine = find_engine()
    if engine is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")
    for directory in ("automations", "examples"):
        shutil.copytree(ROOT / directory, tmp_path / directory)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "UPSHOT_PORT": "0"}
    build_image, start_receivers, start_upshot = scripts(str(free_port()))

    def run(command):
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    def succeeds(command):
        return run(command).returncode == 0

    def job_ids():
        return [job["id"] for job in json.loads(run("upshot jobs list --json").stdout)]

    with ExitStack() as stack:
        built = run(build_image)
        assert "upshot-example:latest is built" in built.stdout, built.stderr
        receivers = stack.enter_context(terminal(start_receivers, tmp_path, environment, "receivers"))
        until(lambda: "receiving on" in receivers.read_text(), "the receivers listen")
        up = stack.enter_context(terminal(start_upshot, tmp_path, environment, "up"))
        until(lambda: re.search(r"jobs +reach it at http://[\d.]+:\d+", up.read_text()), "Upshot has started")
        for command in commands():
            until(partial(succeeds, command), command)  # an alias or a job may take a few seconds

        until(
            lambda: "has an accuracy of 0.8067, below 0.8533" in run("upshot executions list").stdout,
            "the worse candidate is rejected",
        )
        until(
            lambda: '"accuracy": 0.9467' in run("upshot registry show model/fraud:production").stdout,
            "the better candidate is promoted",
        )
        until(
            lambda: receivers.read_text().count("/github/repos/acme/deploy/dispatches") == 2,
            "both promoted versions are dispatched",
        )
        history = run("upshot registry history model/fraud").stdout
        assert "quantize-production/quantize" in history
        assert "evaluate-candidate" in history
        until(lambda: len(job_ids()) == 5, "three evaluations and two quantizations")
        until(
            lambda: not any(engine.containers(f"upshot.job={job_id}") for job_id in job_ids()),
            "the containers of the jobs are removed",
        )
    engine.close()
