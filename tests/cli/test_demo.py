"""`upshot demo`: the first thing that a newcomer runs."""

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
from upshot.demo.scenario import Scenario, Stage, shortcomings
from upshot.receivers import Receivers

pytestmark = pytest.mark.live

_COMMAND = [sys.executable, "-m", "upshot", "demo"]


TOLD = (
    "it is linked to the registry as model/fraud:v0, alias candidate",
    "not by deploy-production: alias is 'candidate', wanted 'production'",
    "answered by evaluate-candidate: succeeded",
    "|   accuracy  0.8700",
    'outputs {"accuracy": 0.87, ',
    "because of evaluate-candidate, by automation evaluate-candidate",
    "event alias-added (production) model/fraud:v0",
    "answered by deploy-production: succeeded",
    "because of quantize-production, by job quantize-production/quantize",
    "event alias-added (quantized) model/fraud:v1",
    "answered by evaluate-candidate: failed: step gate: model/fraud:v2 has an accuracy of 0.8133, below 0.87",
    "event alias-added (production) model/fraud:v3",
    "GitHub received POST /github/repos/acme/deploy/dispatches, answered 204: verified",
    "Slack received POST ",
    "webhook receiver received POST /hooks/models, answered 200: verified",
    "all of it happened, arrived and was verified",
)


def demo(*options, **environment):
    """All that it prints."""
    done = subprocess.run(
        [*_COMMAND, *options],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not verified" not in done.stdout
    return done.stdout


def _label_of(data):
    """What the containers of a demo bear, once it is decided that there are any."""
    path = data / "demo-jobs.yaml"
    found = re.search(r'"demo": "(\w+)"', path.read_text()) if path.exists() else None
    return found[1] if found else None


def test_it_plays_the_story_in_containers(tmp_path):
    """Three candidates, and for each what happened and why; nothing is left behind in the engine."""
    engine = find_engine()
    if engine is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")

    said = demo("--data", str(tmp_path))

    assert [words for words in TOLD if words not in said] == []
    assert "jobs run in containers of this machine's Docker, from upshot-example:" in said
    assert re.search(r"on docker, image upshot-example:latest \(sha256:[0-9a-f]{12}\), exit code 0", said)
    assert not (tmp_path / "endpoint.json").exists()
    assert engine.containers(f"demo={_label_of(tmp_path)}") == []
    engine.close()


def test_where_no_engine_answers_its_jobs_are_processes(tmp_path):
    """It says so plainly, and plays the same story."""
    said = demo(DOCKER_HOST=f"unix://{tmp_path}/none.sock")

    assert [words for words in TOLD if words not in said] == []
    assert f"NO CONTAINERS: no Docker engine answers: there is no socket {tmp_path}/none.sock" in said
    assert "So the same jobs run as processes of this machine" in said
    assert "on process, " in said


def test_where_no_job_can_run_a_version_is_promoted_by_hand(tmp_path, monkeypatch):
    """Elsewhere than on Linux, without an engine: it says so plainly, and shows the rest."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    # Only what decides how jobs run is told of another system; all else runs on this one.
    monkeypatch.setattr(demo_jobs, "sys", SimpleNamespace(platform="darwin"))

    done = CliRunner().invoke(main, ["demo"])

    assert done.exit_code == 0, done.output
    assert "NO JOBS: no Docker engine answers" in done.output
    assert "the alias `production` is moved to model/fraud:v0" in done.output
    assert "answered by deploy-production: succeeded" in done.output
    assert "evaluate-candidate" not in done.output


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        pytest.param("v9", "model/fraud:v0 should be in production; model/fraud:v9 is", id="another is in production"),
        pytest.param("v0", "the deployment of model/fraud:v0 was dispatched 0 times", id="nothing was dispatched"),
    ],
)
def test_what_did_not_happen_is_told(holder, words):
    """A story that ends otherwise than it should is a failure, however well the rest went."""
    receivers = Receivers()
    act = Stage(
        SystemClock().now(),
        is_promoted=True,
        version="model/fraud:v0",
        holders={"production": {"reference": f"model/fraud:{holder}", "metadata": {}}},
    )

    missing = shortcomings(Scenario(act.began, receivers, with_jobs=True, acts=[act]))

    assert words in missing
    assert "model/fraud:v0 was not evaluated" in missing


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_cleans_up_when_it_is_stopped(tmp_path, how):
    """Stopped halfway, it leaves neither processes nor its folder."""
    demo = subprocess.Popen(
        _COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    until(lambda: any(Path(tmp_path).glob("upshot-demo-*/redis/appendonlydir")), seconds=60)
    children = psutil.Process(demo.pid).children(recursive=True)
    assert children

    demo.send_signal(how)

    assert demo.wait(60) == 1
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert list(tmp_path.iterdir()) == []


def test_stopped_while_a_job_runs_it_leaves_no_container(tmp_path):
    """Whoever has seen enough leaves nothing behind in the engine."""
    engine = find_engine()
    if engine is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}, and run again")
    demo = subprocess.Popen([*_COMMAND, "--data", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    label = f"demo={until(lambda: _label_of(tmp_path))}"
    until(lambda: engine.containers(label))

    demo.send_signal(signal.SIGINT)

    assert demo.wait(60) == 1
    assert engine.containers(label) == []
    engine.close()
