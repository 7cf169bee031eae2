"""The samples that come with Upshot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.automations.factories import CATALOG, Secrets
from upshot.actions.protocol import Action
from upshot.automations.context import SecretsView, build_context
from upshot.automations.loader import load_folder
from upshot.automations.matcher import Matcher, MatchResult
from upshot.automations.template import compile_tree
from upshot.domain.event import Event
from upshot.domain.execution import ExecutionState, StepRecord

FOLDER = Path(__file__).parents[3] / "automations"
LOADED = load_folder(FOLDER, CATALOG)
SECRETS = {
    "GITHUB_TOKEN": "ghp_x",
    "SLACK_WEBHOOK": "https://hooks.slack.com/services/T/B/x",
    "HOOK_URL": "https://hooks.example.com/models",
    "HOOK_SECRET": "whsec_c3RhbmQtaW4gc2VjcmV0LCAzMiBieXRlcyBsb25nISE=",
}
OUTPUTS: Mapping[str, Mapping[str, Any]] = {  # by step, where later ones read them
    "evaluate": {"accuracy": 0.94},
    "current": {"found": False, "reference": None, "metadata": None},
}


def event_of(name):
    return Event.from_dict(json.loads((FOLDER / "events" / f"{name}.json").read_text()))


def test_the_samples_are_sound():
    """Every one of them loads, and each has its event."""
    assert [str(error) for error in LOADED.errors] == []
    assert {automation.name for automation in LOADED.automations} == {
        path.stem for path in (FOLDER / "events").glob("*.json")
    }


@pytest.mark.parametrize("automation", LOADED.automations, ids=lambda automation: automation.name)
def test_a_sample_answers_its_event(automation):
    """The event beside it fires it."""
    matches = Matcher(LOADED.automations).match(event_of(automation.name))

    assert (automation.name, MatchResult.MATCHED) in [(match.automation.name, match.verdict) for match in matches]


@pytest.mark.parametrize("automation", LOADED.automations, ids=lambda automation: automation.name)
def test_a_sample_can_be_rendered(automation):
    """Every step of it, on failure too, gives what its action accepts; the demo's secrets are all it needs."""
    steps = [
        StepRecord(step.id, step.uses, state=ExecutionState.SUCCEEDED, outputs=OUTPUTS.get(step.id, {}))
        for step in automation.steps
    ]
    context = build_context(
        event_of(automation.name),
        automation_name=automation.name,
        vars=automation.vars,
        steps=steps,
        secrets=SecretsView(Secrets(**SECRETS)),
        delivery={"id": "dlv_1", "attempt": 1},
        failure={"reason": "refused", "step": "dispatch"},
    )
    for step in (*automation.steps, *automation.on_failure):
        action: Action = CATALOG[step.uses]
        tree = compile_tree(
            step.with_, path=automation.path, line_of=step.lines.get, expressions=action.expressions
        ).render(context)

        action.with_record.model_validate(tree, context={"rendered": True})
