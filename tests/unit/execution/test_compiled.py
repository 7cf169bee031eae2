"""Automations ready to be carried out, at hand and kept."""

from __future__ import annotations

import pytest

from tests.unit.automations.factories import CATALOG, Secrets, automation, make_context
from upshot.automations.context import SecretsView
from upshot.automations.loader import rebuild
from upshot.errors import TemplateInvalid
from upshot.execution.compiled import compile_automation

HOOK = """\
name: hook
on: custom
steps:
  - uses: webhook
    if: event.data.wanted
    with:
      url: https://hooks.example/{{ secrets.PATH }}
"""


def complaints(found):
    """What its step says of an event without `wanted`, and of a secret that is missing."""
    step = compile_automation(found, CATALOG).steps["step-1"]
    context = make_context(secrets=SecretsView(Secrets())) | {"event": {"data": {}}}
    for act in (step.condition.evaluate, step.tree.render):
        with pytest.raises(TemplateInvalid) as caught:
            act(context)
        yield str(caught.value).partition("; ")[0]


def test_a_mistake_names_its_line():
    """The line of the step for its `if`, that of the leaf for a template."""
    assert list(complaints(automation(HOOK))) == [
        "a.yaml:4: 'event.data' has no 'wanted'",
        "a.yaml:7: with.url: there is no secret 'PATH'",
    ]


def test_a_mistake_in_a_kept_revision_names_the_file_alone():
    """Its lines are not known any more, and none is made up."""
    found = automation(HOOK)

    kept = rebuild(found.name, found.source, found.body_files, found.path, CATALOG)

    assert list(complaints(kept)) == [
        "a.yaml: 'event.data' has no 'wanted'",
        "a.yaml: with.url: there is no secret 'PATH'",
    ]
