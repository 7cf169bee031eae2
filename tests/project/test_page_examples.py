"""The examples on README and the documentation pages work."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.project.repository import PAGES, ROOT, blocks
from upshot.cli import main

README = ROOT / "README.md"
BIN = Path(sys.executable).parent
START_SECONDS = 60.0
MAKE_TARGET = re.compile(r"\bmake ([a-z-]+)\b")


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_automations_on_pages_are_valid(block, tmp_path, monkeypatch):
    """`upshot validate` accepts every `yaml` block."""
    monkeypatch.setenv("UPSHOT_EGRESS_ALLOW", "127.0.0.0/8")  # the tutorial allows its own machine
    (tmp_path / "block.yaml").write_text(block.text)

    result = CliRunner().invoke(main, ["validate", str(tmp_path)])

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_make_targets_on_pages_exist(page):
    """Every `make TARGET` that a page shows as code exists in the Makefile."""
    code = re.findall(r"`[^`\n]*`|^\s*make .*$", page.read_text(), re.MULTILINE)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {name for text in code for name in MAKE_TARGET.findall(text)} <= targets


@pytest.mark.live
def test_the_commands_of_readme_work(tmp_path):
    """The commands of README's first steps succeed in a fresh directory, and an automation answers the alias."""
    shutil.copytree(ROOT / "automations", tmp_path / "automations")
    for block in blocks("yaml"):
        if block.page == README and (name := re.match(r"# (automations/\S+)\n", block.text)):
            (tmp_path / name[1]).write_text(block.text)
    texts = [block.text for block in blocks("console") if block.page == README]
    commands = [line.removeprefix("$ ") for text in texts for line in text.splitlines() if line.startswith("$ ")]
    # Any free port. Without internet access, what the samples send is retried and stays on this machine.
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "UPSHOT_PORT": "0"}
    assert commands[0] == "upshot up"
    log = tmp_path / "up.log"

    with log.open("wb") as file:
        up = subprocess.Popen(["upshot", "up"], cwd=tmp_path, env=environment, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (tmp_path / ".upshot" / "endpoint.json").exists():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        for command in commands[1:]:
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        while "promote-to-production" not in _output("upshot executions list", tmp_path, environment):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(30) == 0, log.read_text()


def _output(command, folder, environment):
    return subprocess.run(
        command.split(), cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout
