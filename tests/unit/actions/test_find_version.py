"""`find-version`: what the registry says now, not what it said when the event happened."""

from __future__ import annotations

import pytest

from tests.unit.actions.action_calls import RecordingRegistry, perform
from upshot.actions.find_version import FindVersion
from upshot.domain.execution import ExecutionState
from upshot.errors import InvalidInput, NotFound, Refused, Unavailable, Unreachable
from upshot.testing import ANN, World

LOOK = """
name: look
on: {alias-added: {alias: candidate}}
steps:
  - id: found
    uses: find-version
    with: %s
  - uses: require
    with: {that: "%s"}
"""


def looked_up(with_, *, that="true"):
    """The world after a candidate was looked at, with a version in production before it, and the execution."""
    world = World()
    world.apply(LOOK % (with_, that))
    world.link(alias="production")
    candidate = world.link(alias="candidate")
    world.registry.update_version("model", "churn", "v0", metadata={"accuracy": 0.8}, actor=ANN)
    world.registry.update_version("model", "churn", candidate.name, metadata={"evaluate": {"auc": 0.7}}, actor=ANN)
    world.settle()
    return world, world.execution("look")


def test_an_alias_gives_the_version_that_holds_it_now():
    """Everything that a gate compares with, as the registry has it at that moment."""
    world, execution = looked_up("{version: production}")

    version = world.registry.version("model", "churn", "v0")
    assert execution.steps[0].outputs == {
        "found": True,
        "reference": "model/churn:v0",
        "name": "v0",
        "digest": version.artifact.digest,
        "metadata": {"accuracy": 0.8},
        "aliases": ["production"],
        "tags": [],
    }


def test_the_event_s_own_version_is_given_with_what_was_added_since():
    """What a job has saved after the event happened can be read."""
    _, execution = looked_up("{}", that="steps.found.outputs.metadata.evaluate.auc == 0.7")

    assert execution.state is ExecutionState.SUCCEEDED


def test_where_there_is_none_an_optional_look_up_goes_on_with_null():
    """The first candidate of a collection has nothing to be compared with."""
    that = "not steps.found.outputs.found and steps.found.outputs.metadata.evaluate.auc | default(0) == 0"
    _, execution = looked_up("{version: champion, optional: true}", that=that)

    assert execution.state is ExecutionState.SUCCEEDED


def test_where_there_is_none_the_execution_fails_and_says_what_there_is():
    """A slip of the pen is no reason to promote."""
    _, execution = looked_up("{version: producton}")

    assert execution.state is ExecutionState.FAILED
    assert "model/churn has no alias 'producton'" in (execution.reason or "")
    assert "`optional: true`" in (execution.reason or "")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(NotFound("no such version"), Refused, id="not there"),
        pytest.param(InvalidInput("no name"), Refused, id="no name"),
        pytest.param(Unavailable("the database does not answer"), Unreachable, id="no answer"),
    ],
)
def test_the_registry_s_no_is_final_and_its_silence_is_not(error, kind):
    """A database that is away comes back; a name does not mend itself."""
    with pytest.raises(kind, match=str(error)):
        perform(FindVersion(), {"version": "v1"}, registry=RecordingRegistry(error))
