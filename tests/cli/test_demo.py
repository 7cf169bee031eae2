"""`upshot demo`: the first thing that a newcomer runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

pytestmark = pytest.mark.live

_COMMAND = [sys.executable, "-m", "upshot", "demo"]


def test_it_shows_what_happens_and_that_all_of_it_arrived(tmp_path):
    """It tells the mutation, the events, who answered and who did not and why, and what arrived, verified."""
    done = subprocess.run(
        [*_COMMAND, "--data", str(tmp_path)], capture_output=True, text=True, timeout=110, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "the alias `production` is moved to model/fraud:v0",
        "event alias-added (production): model/fraud:v0",
        "answered by deploy-production: succeeded",
        "not by announce-version: ",
        "GitHub received POST /github/repos/acme/deploy/dispatches, answered 204: verified",
        "Slack received POST ",
        "webhook receiver received POST /hooks/models, answered 200: verified",
        "all of it arrived and was verified",
    ):
        assert words in done.stdout
    assert "not verified" not in done.stdout
    assert not (tmp_path / "endpoint.json").exists()


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
