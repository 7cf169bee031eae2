"""`upshot demo`, the first command that a newcomer runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner

from tests.docker_engines import HOW_TO, find_engine
from tests.waiting import until
from upshot.cli import main
from upshot.clock import SystemClock
from upshot.demo import jobs as demo_jobs
from upshot.demo.scenario import Scenario, Stage, failures
from upshot.receivers import Receivers

pytestmark = pytest.mark.live

COMMAND = [sys.executable, "-m", "upshot", "demo"]

SCENARIO = (
    "$ python3 examples/train/train.py --features log_amount,abroad,attempts",
    "| epoch  30  accuracy 0.8300  logged as fraud/logistic:v0",
    "a checkpoint is logged as fraud/logistic:v2, alias best",
    "fraud/logistic:v2 is linked to the registry as model/fraud:v0, alias candidate",
    "not by deploy-production: alias is 'candidate', wanted 'production'",
    "answered by evaluate-candidate: succeeded",
    "|   accuracy  0.8533",
    'outputs {"accuracy": 0.8533, ',
    "because of evaluate-candidate, by automation evaluate-candidate",
    "event alias-added (production) model/fraud:v0",
    "answered by deploy-production: succeeded",
    "because of quantize-production, by job quantize-production/quantize",
    "event alias-added (quantized) model/fraud:v1",
    "answered by evaluate-candidate: failed: step gate: model/fraud:v2 has an accuracy of 0.8067, below 0.8533",
    "event alias-added (production) model/fraud:v3",
    "GitHub received POST /github/repos/acme/deploy/dispatches, answered 204: verified",
    "Slack received POST ",
    "webhook receiver received POST /hooks/models, answered 200: verified",
    "$ upshot lineage model/fraud:quantized --up",
    "which used fraud/logistic:v8  model/fraud:v3 [candidate, production]",
    "$ upshot lineage model/fraud:production --down",
    "which logged fraud/logistic-int8:v1  model/fraud:v4 [latest, quantized]",
    "everything happened as expected, and every request arrived and was verified",
)


@pytest.fixture
def engine():
    """Return the machine's Docker engine."""
    engine = find_engine()
    if engine is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")
    yield engine
    engine.close()


def run_demo(*options, **environment):
    """Run the demo, check that it succeeds, and return its output."""
    done = subprocess.run(
        [*COMMAND, *options],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not verified" not in done.stdout
    return done.stdout


def demo_label(data):
    """Return the label of the demo's containers as soon as the demo has decided to use containers."""
    path = data / "demo-jobs.yaml"
    found = re.search(r'"demo": "(\w+)"', path.read_text()) if path.exists() else None
    return f"demo={found[1]}" if found else None


def test_the_demo_plays_its_scenario_in_containers(engine, tmp_path):
    """It reports what happened to three candidates and why, and leaves no container behind."""
    output = run_demo("--data", str(tmp_path))

    assert [line for line in SCENARIO if line not in output] == []
    assert "jobs run in containers of this machine's Docker, from upshot-example:latest (" in output
    assert re.search(r"on docker, image upshot-example:latest \(sha256:[0-9a-f]{12}\), exit code 0", output)
    assert not (tmp_path / "endpoint.json").exists()
    assert engine.containers(demo_label(tmp_path)) == []
    assert "What to do next:" in output
    assert "upshot init" in output


def test_without_docker_the_jobs_are_processes(tmp_path):
    """If no engine answers, the demo says so and plays the same scenario."""
    output = run_demo(DOCKER_HOST=f"unix://{tmp_path}/none.sock")

    assert [line for line in SCENARIO if line not in output] == []
    assert "NO CONTAINERS: no Docker engine answers: " in output
    assert f"{tmp_path}/none.sock" in output
    assert "The same jobs run as processes of this machine instead" in output
    assert "on process, " in output
    assert re.search(r"the run fraud/\w+ has started", output)


def test_where_no_job_can_run_a_version_is_promoted_by_hand(tmp_path, monkeypatch):
    """Without Docker and Linux, the demo says so and shows the rest."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    # Only the code that decides how jobs run sees another system.
    monkeypatch.setattr(demo_jobs, "sys", SimpleNamespace(platform="darwin"))

    done = CliRunner().invoke(main, ["demo"])

    assert done.exit_code == 0, done.output
    assert "NO JOBS: no Docker engine answers" in done.output
    assert "the alias `production` is moved to model/fraud:v0" in done.output
    assert "answered by deploy-production: succeeded" in done.output
    assert "evaluate-candidate" not in done.output


@pytest.mark.parametrize(
    ("holder", "failure"),
    [
        pytest.param("v9", "model/fraud:v0 should be in production; model/fraud:v9 is", id="another is in production"),
        pytest.param("v0", "the deployment of model/fraud:v0 was dispatched 0 times", id="nothing was dispatched"),
    ],
)
def test_an_unexpected_end_is_a_failure(holder, failure):
    """The demo fails if the registry or the receivers differ from what the scenario should lead to."""
    stage = Stage(
        SystemClock().now(),
        is_promoted=True,
        version="model/fraud:v0",
        alias_holders={"production": {"reference": f"model/fraud:{holder}", "metadata": {}}},
    )

    found = failures(Scenario(stage.started_at, Receivers(), with_jobs=True, stages=[stage]))

    assert failure in found
    assert "model/fraud:v0 was not evaluated" in found


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_demo_cleans_up(tmp_path, signal_number):
    """A demo that is stopped halfway leaves neither processes nor its data directory behind."""
    demo = subprocess.Popen(
        COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    until(lambda: any(Path(tmp_path).glob("upshot-demo-*/redis/appendonlydir")), seconds=60)
    children = psutil.Process(demo.pid).children(recursive=True)
    assert children

    demo.send_signal(signal_number)

    assert demo.wait(60) == 1
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_stopped_during_a_job_removes_the_container(engine, tmp_path):
    """Ctrl-C leaves no container behind."""
    demo = subprocess.Popen([*COMMAND, "--data", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    label = until(lambda: demo_label(tmp_path))
    until(lambda: engine.containers(label))

    demo.send_signal(signal.SIGINT)

    assert demo.wait(60) == 1
    assert engine.containers(label) == []
