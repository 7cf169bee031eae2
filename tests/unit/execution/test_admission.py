"""An event that an automation cannot answer gets an execution that says why."""

from __future__ import annotations

import pytest

from upshot.domain.event import MAX_CHAIN_DEPTH
from upshot.domain.execution import ExecutionState
from upshot.testing import World

OTHER = """
name: other
on: {alias-added: {alias: production}}
steps: [{uses: webhook, with: {url: "https://hooks.example/other"}}]
"""


@pytest.fixture
def world() -> World:
    """Return a world with one automation that answers the alias `production`."""
    world = World()
    world.apply(OTHER)
    return world


def test_an_if_that_cannot_be_evaluated_fails_its_execution(world):
    """The execution says why. Other automations still answer the event."""
    world.apply(OTHER.replace("name: other", "name: misspelt\nif: version.metadata.acuracy > 1"))

    world.link(alias="production")
    world.run_until_idle()

    execution = world.execution("misspelt")
    assert execution.state is ExecutionState.FAILED
    assert "'version.metadata' has no 'acuracy'" in execution.reason
    assert [request.url for request in world.sent] == ["https://hooks.example/other"]


def test_an_automation_that_would_answer_itself_is_skipped(world):
    """A chain of custom events that feeds itself stops at its first repetition. The skipped execution says why."""
    world.apply("""
name: echo
on: {custom: {name: again}}
steps: [{uses: emit, with: {name: again}}]
""")

    world.emit("again")
    world.run_until_idle()

    executions = {execution.state: execution for execution in world.all_executions("echo")}
    assert executions.keys() == {ExecutionState.SUCCEEDED, ExecutionState.SKIPPED}
    assert executions[ExecutionState.SUCCEEDED].id in executions[ExecutionState.SKIPPED].reason


def test_a_chain_of_executions_has_a_maximum_depth(world):
    """The execution that would exceed it is skipped, and its reason names the chain."""
    for number in range(MAX_CHAIN_DEPTH + 1):
        world.apply(f"""
name: link-{number}
on: {{custom: {{name: e{number}}}}}
steps: [{{uses: emit, with: {{name: e{number + 1}}}}}]
""")

    world.emit("e0")
    world.run_until_idle()

    last = world.execution(f"link-{MAX_CHAIN_DEPTH}")
    assert last.state is ExecutionState.SKIPPED
    assert "which is the maximum: link-0 → link-1" in last.reason
