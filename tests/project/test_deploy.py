"""The files in `deploy/` are valid, and name only what exists."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.project.repository import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; apt-get install prometheus")
    return found


def run(*command) -> None:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_accepts_the_alert_rules(promtool):
    """The rules have no mistakes. They fire when they should, and not on a healthy installation."""
    run(promtool, "check", "rules", PROMETHEUS / "alerts.yaml")
    run(promtool, "test", "rules", PROMETHEUS / "alerts_test.yaml")
