"""One running Upshot for the tests of commands, and receivers for its requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.cli.embedded import Up
from tests.waiting import until
from tests.web.conftest import (  # noqa: F401 - fixtures of test_job_commands.py
    automations,
    clock,
    deps,
    empty_sqlite,
    server,
    sqlite_stores,
    web,
)
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
  - name: Ask nobody
    uses: github-dispatch
    with: {repository: acme/missing, token: "{{ secrets.GITHUB_TOKEN }}", event-type: nobody}
---
name: mistaken
on:
  custom: {name: mistake}
steps:
  - uses: emit
    with: {name: mended, data: {value: "{{ event.data.valeu }}"}}
"""


@dataclass(frozen=True, slots=True)
class RunningUpshot:
    """A running Upshot, its receivers, and a user's command line."""

    up: Up
    receivers: Receivers

    def run(self, *words: str, exit_code: int = 0) -> Result:
        """Run a command as a user would, and check its exit code."""
        data_option = "--folder" if words[:2] == ("events", "emit") else "--data"  # `--data` is the data of the event
        result = CliRunner().invoke(main, [*words, data_option, str(self.up.data)], prog_name="upshot")
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result

    def text(self, *words: str) -> str:
        """Run a command, and return what it prints for people."""
        return self.run(*words).stdout

    def json(self, *words: str) -> Any:
        """Run a command, and return what it prints with `--json`."""
        return json.loads(self.run(*words, "--json").stdout)

    def wait_for_execution(self, event_id: str, state: str) -> Any:
        """Wait until an execution that answers the event is in the state, and return it."""
        words = ("executions", "list", "--event", event_id, "--state", state)
        return until(lambda: next(iter(self.json(*words)), None), f"an execution of {event_id} that is {state}")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningUpshot]:
    """Return one Upshot for all tests of a session. Each test uses names of its own."""
    with ReceiversThread() as receivers:
        up = Up(
            tmp_path_factory.mktemp("upshot"),
            UPSHOT_EGRESS_ALLOW="127.0.0.0/8",
            UPSHOT_GITHUB_API_URL=receivers.github_api_url,
            UPSHOT_SECRET_GITHUB_TOKEN=GITHUB_TOKEN,
        )
        (up.automations / "all.yaml").write_text(AUTOMATIONS)
        (up.automations / "broken.yaml").write_text("name: broken\non: custom\nsteps:\n  - uses: slak\n")
        with up:
            yield RunningUpshot(up, receivers)
