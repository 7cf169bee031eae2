"""A reader can follow docs/tutorial.md, command by command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.project.repository import ROOT, blocks
from tests.servers import free_port
from tests.waiting import until

PAGE = ROOT / "docs" / "tutorial.md"
BIN = Path(sys.executable).parent
PORT = "9000"  # of the receiver, on the page


@contextmanager
def _terminal(script, directory, environment, name):
    """Run a script until the block ends, and yield the file with its output."""
    log = directory / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=directory, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(40)


@pytest.mark.live
def test_the_tutorial_can_be_followed(tmp_path):
    """The receiver gets the first alias at once, the second after it was down for a while, and a script's."""
    port = str(free_port())
    scripts = [block.text.replace(PORT, port) for block in blocks("sh") if block.page == PAGE]
    install, up, receiver, *commands = scripts
    (automation,) = (block.text for block in blocks("yaml") if block.page == PAGE)
    assert "pip install '.[server]'" in install
    (tmp_path / "automations").mkdir()
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "UPSHOT_PORT": "0", "HOME": str(tmp_path)}

    def run(script):
        done = subprocess.run(
            ["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    validate, fire, look, fire_again, train = commands
    (program,) = (block.text for block in blocks("python") if block.page == PAGE)
    (tmp_path / "train.py").write_text(program)
    with ExitStack() as stack:
        stack.enter_context(_terminal(up, tmp_path, environment, "up"))
        until((tmp_path / ".upshot" / "endpoint.json").exists, "Upshot is up")
        (tmp_path / "automations" / "notify.yaml").write_text(automation.replace(PORT, port))
        assert "1 automation is valid" in run(validate)
        until(lambda: "notify-my-service" in run("upshot automations list"), "the automation is loaded")
        with _terminal(receiver, tmp_path, environment, "receiver") as received:
            until(lambda: "receiving on" in received.read_text())
            run(fire)
            until(lambda: '"accuracy":0.93' in received.read_text(), "the first version is delivered")
            assert "succeeded" in run(look)
        assert re.search(r"exe_\S+ +notify-my-service .* waiting ", run(fire_again))
        with _terminal(receiver, tmp_path, environment, "receiver") as received:
            until(lambda: '"accuracy":0.95' in received.read_text(), "the second version is delivered")
            assert "logged by run demo/" in run(train)
            until(lambda: '"accuracy":0.97' in received.read_text(), "the version of the script is delivered")
