"""The examples on README and the documentation pages work."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.cli.embedded import Up
from tests.project.repository import PAGES, ROOT, blocks
from tests.servers import free_port
from tests.waiting import until
from upshot.cli import main
from upshot.receivers import DEFAULT_PORT

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
def test_the_first_steps_of_readme_succeed(tmp_path):
    """Every command of README's first steps succeeds in an empty directory without settings, and so does delivery."""
    texts = [block.text for block in blocks("console") if block.page == README]
    commands = [line.removeprefix("$ ") for text in texts for line in text.splitlines() if line.startswith("$ ")]
    init, up, enter, receivers, enter_again, *others = commands
    assert (up, receivers) == ("upshot up", "upshot receivers")
    assert (enter, enter_again) == ("cd my-models", "cd my-models")
    assert init.startswith("mkdir my-models && cd my-models && upshot init")
    # Ports that are free on this machine, in place of those on the page.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")}
    environment = {**inherited, "PATH": f"{BIN}:{os.environ['PATH']}", "UPSHOT_PORT": "0", "HOME": str(tmp_path)}
    port = str(free_port())

    def run(command):
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    folder = tmp_path
    assert "upshot receivers" in run(init)
    folder = tmp_path / "my-models"
    for path in (folder / "automations" / "first.yaml", folder / ".upshot" / "settings.env"):
        path.write_text(path.read_text().replace(str(DEFAULT_PORT), port))
    with (
        _terminal(up, folder, environment, tmp_path / "up.log"),
        _terminal(f"{receivers} --port {port}", folder, environment, tmp_path / "receivers.log"),
    ):
        until((folder / ".upshot" / "endpoint.json").exists, "Upshot is up", seconds=START_SECONDS)
        (program,) = (block.text for block in blocks("python") if block.page == README)
        (folder / "train.py").write_text(program)
        for command in others:
            run(command)
        until(lambda: run("upshot executions list").count("succeeded") == 2, "the automation has succeeded twice")
        assert (tmp_path / "receivers.log").read_text().count("→ 200  verified") == 2
        (automation,) = (block.text for block in blocks("yaml") if "# automations/first.yaml" in block.text)
        (folder / "automations" / "first.yaml").write_text(automation)
        run("upshot validate")


@contextmanager
def _terminal(command, folder, environment, log):
    """Run a command until the block ends, as in a terminal, and press Ctrl-C then."""
    with log.open("wb") as file:
        process = subprocess.Popen(command.split(), cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0, log.read_text()


@pytest.mark.live
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing: apt-get install curl")
def test_the_curl_examples_work(tmp_path):
    """The commands on the REST API's page work in order beside a running `upshot up`."""
    scripts = [block.text for block in blocks("sh") if block.page == ROOT / "docs" / "rest-api.md"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")}
    with Up(tmp_path) as up:
        script = "\n".join(scripts).replace("http://127.0.0.1:8080", up.endpoint["url"])
        script = script.replace(".upshot/token", str(up.data / "token"))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], env=environment, capture_output=True, text=True, check=False
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"reference":"model/fraud:v0"' in done.stdout
    assert '"items":[]' in done.stdout  # nothing has failed


@pytest.mark.live
def test_the_screenshot_shows_what_the_commands_print():
    """README's screenshot is made by a script from real output, and shows what the script prints now."""
    spec = importlib.util.spec_from_file_location("screenshot", ROOT / "scripts" / "screenshot.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def words(svg):
        texts = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)).replace("&#160;", " ")
        return {word for word in texts.split() if not re.search(r"\d", word)}  # without ids, times and signatures

    stored = (ROOT / "docs" / "assets" / "first-steps.svg").read_text()
    recorded = script.record()
    assert "succeeded" in words(recorded)
    assert words(recorded) == words(stored), "make screenshot"
    assert "@font-face" not in stored  # it loads nothing from other hosts
