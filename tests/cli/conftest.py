"""One running Upshot for the tests of commands, with stand-ins for what it talks to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.cli.embedded import Up
from tests.waiting import until
from upshot.cli import main
from upshot.receivers import GITHUB_TOKEN, Receivers, ReceiversThread

AUTOMATIONS = """\
name: deploy
on:
  alias-added: {registry: model, alias: production}
steps:
  - id: dispatch
    uses: github-dispatch
    with:
      repository: acme/deploy
      token: "{{ secrets.GITHUB_TOKEN }}"
      event-type: promoted
      client-payload: {model: "{{ collection.name }}"}
---
name: fail
on:
  custom: {name: please-fail}
steps:
  - uses: github-dispatch
    with: {repository: acme/missing, token: "{{ secrets.GITHUB_TOKEN }}", event-type: nobody}
"""


@dataclass(frozen=True, slots=True)
class World:
    """A running Upshot, its receivers, and the command line to talk to it."""

    up: Up
    receivers: Receivers

    def run(self, *words: str, exit_code: int = 0) -> Result:
        """Run a command as a user would; fails unless it exits so."""
        folder = "--folder" if words[:2] == ("events", "emit") else "--data"  # an event has data of its own
        result = CliRunner().invoke(main, [*words, folder, str(self.up.data)], prog_name="upshot")
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result

    def say(self, *words: str) -> str:
        """What a command that works prints."""
        return self.run(*words).stdout

    def data(self, *words: str) -> Any:
        """What it prints with `--json`."""
        return json.loads(self.run(*words, "--json").stdout)

    def execution_of(self, event: str, state: str) -> Any:
        """The execution that answers an event, as soon as it is in that state."""
        return until(lambda: next(iter(self.data("executions", "list", "--event", event, "--state", state)), None))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An Upshot that runs for all tests of a session; each uses names of its own."""
    folder: Path = tmp_path_factory.mktemp("upshot")
    with ReceiversThread() as receivers:
        up = Up(
            folder,
            UPSHOT_EGRESS_ALLOW="127.0.0.0/8",
            UPSHOT_GITHUB_API_URL=receivers.github_api_url,
            UPSHOT_SECRET_GITHUB_TOKEN=GITHUB_TOKEN,
        )
        (up.automations / "all.yaml").write_text(AUTOMATIONS)
        (up.automations / "broken.yaml").write_text("name: broken\non: custom\nsteps:\n  - uses: slak\n")
        with up:
            yield World(up, receivers)
