"""`find-version`: what the registry contains now, not when the event happened."""

from __future__ import annotations

import pytest

from tests.unit.actions.action_calls import RecordingRegistry, perform
from upshot.actions.find_version import FindVersion
from upshot.domain.execution import ExecutionState
from upshot.errors import InvalidInput, NotFound, Refused, Unavailable
from upshot.testing import ADMIN, World

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


def run_look_up(with_, *, that="true"):
    """Return a world with a version in production, and the execution that a new candidate started."""
    world = World()
    world.apply(LOOK % (with_, that))
    world.link(alias="production")
    candidate = world.link(alias="candidate")
    world.registry.update_version("model", "churn", "v0", metadata={"accuracy": 0.8}, origin=ADMIN)
    world.registry.update_version("model", "churn", candidate.name, metadata={"evaluate": {"auc": 0.7}}, origin=ADMIN)
    world.run_until_idle()
    return world, world.execution("look")


def test_an_alias_selects_the_version_that_holds_it_now():
    """The outputs describe the version as it is in the registry at that moment."""
    world, execution = run_look_up("{version: production}")

    version = world.registry.version("model", "churn", "v0")
    assert execution.steps[0].outputs == {
        "found": True,
        "reference": "model/churn:v0",
        "name": "v0",
        "digest": version.artifact_version.digest,
        "metadata": {"accuracy": 0.8},
        "aliases": ["production"],
        "tags": [],
    }


def test_the_version_of_the_event_includes_later_changes():
    """Metadata that a job has saved after the event happened can be read."""
    _, execution = run_look_up("{}", that="steps.found.outputs.metadata.evaluate.auc == 0.7")

    assert execution.state is ExecutionState.SUCCEEDED


def test_an_optional_version_can_be_missing():
    """If there is no such version and `optional` is true, the execution continues with null outputs."""
    that = "not steps.found.outputs.found and steps.found.outputs.metadata.evaluate.auc | default(0) == 0"
    _, execution = run_look_up("{version: champion, optional: true}", that=that)

    assert execution.state is ExecutionState.SUCCEEDED


def test_a_missing_version_fails_the_execution():
    """If there is no such version, the execution fails with the reason and a remedy."""
    _, execution = run_look_up("{version: producton}")

    assert execution.state is ExecutionState.FAILED
    assert "model/churn has no alias 'producton'" in (execution.reason or "")
    assert "`optional: true`" in (execution.reason or "")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(NotFound("no such version"), Refused, id="missing"),
        pytest.param(InvalidInput("no name"), Refused, id="invalid name"),
        pytest.param(Unavailable("the database does not answer"), Unavailable, id="database unavailable"),
    ],
)
async def test_an_error_of_the_registry_is_final_and_an_unavailable_database_is_not(error, kind):
    """A rejected request is not repeated. A database that does not respond decides nothing, so the step waits."""
    with pytest.raises(kind, match=str(error)):
        await perform(FindVersion(), {"version": "v1"}, registry=RecordingRegistry(error))
