"""Tags, metadata, descriptions, collections, custom events, history, and what events say."""

import pytest

from tests.unit.registry.conftest import ANN, BOSS, told
from upshot.domain.event import Cause, Event
from upshot.errors import AlreadyExists, InvalidInput, NotFound


@pytest.fixture
def churn(registry):
    """A registry with `model/churn:v0`, which is `fraud/net:v0`, and with `model/copy:v0`, which is the same."""
    registry.link("model", "churn", "fraud/net:v0", aliases=["production"], actor=ANN)
    registry.link("model", "copy", "fraud/net:v0", actor=ANN)
    return registry


def test_metadata_tags_and_description_are_seen_through_every_link(churn):
    """They belong to the artifact version."""
    churn.update_version("model", "churn", "production", metadata={"acc": 0.9}, description="good", actor=ANN)
    churn.add_tag("model", "churn", "nice", "v0", actor=ANN)

    seen = churn.version("model", "copy", "v0").artifact
    assert (seen.metadata, seen.description, seen.tags) == ({"number": 0, "acc": 0.9}, "good", ("nice",))
    assert churn.artifact_version("fraud/net:v0").tags == ("nice",)


def test_metadata_is_changed_by_a_merge_patch(churn):
    """Null removes, objects are merged, the event holds the keys that changed and what they were."""
    churn.update_version("model", "churn", "v0", metadata={"a": {"x": 1, "y": 2}, "gone": True}, actor=ANN)

    changed = churn.update_version(
        "model", "churn", "v0", metadata={"a": {"x": None, "z": 3}, "gone": None, "number": 0}, actor=ANN
    )

    assert changed.value.artifact.metadata == {"number": 0, "a": {"y": 2, "z": 3}}
    assert told(changed.events) == [("version-updated", "model/churn:v0")]
    assert changed.events[0].data["changes"] == {
        "metadata": {
            "a": {"before": {"x": 1, "y": 2}, "after": {"y": 2, "z": 3}},
            "gone": {"before": True, "after": None},
        },
        "description": None,
    }


@pytest.mark.parametrize(("before", "after"), [(1, True), (0, False), (1, 1.0), ([1], [True])])
def test_a_change_of_type_is_a_change(churn, before, after):
    """To Python 1 is true and 1.0; to whoever reads the JSON they differ."""
    churn.update_version("model", "churn", "v0", metadata={"x": before}, actor=ANN)
    assert churn.update_version("model", "churn", "v0", metadata={"x": after}, actor=ANN).events


def test_metadata_cannot_grow_beyond_its_bound_by_patches(churn):
    """Each patch is small; what they would make together is refused."""
    churn.update_version("model", "churn", "v0", metadata={"a": "x" * 40_000}, actor=ANN)
    with pytest.raises(InvalidInput, match="metadata with this change"):
        churn.update_version("model", "churn", "v0", metadata={"b": "x" * 40_000}, actor=ANN)


def test_tags_of_a_version_and_of_a_collection_are_told_apart(churn):
    """By the event's subject and by `on`."""
    version = churn.add_tag("model", "churn", "nice", "production", actor=ANN)
    collection = churn.add_tag("model", "churn", "nice", actor=ANN)
    removed = churn.remove_tag("model", "churn", "nice", actor=ANN)

    assert told(version.events) == [("tag-added", "model/churn:v0")]
    assert version.events[0].data["on"] == "version"
    assert version.events[0].data["version"]["tags"] == ["nice"]
    assert told(collection.events) == [("tag-added", "model/churn")]
    assert collection.events[0].data["on"] == "collection"
    assert "version" not in collection.events[0].data
    assert told(removed.events) == [("tag-removed", "model/churn")]
    assert churn.version("model", "churn", "v0").artifact.tags == ("nice",)


def test_tags_are_bounded(churn):
    """A hundred are enough."""
    for number in range(100):
        churn.add_tag("model", "churn", f"t{number}", "v0", actor=ANN)
    with pytest.raises(InvalidInput, match="100 tags already"):
        churn.add_tag("model", "churn", "one-more", "v0", actor=ANN)
    assert churn.add_tag("model", "churn", "t5", "v0", actor=ANN).events == ()


def test_the_model_card_keeps_its_earlier_revisions(churn):
    """In the history, newest first."""
    for text in ("# One", "# Two"):
        changed = churn.update_collection("model", "churn", description=text, actor=ANN)
    assert told(changed.events) == [("collection-updated", "model/churn")]
    assert changed.events[0].data["changes"] == {"description": {"before": "# One", "after": "# Two"}}
    entries = churn.history("model", "churn", cursor=None, limit=2).items
    assert [entry.before["description"] for entry in entries] == ["# One", ""]


def test_a_collection_is_made_once(churn):
    """The second time says what to do."""
    made = churn.create_collection("model", "new", "model", description="# New", actor=ANN)
    assert told(made.events) == [("collection-created", "model/new")]
    with pytest.raises(AlreadyExists, match="model/new exists already"):
        churn.create_collection("model", "new", "model", actor=ANN)


def test_a_deleted_collection_is_gone_and_its_artifacts_are_not(churn):
    """It may come back with another type; its history stays readable."""
    deleted = churn.delete_collection("model", "churn", actor=ANN)

    assert told(deleted.events) == [("collection-deleted", "model/churn")]
    assert deleted.events[0].data["collection"]["aliases"] == {"latest": "v0", "production": "v0"}
    with pytest.raises(NotFound, match="no collection 'churn'"):
        churn.collection("model", "churn")
    assert [one.name for one in churn.collections("model", cursor=None, limit=10).items] == ["copy"]
    assert churn.artifact_version("fraud/net:v0").digest == "d0"
    assert churn.history("model", "churn", cursor=None, limit=1).items[0].action == "delete-collection"

    churn.create_collection("model", "churn", "dataset", actor=ANN)
    back = churn.collection("model", "churn")
    assert (back.artifact_type, dict(back.aliases), back.tags) == ("dataset", {}, ())


def test_an_event_is_a_full_snapshot(churn):
    """Whoever renders it later sees what was true: everything that templates and receivers can ask for."""
    churn.link("model", "churn", "fraud/net:v1", actor=ANN)
    added = churn.add_alias("model", "churn", "production", "v1", actor=ANN).events[1]
    version = churn.version("model", "churn", "v1")

    when = "2026-01-01T12:00:00.000000Z"
    page = "https://upshot.example.com/api/v1/registries/model/collections/churn"
    assert added.data == {
        "registry": {"name": "model"},
        "collection": {
            "name": "churn",
            "type": "model",
            "reference": "model/churn",
            "registry": "model",
            "description": "",
            "tags": [],
            "aliases": {"latest": "v1", "production": "v1"},
            "created_at": when,
            "created_by": "ann",
            "url": page,
        },
        "version": {
            "name": "v1",
            "number": 1,
            "reference": "model/churn:v1",
            "aliases": ["latest", "production"],
            "digest": "d1",
            "metadata": {"number": 1},
            "description": "",
            "tags": [],
            "artifact": "fraud/net:v1",
            "artifact_version": "v1",
            "project": "fraud",
            "created_at": when,
            "created_by": "ann",
            "linked_at": when,
            "linked_by": "ann",
            "url": f"{page}/versions/v1",
        },
        "aliases": ["latest", "production"],
        "project": {"name": "fraud"},
        "artifact": {
            "name": "net",
            "type": "model",
            "reference": "fraud/net:v1",
            "version": "v1",
            "project": "fraud",
            "url": "https://upshot.example.com/api/v1/projects/fraud/artifacts/net/versions/v1",
        },
        "alias": "production",
        "automatic": False,
        "previous": added.data["previous"],
    }
    assert added.data["previous"]["digest"] == "d0"
    assert added.data["previous"]["aliases"] == []
    assert added.version_reference == version.reference
    assert Event.from_dict(added.as_dict()) == added


def test_an_event_knows_its_actor_and_the_executions_that_led_to_it(churn):
    """So that loops can be seen."""
    cause = Cause("promote", "exe_1", "evt_1", "model/churn:v0")
    event = churn.add_alias("model", "churn", "x", "v0", actor=BOSS, chain=(cause,)).events[0]
    assert event.actor == BOSS
    assert event.chain == (cause,)


def test_names_in_links_are_escaped(registry):
    """A name may hold spaces and any script."""
    linked = registry.link("model", "größe & co", "fraud/net:v0", actor=ANN)
    url = linked.events[0].data["collection"]["url"]
    assert url == "https://upshot.example.com/api/v1/registries/model/collections/gr%C3%B6%C3%9Fe%20%26%20co"


# --- custom events


def test_custom_events_are_accepted_together(registry, events):
    """In order, under one mutation, with the data that was given."""
    accepted = registry.emit([("drift", {"score": 0.7}), ("drift", {})], actor=ANN)

    assert [(one.name, one.subject, one.sequence) for one in accepted] == [("drift", "drift", 0), ("drift", "drift", 1)]
    assert accepted[0].mutation_id == accepted[1].mutation_id
    stored = events.find(accepted[0].id)
    assert stored is not None
    assert stored.event.data == {"score": 0.7}


def test_an_event_that_was_accepted_is_not_accepted_again(registry, events, published):
    """What a repeated step emits once more is neither kept nor published."""
    registry.emit([("a", {"n": 1})], actor=ANN, event_ids=["evt_1"])
    again = registry.emit([("a", {"n": 2}), ("b", {})], actor=ANN, event_ids=["evt_1", "evt_2"])

    assert [one.id for one in again] == ["evt_2"]
    assert events.find("evt_1").event.data == {"n": 1}
    assert [one.id for batch in published.batches for one in batch] == ["evt_1", "evt_2"]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([], id="none"),
        pytest.param([("a", {})] * 1001, id="too many"),
        pytest.param([("a/b", {})], id="name"),
        pytest.param([("a", {"x": float("nan")})], id="data"),
        pytest.param([("fine", {}), ("", {})], id="one of two"),
    ],
)
def test_a_bad_custom_event_refuses_all(registry, published, given):
    """All or none."""
    with pytest.raises(InvalidInput):
        registry.emit(given, actor=ANN)
    assert published.batches == []


# --- history


def test_every_mutation_is_in_the_history(churn):
    """Who, when, what, and what it was before."""
    churn.add_alias("model", "churn", "blue", "v0", actor=BOSS)
    churn.remove_alias("model", "churn", "blue", actor=ANN)
    churn.unlink("model", "churn", "v0", actor=ANN)

    newest = churn.history("model", "churn", cursor=None, limit=10).items
    assert [(entry.action, entry.actor, entry.subject) for entry in newest] == [
        ("unlink", "ann", "model/churn:v0"),
        ("remove-alias", "ann", "model/churn:v0"),
        ("add-alias", "boss", "model/churn:v0"),
        ("link", "ann", "model/churn:v0"),
        ("create-collection", "ann", "model/churn"),
    ]
    assert newest[0].before == {"artifact": "fraud/net:v0", "digest": "d0", "aliases": ["latest", "production"]}
    assert newest[1].before == {"alias": "blue", "version": "v0"}
    assert newest[2].before == {"aliases": {"blue": None}}


def test_history_comes_in_pages(churn):
    """Everywhere, or in one registry."""
    everything = churn.history(None, None, cursor=None, limit=100).items
    page = churn.history(None, None, cursor=None, limit=3)
    rest = churn.history(None, None, cursor=page.next, limit=100)
    assert (*page.items, *rest.items) == everything
    assert {entry.action for entry in everything} >= {"log-artifact", "link", "create-collection"}
    assert churn.history("other", None, cursor=None, limit=1).items == ()


def test_collections_come_in_pages_by_name(registry):
    """And a cursor of another list is refused."""
    for name in ("b", "a", "c"):
        registry.create_collection("model", name, "model", actor=ANN)
    page = registry.collections("model", cursor=None, limit=2)
    rest = registry.collections("model", cursor=page.next, limit=2)
    assert [one.name for one in (*page.items, *rest.items)] == ["a", "b", "c"]
    with pytest.raises(InvalidInput, match="cursor"):
        registry.versions("model", "a", cursor=page.next, limit=2)
