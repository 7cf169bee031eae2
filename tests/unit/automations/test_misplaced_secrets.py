"""Only actions that send a secret may get it. Many people can read what the other actions write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from upshot.errors import AutomationInvalid
from upshot.testing import World

STEP = """
name: a
on: {{custom: {{name: go}}}}
steps:
  - uses: {uses}
    with: {with_}
"""
MISPLACED = {
    "emit": '{name: x, data: {deep: [{token: "Bearer {{ secrets.T }}"}]}}',
    "emit name": '{name: "{{ secrets.T }}"}',
    "emit typed": '{name: x, data: {token: "{{= secrets.T }}"}}',
    "emit computed": """{name: x, data: {token: "{{ secrets['T' ~ ''] }}"}}""",
    "emit in a loop": '{name: x, data: {token: "{% for c in secrets.T %}{{ c }}-{% endfor %}"}}',
    "emit all": '{name: x, data: {token: "{% set s = secrets %}{{ s.T }}"}}',
    "add-alias": '{alias: "v-{{ secrets.T }}"}',
    "add-tag": '{tag: "{{ secrets.T | lower }}"}',
    "find-version": '{collection: "{{ secrets.T }}"}',
    "require": "{that: \"secrets.T == 'x'\"}",
    "require message": '{that: "1 == 1", otherwise: "{{ secrets.T }}"}',
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_secret_for_an_action_that_sends_nothing_is_an_error(name):
    """The error names the input, the secret, the action, and where the secret belongs."""
    uses = name.partition(" ")[0]
    with pytest.raises(AutomationInvalid) as raised:
        World().apply(STEP.format(uses=uses, with_=MISPLACED[name]))

    assert f"'{uses}' sends nothing to a receiver" in str(raised.value)
    assert "use the secret in the step that sends it" in str(raised.value)
    assert str(raised.value).startswith("test.yaml:6: with.")


def test_steps_that_send_and_conditions_can_use_secrets():
    """A webhook gets its secret, and the `if` of a step only decides."""
    World().apply(
        STEP.format(uses="webhook", with_='{url: https://example.com, json: "{{ secrets.T }}"}')
        + "  - {uses: emit, if: \"secrets.T != ''\", with: {name: x}}\n"
    )


def test_a_revision_that_was_stored_before_does_not_write_a_secret():
    """An execution keeps its revision, which may be older than the check. It fails and says why."""
    world = World(secrets={"T": "s3cr3t-token"})
    world.apply(STEP.format(uses="emit", with_='{name: x, data: {token: "PLACE"}}'))
    (automation,) = world._automations
    step = replace(automation.steps[0], with_={"name": "x", "data": {"token": "{{ secrets.T }}"}})
    world._automations = [replace(automation, steps=(step,))]
    world.emit("go")
    world.run_until_idle()

    (execution,) = world.all_executions()
    assert execution.state == "failed"
    assert "sends nothing to a receiver" in (execution.reason or "")
    assert "s3cr3t" not in repr(world.all_events())
