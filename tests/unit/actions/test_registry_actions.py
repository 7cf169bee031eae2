"""`require`, `add-alias`, `add-tag`, `emit`: what they take from the event, and what they change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.actions.action_calls import CUSTOM_EVENT, EVENT, NOW, RecordingRegistry, perform
from upshot.actions.add_alias import AddAlias
from upshot.actions.add_tag import AddTag
from upshot.actions.emit import Emit
from upshot.actions.require import Require
from upshot.domain.event import EventKind
from upshot.errors import Conflict, Forbidden, NotFound, Refused, TemplateInvalid, Unavailable, Unmet
from upshot.ids import derive_event_id

COLLECTION_EVENT = replace(
    EVENT, kind=EventKind.COLLECTION_CREATED, data={"registry": {"name": "model"}, "collection": {"name": "churn"}}
)


@pytest.mark.parametrize("value", [True, 1, "text", [0], 0.1])
async def test_an_execution_continues_if_its_requirement_holds(value):
    """Every value that is true in Jinja is true here. Later steps can read the value."""
    assert (await perform(Require(), {"that": value})).outputs == {"value": value}


@pytest.mark.parametrize("value", [False, None, 0, "", [], {}])
async def test_an_execution_fails_with_the_authors_message(value):
    """If the requirement does not hold, the reason of the failed execution is exactly `otherwise`."""
    with pytest.raises(Unmet, match=r"^accuracy is below 0\.9$"):
        await perform(Require(), {"that": value, "otherwise": "accuracy is below 0.9"})


@pytest.mark.parametrize(
    ("with_", "version"),
    [
        pytest.param({}, ("model", "churn", "v3"), id="the event's version"),
        pytest.param({"version": "v1"}, ("model", "churn", "v1"), id="another version"),
        pytest.param({"version": "candidate"}, ("model", "churn", "candidate"), id="the holder of an alias"),
        pytest.param(
            {"registry": "model", "collection": "churn"}, ("model", "churn", "v3"), id="the same version, named"
        ),
        pytest.param({"collection": "fraud", "version": "v7"}, ("model", "fraud", "v7"), id="another collection"),
        pytest.param(
            {"registry": "prod", "collection": "fraud", "version": "v7"}, ("prod", "fraud", "v7"), id="another registry"
        ),
    ],
)
async def test_add_alias_changes_the_selected_version(with_, version):
    """The alias goes to the event's version unless the step names another. The origin is the automation."""
    registry = RecordingRegistry()
    outcome = await perform(AddAlias(), {"alias": "production", **with_}, registry=registry)

    where, collection, name = version
    assert registry.changes == [("alias", where, collection, "production", name, "promote")]
    assert registry.chains[0][0].execution_id == "exe_1"
    assert outcome.outputs == {"reference": f"{where}/{collection}:{name}", "alias": "production", "changed": True}


@pytest.mark.parametrize(
    ("with_", "event", "missing"),
    [
        pytest.param({"collection": "fraud"}, EVENT, "version", id="another collection without a version"),
        pytest.param({"registry": "prod"}, EVENT, "version", id="another registry without a version"),
        pytest.param({}, COLLECTION_EVENT, "version", id="an event about a collection"),
        pytest.param({}, CUSTOM_EVENT, "registry", id="a custom event, whatever its data contains"),
        pytest.param({"registry": "model"}, CUSTOM_EVENT, "collection", id="a custom event and only a registry"),
    ],
)
async def test_a_step_must_name_what_the_event_does_not_contain(with_, event, missing):
    """If neither the step nor the event names the version, the error names what is missing, and nothing changes."""
    registry = RecordingRegistry()

    with pytest.raises(TemplateInvalid, match=f"does not name a {missing} for this step"):
        await perform(AddAlias(), {"alias": "production", **with_}, registry=registry, event=event)

    assert not registry.changes


async def test_repeating_a_step_changes_nothing():
    """If a step is repeated after a crash, the registry makes no change, and `changed` is false."""
    registry = RecordingRegistry()
    await perform(AddAlias(), {"alias": "production"}, registry=registry)

    repeated = await perform(AddAlias(), {"alias": "production"}, registry=registry, attempt=2)

    assert repeated.outputs["changed"] is False


@pytest.mark.parametrize(
    ("with_", "event", "change"),
    [
        pytest.param({}, EVENT, ("model", "churn", "ok", "v3"), id="version"),
        pytest.param({"on": "collection"}, EVENT, ("model", "churn", "ok", None), id="collection"),
        pytest.param({"on": "collection"}, COLLECTION_EVENT, ("model", "churn", "ok", None), id="new collection"),
        pytest.param(
            {"on": "collection", "registry": "r", "collection": "c"}, CUSTOM_EVENT, ("r", "c", "ok", None), id="named"
        ),
    ],
)
async def test_add_tag_changes_the_version_or_the_collection(with_, event, change):
    """`on` selects whether the tag goes to the version or to the collection."""
    registry = RecordingRegistry()
    await perform(AddTag(), {"tag": "ok", **with_}, registry=registry, event=event)

    assert registry.changes == [("tag", *change, "promote")]


def test_a_version_beside_on_collection_is_reported():
    """A step cannot give both `version` and `on: collection`."""
    assert [path for path, _ in AddTag().check({"tag": "x", "on": "collection", "version": "v1"})] == ["version"]


async def test_an_emitted_event_has_the_same_id_in_every_attempt():
    """If a step is repeated after a crash, it creates the event once."""
    registry = RecordingRegistry()
    inputs = {"name": "ready", "data": {"a": 1}}
    first, second = [await perform(Emit(), inputs, registry=registry, attempt=attempt) for attempt in (1, 2)]

    event_id = derive_event_id("exe_1", "dlv_1", NOW)
    assert first.outputs == second.outputs == {"event_id": event_id}
    assert registry.changes == [("emit", ("ready", {"a": 1}), [event_id], "promote")] * 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFound("no such version"), Refused),
        (Forbidden("alias production is protected"), Refused),
        (Conflict("wrong type"), Refused),
        (Unavailable("the database does not answer"), Unavailable),
    ],
)
@pytest.mark.parametrize("action", [AddAlias(), AddTag(), Emit()], ids=lambda action: action.uses)
async def test_an_error_of_the_registry_is_final_and_an_unavailable_database_is_not(action, error, kind):
    """A rejected change is not repeated. A database that does not respond decides nothing, so the step waits."""
    with_ = {"add-alias": {"alias": "a"}, "add-tag": {"tag": "t"}, "emit": {"name": "e"}}[action.uses]

    with pytest.raises(kind, match=str(error)) as raised:
        await perform(action, with_, registry=RecordingRegistry(error))

    assert type(raised.value) is kind
    assert kind is Unavailable or raised.value.request
