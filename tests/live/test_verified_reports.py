"""The sample automation `verify.yaml`: a job scores a version again, and a gate reads its verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.project.repository import ROOT
from tests.system import System
from tests.waiting import until
from upshot.receivers import Receivers

EXAMPLES = ROOT / "examples"
CONTAINER_OPTIONS = ("image:", "pull:")


def as_process(text: str) -> str:
    """Return a sample automation whose job is a process of this machine, as `upshot demo` changes it."""
    lines = [line for line in text.splitlines() if not line.strip().startswith(CONTAINER_OPTIONS)]
    command = f"[{json.dumps(sys.executable)}, {json.dumps(str(EXAMPLES / 'verify' / 'verify.py'))}"
    return "\n".join(lines).replace("[python3, /job/verify.py", command)


@pytest.fixture
def system(make_system: Callable[..., System], receivers: Receivers, tmp_path: Path) -> System:
    """Start an installation whose jobs are processes, with the sample automation."""
    backend: dict[str, Any] = {"uses": "process", "env": ["PATH", "LANG", "PYTHONPATH"]}
    if os.geteuid() == 0:
        backend["user"] = "root"
    jobs_file = {"backends": {"local": {**backend, "directory": str(tmp_path / "jobs")}}}
    (tmp_path / "jobs.yaml").write_text(json.dumps({**jobs_file, "queues": {"default": {"backend": "local"}}}))
    system = make_system(
        automations={"verify.yaml": as_process((ROOT / "automations" / "verify.yaml").read_text())},
        settings={
            "UPSHOT_JOBS_FILE": str(tmp_path / "jobs.yaml"),
            "UPSHOT_CACHE_DIR": str(tmp_path / "cache"),
            "UPSHOT_SECRET_SLACK_WEBHOOK": f"{receivers.url}/services/T/B/x",
            "PYTHONPATH": str(ROOT / "src"),
        },
    )
    system.start_web()
    system.start_worker()
    return system


def executions(system: System) -> list[dict[str, Any]]:
    """Return all executions, newest first."""
    items: list[dict[str, Any]] = system.api.get("/executions").json()["items"]
    return items


def ended(system: System, number: int) -> dict[str, Any]:
    """Wait until the newest of so many executions has ended, and return it."""
    until(
        lambda: len(found := executions(system)) == number and found[0]["state"] in ("succeeded", "failed"),
        f"execution {number} has ended",
    )
    return executions(system)[0]


def version(system: System, name: str) -> dict[str, Any]:
    """Return a version of the collection."""
    found: dict[str, Any] = system.api.get(f"/registries/model/collections/fraud/versions/{name}").json()
    return found


def test_a_false_report_is_found_out(system, tmp_path):
    """A version whose run has reported the truth is promoted; one whose run has lied is not, with the reason."""
    environment = {**system.environment, "UPSHOT_URL": system.url}

    def run(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    run(str(EXAMPLES / "train" / "train.py"), "--alias", "review")

    honest = ended(system, 1)
    assert honest["state"] == "succeeded", honest["reason"]
    promoted = version(system, "production")
    assert promoted["name"] == "v0"
    assert promoted["metadata"]["evaluation"]["passed"] is True

    lie = (EXAMPLES / "verify" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    run("-c", lie)

    false = ended(system, 2)
    assert false["state"] == "failed"
    assert "has reported 0.99" in false["reason"]
    assert version(system, "production")["name"] == "v0"
    verdict = version(system, "review")["metadata"]["evaluation"]
    assert verdict["passed"] is False
    assert verdict["metrics"]["accuracy"]["reported"] == 0.99
    run_of_the_lie = system.api.get(f"/projects/{verdict['producer'].replace('/', '/runs/')}").json()
    assert run_of_the_lie["job_type"] == "training"
