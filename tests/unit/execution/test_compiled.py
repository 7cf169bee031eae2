"""Errors in compiled automations name their place, as far as it is known."""

from __future__ import annotations

import pytest

from tests.unit.automations.factories import CATALOG, automation, make_context
from upshot.automations.context import SecretsView
from upshot.automations.loader import load_revision
from upshot.errors import TemplateInvalid
from upshot.execution.compiled import compile_automation
from upshot.testing import Secrets

HOOK = """\
name: hook
on: custom
steps:
  - uses: webhook
    if: event.data.wanted
    with:
      url: https://hooks.example/{{ secrets.PATH }}
"""


def errors(automation):
    """Yield the errors for an event without `wanted` and for a missing secret."""
    step = compile_automation(automation, CATALOG).steps["step-1"]
    context = make_context(secrets=SecretsView(Secrets({}))) | {"event": {"data": {}}}
    for evaluate in (step.condition.evaluate, step.tree.render):
        with pytest.raises(TemplateInvalid) as caught:
            evaluate(context)
        yield str(caught.value).partition("; ")[0]


def test_an_error_names_its_line():
    """An error in `if` names the line of the step, an error in a template names its own line."""
    assert list(errors(automation(HOOK))) == [
        "a.yaml:4: 'event.data' has no 'wanted'",
        "a.yaml:7: with.url: there is no secret 'PATH'",
    ]


def test_an_error_in_a_stored_revision_names_only_the_file():
    """The line numbers of a stored revision are unknown."""
    found = automation(HOOK)

    stored = load_revision(found.name, found.source, found.body_files, found.path, CATALOG)

    assert list(errors(stored)) == [
        "a.yaml: 'event.data' has no 'wanted'",
        "a.yaml: with.url: there is no secret 'PATH'",
    ]
