"""`upshot health` checks whichever process runs in its container."""

from __future__ import annotations

import os
import time

import pytest
from click.testing import CliRunner

from upshot.cli import main
from upshot.net import listen


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs the command with settings."""

    def run(**settings):
        monkeypatch.setenv("UPSHOT_DATA", str(tmp_path))
        for name, value in settings.items():
            monkeypatch.setenv(f"UPSHOT_{name.upper()}", str(value))
        return CliRunner().invoke(main, ["health"])

    return run


def test_a_worker_is_healthy_while_its_event_loop_runs(run, tmp_path):
    """If the file is no longer touched, the event loop hangs and the worker is unhealthy."""
    file = tmp_path / "worker"
    file.touch()
    assert run(heartbeat_file=file).exit_code == 0

    os.utime(file, (time.time() - 60,) * 2)
    result = run(heartbeat_file=file)
    assert result.exit_code == 1
    assert "has not run for 60 seconds" in result.output or "has not run for 6" in result.output


def test_without_the_file_of_a_worker_the_web_process_must_answer(run, tmp_path):
    """A worker that has not started yet is not healthy either, because nothing answers."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    result = run(heartbeat_file=tmp_path / "none", host="0.0.0.0", port=port)

    assert result.exit_code == 1
    assert "does not answer" in result.output
