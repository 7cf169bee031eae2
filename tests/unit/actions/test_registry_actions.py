"""`require`, `add-alias`, `add-tag`, `emit`: what they ask of the registry, and of the event."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.actions.action_calls import CUSTOM_EVENT, EVENT, NOW, RecordingRegistry, perform
from upshot.actions.add_alias import AddAlias
from upshot.actions.add_tag import AddTag
from upshot.actions.emit import Emit
from upshot.actions.require import Require
from upshot.domain.event import EventKind
from upshot.errors import Conflict, Forbidden, NotFound, Refused, TemplateInvalid, Unavailable, Unmet, Unreachable
from upshot.ids import derived_event_id

COLLECTION_EVENT = replace(
    EVENT, kind=EventKind.COLLECTION_CREATED, data={"registry": {"name": "model"}, "collection": {"name": "churn"}}
)


@pytest.mark.parametrize("value", [True, 1, "text", [0], 0.1])
def test_a_requirement_that_holds_lets_the_execution_go_on(value):
    """What Jinja takes for true is true; the value can be read by later steps."""
    assert perform(Require(), {"that": value}).outputs == {"value": value}


@pytest.mark.parametrize("value", [False, None, 0, "", [], {}])
def test_a_requirement_that_does_not_hold_ends_it_with_the_authors_words(value):
    """The reason of the failed execution is `otherwise`, word for word."""
    with pytest.raises(Unmet, match=r"^accuracy is below 0\.9$"):
        perform(Require(), {"that": value, "otherwise": "accuracy is below 0.9"})


@pytest.mark.parametrize(
    ("with_", "version"),
    [
        pytest.param({}, ("model", "churn", "v3"), id="the event's version"),
        pytest.param({"version": "v1"}, ("model", "churn", "v1"), id="another version"),
        pytest.param({"version": "candidate"}, ("model", "churn", "candidate"), id="the holder of an alias"),
        pytest.param({"registry": "model", "collection": "churn"}, ("model", "churn", "v3"), id="the same, said again"),
        pytest.param({"collection": "fraud", "version": "v7"}, ("model", "fraud", "v7"), id="another collection"),
        pytest.param(
            {"registry": "prod", "collection": "fraud", "version": "v7"}, ("prod", "fraud", "v7"), id="another registry"
        ),
    ],
)
def test_an_alias_goes_to_the_version_that_is_meant(with_, version):
    """The event's version, unless the step says otherwise; in the automation's name, with the chain that led here."""
    registry = RecordingRegistry()
    outcome = perform(AddAlias(), {"alias": "production", **with_}, registry=registry)

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
        pytest.param({}, CUSTOM_EVENT, "registry", id="a custom event, whatever its data says"),
        pytest.param({"registry": "model"}, CUSTOM_EVENT, "collection", id="a custom event and half a place"),
    ],
)
def test_what_the_event_does_not_say_must_be_given(with_, event, missing):
    """Nothing is guessed: the error names what is missing, and nothing is changed."""
    registry = RecordingRegistry()

    with pytest.raises(TemplateInvalid, match=f"does not say which {missing} is meant"):
        perform(AddAlias(), {"alias": "production", **with_}, registry=registry, event=event)

    assert not registry.changes


def test_a_repetition_changes_nothing_and_says_so():
    """After a crash the step is repeated; the registry takes it as no change."""
    registry = RecordingRegistry()
    perform(AddAlias(), {"alias": "production"}, registry=registry)

    assert perform(AddAlias(), {"alias": "production"}, registry=registry, attempt=2).outputs["changed"] is False


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
def test_a_tag_goes_to_the_version_or_the_collection(with_, event, change):
    """`on` says which."""
    registry = RecordingRegistry()
    perform(AddTag(), {"tag": "ok", **with_}, registry=registry, event=event)

    assert registry.changes == [("tag", *change, "promote")]


def test_a_version_beside_on_collection_is_found_at_load():
    """One of the two is a mistake."""
    assert [place for place, _ in AddTag().check({"tag": "x", "on": "collection", "version": "v1"})] == ["version"]


def test_an_emitted_event_has_the_same_id_at_every_repetition():
    """So a step that is repeated after a crash emits once."""
    registry = RecordingRegistry()
    first, second = (
        perform(Emit(), {"name": "ready", "data": {"a": 1}}, registry=registry, attempt=n).outputs for n in (1, 2)
    )

    event_id = derived_event_id("exe_1", "dlv_1", NOW)
    assert first == second == {"event": event_id}
    assert registry.changes == [("emit", ("ready", {"a": 1}), [event_id], "promote")] * 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFound("no such version"), Refused),
        (Forbidden("alias production is protected"), Refused),
        (Conflict("wrong type"), Refused),
        (Unavailable("the database does not answer"), Unreachable),
    ],
)
@pytest.mark.parametrize("action", [AddAlias(), AddTag(), Emit()], ids=lambda action: action.uses)
def test_the_registrys_no_is_final_and_its_silence_is_not(action, error, kind):
    """A rule of the registry will not change by itself; a database that is away comes back."""
    with_ = {"add-alias": {"alias": "a"}, "add-tag": {"tag": "t"}, "emit": {"name": "e"}}[action.uses]

    with pytest.raises(kind, match=str(error)) as raised:
        perform(action, with_, registry=RecordingRegistry(error))

    assert type(raised.value) is kind
    assert raised.value.request
