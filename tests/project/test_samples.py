"""The sample automations are valid, and the sample event of each triggers it."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner
from pre_commit.clientlib import load_manifest

from tests.project.repository import PAGES, ROOT, tracked_files
from upshot.actions.catalog import load_catalog
from upshot.automations.context import SecretsView, step_context
from upshot.automations.loader import load_folder
from upshot.automations.matcher import Matcher, MatchResult
from upshot.automations.scope import CONTEXT_FIELDS
from upshot.automations.template import compile_tree
from upshot.cli import main
from upshot.demo import sample_files
from upshot.demo.sample_files import SAMPLES as SAMPLE_FILES
from upshot.demo.sample_files import sample_automations
from upshot.domain.event import Event
from upshot.domain.execution import ExecutionState, StepRecord
from upshot.resources.event import event_from_json
from upshot.schema.yaml_model import RENDERED
from upshot.testing import Secrets

SAMPLES = ROOT / "automations"
CATALOG = load_catalog()
LOADED = load_folder(SAMPLES, CATALOG)
NAMES = [automation.name for automation in LOADED.automations]
SECRETS = {
    "GITHUB_TOKEN": "ghp_x",
    "SLACK_WEBHOOK": "https://hooks.slack.com/services/T/B/x",
    "HOOK_URL": "https://hooks.example.com/models",
    "HOOK_SECRET": "whsec_c3RhbmQtaW4gc2VjcmV0LCAzMiBieXRlcyBsb25nISE=",
}
OUTPUTS: Mapping[str, Mapping[str, Any]] = {  # by step id, if later steps read them
    "evaluate": {"accuracy": 0.94},
    "current": {"found": False, "reference": None, "metadata": None},
    "verified": {
        "metadata": {
            "evaluation": {
                "passed": True,
                "producer": "fraud/ab12cd34",
                "metrics": {"accuracy": {"reported": 0.94, "found": 0.94, "within": True}},
            }
        }
    },
}


def sample_event(name: str) -> Event:
    return event_from_json(json.loads((SAMPLES / "events" / f"{name}.json").read_text()))


def test_the_samples_are_the_files_of_the_repository():
    """The fixed list of samples names every automation file of the repository."""
    tracked = {path.name for path in tracked_files() if path.parent == SAMPLES}
    assert tracked >= set(SAMPLE_FILES)
    assert [path.name for path in sample_automations()] == sorted(SAMPLE_FILES)


def test_a_file_of_your_own_is_no_sample(tmp_path, monkeypatch):
    """The demo and the wheel take the samples by a fixed list: an extra file in `automations/` changes neither."""
    monkeypatch.setattr(sample_files, "_directory", lambda *_: tmp_path)
    for name in (*SAMPLE_FILES, "first.yaml"):
        (tmp_path / name).write_text("name: broken\n")
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = included["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert {path.name for path in sample_automations()} == set(SAMPLE_FILES)
    assert {source for source in included if source.startswith("automations/")} == {
        f"automations/{name}" for name in SAMPLE_FILES
    }
    assert all((ROOT / source).is_file() for source in included)


def test_samples_are_valid():
    """Every file under automations/ is valid, and there is at least one."""
    assert NAMES
    assert not [str(error) for error in LOADED.errors]


def test_every_sample_has_its_event():
    """automations/events/ contains one event for each automation, with its name, and no others."""
    assert sorted(path.stem for path in (SAMPLES / "events").glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_event_of_a_sample_triggers_it(name):
    """The event beside an automation is one that it answers."""
    answering = [
        match.automation.name
        for match in Matcher(LOADED.automations).match(sample_event(name))
        if match.result is MatchResult.MATCHED
    ]

    assert name in answering


@pytest.mark.parametrize("name", NAMES)
def test_sample_events_have_the_current_shape(name):
    """Every resource in a sample event has exactly the fields of the events that Upshot creates."""
    data = sample_event(name).data

    for resource in ("registry", "collection", "version", "previous", "project", "artifact"):
        if data.get(resource):
            assert list(data[resource]) == list(CONTEXT_FIELDS[resource]), resource


@pytest.mark.parametrize("automation", LOADED.automations, ids=lambda automation: automation.name)
def test_a_sample_can_be_rendered(automation):
    """Every step renders to inputs that its action accepts, with no other secrets than those of the demo."""
    steps = [
        StepRecord(step.id, step.uses, state=ExecutionState.SUCCEEDED, outputs=OUTPUTS.get(step.id, {}))
        for step in automation.steps
    ]
    context = step_context(
        sample_event(automation.name),
        automation_name=automation.name,
        vars=automation.vars,
        steps=steps,
        secrets=SecretsView(Secrets(SECRETS)),
        delivery={"id": "dlv_1", "attempt": 1},
        failure={"reason": "refused", "step": "dispatch"},
    )
    for step in (*automation.steps, *automation.on_failure):
        action = CATALOG[step.uses]
        tree = compile_tree(
            step.with_, path=automation.path, line_of=step.lines.get, expressions=action.expressions
        ).render(context)

        action.inputs_model.model_validate(tree, context={RENDERED: True})


def test_every_action_has_an_example():
    """For every action, a sample or a documentation page contains an automation that uses it."""
    pages = "".join(page.read_text() for page in PAGES)
    used = {step.uses for automation in LOADED.automations for step in (*automation.steps, *automation.on_failure)}

    assert not [uses for uses in CATALOG if uses not in used and f"uses: {uses}\n" not in pages]


def test_the_pre_commit_hook_is_valid():
    """pre-commit accepts the manifest, and the command of the hook exists."""
    (hook,) = load_manifest(ROOT / ".pre-commit-hooks.yaml")

    assert hook["id"] == "upshot-validate"
    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False
    assert re.match(hook["files"], "automations/deploy.yaml")
    command, *arguments = shlex.split(hook["entry"])
    assert f'{command} = "upshot.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert CliRunner().invoke(main, [*arguments, str(SAMPLES)], prog_name="upshot").exit_code == 0
