"""Events that an automation cannot answer: each is explained by an execution, and holds nobody up."""

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
    """One automation that answers `production`, and whatever a test adds."""
    made = World()
    made.apply(OTHER)
    return made


def test_an_if_that_cannot_be_evaluated_fails_the_execution_and_says_why(world):
    """The event is answered all the same: what is wrong with one automation holds no other up."""
    world.apply(OTHER.replace("name: other", "name: misspelt\nif: version.metadata.acuracy > 1"))

    world.link(alias="production")
    world.settle()

    execution = world.execution("misspelt")
    assert execution.state is ExecutionState.FAILED
    assert "'version.metadata' has no 'acuracy'" in execution.reason
    assert [post.url for post in world.sent] == ["https://hooks.example/other"]


def test_an_automation_that_answers_itself_ends_as_a_skipped_execution(world):
    """A chain of custom events that feeds itself stops at once on the same version, visibly."""
    world.apply("""
name: echo
on: {custom: {name: again}}
steps: [{uses: emit, with: {name: again}}]
""")

    world.emit("again")
    world.settle()

    executions = {execution.state: execution for execution in world.all_executions("echo")}
    assert executions.keys() == {ExecutionState.SUCCEEDED, ExecutionState.SKIPPED}
    assert executions[ExecutionState.SUCCEEDED].id in executions[ExecutionState.SKIPPED].reason


def test_a_long_chain_stops_at_its_depth(world):
    """The execution that would make it longer is skipped, and names the chain."""
    for number in range(MAX_CHAIN_DEPTH + 1):
        world.apply(f"""
name: link-{number}
on: {{custom: {{name: e{number}}}}}
steps: [{{uses: emit, with: {{name: e{number + 1}}}}}]
""")

    world.emit("e0")
    world.settle()

    last = world.execution(f"link-{MAX_CHAIN_DEPTH}")
    assert last.state is ExecutionState.SKIPPED
    assert "a chain stops there: link-0 → link-1" in last.reason
