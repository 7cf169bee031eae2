"""Tags, metadata, descriptions, collections, custom events, history, and the data of events."""

import pytest

from tests.unit.registry.conftest import ADMIN, MEMBER, summarize
from upshot.domain.event import Cause, Origin
from upshot.errors import AlreadyExists, InvalidInput, NotFound
from upshot.ids import EventId, ExecutionId
from upshot.resources.event import event_from_json, event_json


@pytest.fixture
def churn(registry):
    """Return a registry with `model/churn:v0` and `model/copy:v0`, two links to `fraud/net:v0`."""
    registry.link("model", "churn", "fraud/net:v0", aliases=["production"], origin=MEMBER)
    registry.link("model", "copy", "fraud/net:v0", origin=MEMBER)
    return registry


def test_metadata_tags_and_description_show_through_every_link(churn):
    """All three belong to the artifact version, so all links to it show them."""
    churn.update_version("model", "churn", "production", metadata={"acc": 0.9}, description="good", origin=MEMBER)
    churn.add_tag("model", "churn", "nice", "v0", origin=MEMBER)

    seen = churn.version("model", "copy", "v0").artifact_version
    assert (seen.metadata, seen.description, seen.tags) == ({"number": 0, "acc": 0.9}, "good", ("nice",))
    assert churn.artifact_version("fraud/net:v0").tags == ("nice",)


def test_metadata_is_changed_by_a_merge_patch(churn):
    """Null removes a key, objects are merged, and the event has the changed keys with both values."""
    churn.update_version("model", "churn", "v0", metadata={"a": {"x": 1, "y": 2}, "gone": True}, origin=MEMBER)

    changed = churn.update_version(
        "model", "churn", "v0", metadata={"a": {"x": None, "z": 3}, "gone": None, "number": 0}, origin=MEMBER
    )

    assert changed.value.artifact_version.metadata == {"number": 0, "a": {"y": 2, "z": 3}}
    assert summarize(changed.events) == [("version-updated", "model/churn:v0")]
    assert changed.events[0].data["changes"] == {
        "metadata": {
            "a": {"before": {"x": 1, "y": 2}, "after": {"y": 2, "z": 3}},
            "gone": {"before": True, "after": None},
        },
        "description": None,
    }


@pytest.mark.parametrize(("before", "after"), [(1, True), (0, False), (1, 1.0), ([1], [True])])
def test_a_change_of_type_is_a_change(churn, before, after):
    """1, true and 1.0 are equal in Python and different in JSON, so replacing one with another is a change."""
    churn.update_version("model", "churn", "v0", metadata={"x": before}, origin=MEMBER)
    assert churn.update_version("model", "churn", "v0", metadata={"x": after}, origin=MEMBER).events


def test_patches_cannot_make_metadata_larger_than_its_limit(churn):
    """A small patch is rejected if the merged metadata would be too large."""
    churn.update_version("model", "churn", "v0", metadata={"a": "x" * 140_000}, origin=MEMBER)
    with pytest.raises(InvalidInput, match="metadata with this change"):
        churn.update_version("model", "churn", "v0", metadata={"b": "x" * 140_000}, origin=MEMBER)


def test_events_distinguish_tags_of_a_version_and_of_a_collection(churn):
    """The subject and `on` differ."""
    version = churn.add_tag("model", "churn", "nice", "production", origin=MEMBER)
    collection = churn.add_tag("model", "churn", "nice", origin=MEMBER)
    removed = churn.remove_tag("model", "churn", "nice", origin=MEMBER)

    assert summarize(version.events) == [("tag-added", "model/churn:v0")]
    assert version.events[0].data["on"] == "version"
    assert version.events[0].data["version"]["tags"] == ["nice"]
    assert summarize(collection.events) == [("tag-added", "model/churn")]
    assert collection.events[0].data["on"] == "collection"
    assert "version" not in collection.events[0].data
    assert summarize(removed.events) == [("tag-removed", "model/churn")]
    assert churn.version("model", "churn", "v0").artifact_version.tags == ("nice",)


def test_the_number_of_tags_is_limited(churn):
    """A version has at most 100 tags."""
    for number in range(100):
        churn.add_tag("model", "churn", f"t{number}", "v0", origin=MEMBER)
    with pytest.raises(InvalidInput, match="already has 100 tags"):
        churn.add_tag("model", "churn", "one-more", "v0", origin=MEMBER)
    assert churn.add_tag("model", "churn", "t5", "v0", origin=MEMBER).events == ()


def test_the_history_keeps_earlier_model_cards(churn):
    """Every description of a collection that was replaced is in the history, newest first."""
    for text in ("# One", "# Two"):
        changed = churn.update_collection("model", "churn", description=text, origin=MEMBER)
    assert summarize(changed.events) == [("collection-updated", "model/churn")]
    assert changed.events[0].data["changes"] == {"description": {"before": "# One", "after": "# Two"}}
    entries = churn.history("model", "churn", cursor=None, limit=2).items
    assert [entry.before["description"] for entry in entries] == ["# One", ""]


def test_a_collection_is_created_once(churn):
    """The error of a second creation says what to do."""
    created = churn.create_collection("model", "new", "model", description="# New", origin=MEMBER)
    assert summarize(created.events) == [("collection-created", "model/new")]
    with pytest.raises(AlreadyExists, match="model/new already exists"):
        churn.create_collection("model", "new", "model", origin=MEMBER)


def test_deleting_a_collection_keeps_its_artifacts(churn):
    """A new collection with its name may have another type, and the old history stays readable."""
    deleted = churn.delete_collection("model", "churn", origin=MEMBER)

    assert summarize(deleted.events) == [("collection-deleted", "model/churn")]
    assert deleted.events[0].data["collection"]["aliases"] == {"latest": "v0", "production": "v0"}
    with pytest.raises(NotFound, match="no collection 'churn'"):
        churn.collection("model", "churn")
    assert [collection.name for collection in churn.collections("model", cursor=None, limit=10).items] == ["copy"]
    assert churn.artifact_version("fraud/net:v0").digest == "d0"
    assert churn.history("model", "churn", cursor=None, limit=1).items[0].action == "delete-collection"

    churn.create_collection("model", "churn", "dataset", origin=MEMBER)
    created = churn.collection("model", "churn")
    assert (created.artifact_type, dict(created.aliases), created.tags) == ("dataset", {}, ())


def test_an_event_has_a_full_snapshot(churn):
    """The data of an event has everything that templates and receivers can use, as it was after the mutation."""
    churn.link("model", "churn", "fraud/net:v1", origin=MEMBER)
    added = churn.add_alias("model", "churn", "production", "v1", origin=MEMBER).events[1]
    version = churn.version("model", "churn", "v1")

    time = "2026-01-01T12:00:00.000000Z"
    url = "https://upshot.example.com/api/v1/registries/model/collections/churn"
    assert added.data == {
        "registry": {"name": "model"},
        "collection": {
            "id": version.collection_id,
            "registry": "model",
            "name": "churn",
            "reference": "model/churn",
            "artifact_type": "model",
            "description": "",
            "metadata": {},
            "ttl_seconds": None,
            "tags": [],
            "aliases": {"latest": "v1", "production": "v1"},
            "created_at": time,
            "created_by": "ann",
            "url": url,
        },
        "version": {
            "id": version.id,
            "name": "v1",
            "number": 1,
            "reference": "model/churn:v1",
            "registry": "model",
            "collection": "churn",
            "aliases": ["latest", "production"],
            "stage": "None",
            "digest": "d1",
            "file_count": None,
            "size": None,
            "is_stored": False,
            "run": None,
            "ttl_seconds": None,
            "metadata": {"number": 1},
            "description": "",
            "tags": [],
            "artifact": "fraud/net:v1",
            "artifact_version_id": version.artifact_version.id,
            "artifact_name": "net",
            "artifact_version": "v1",
            "artifact_type": "model",
            "project": "fraud",
            "created_at": time,
            "created_by": "ann",
            "linked_at": time,
            "linked_by": "ann",
            "url": f"{url}/versions/v1",
        },
        "aliases": ["latest", "production"],
        "project": {"name": "fraud"},
        "artifact": {
            "id": version.artifact_version.artifact_id,
            "project": "fraud",
            "name": "net",
            "reference": "fraud/net",
            "artifact_type": "model",
            "url": "https://upshot.example.com/api/v1/projects/fraud/artifacts/net/versions",
        },
        "alias": "production",
        "automatic": False,
        "previous": added.data["previous"],
    }
    assert added.data["previous"]["digest"] == "d0"
    assert added.data["previous"]["aliases"] == []
    assert added.version_reference == version.reference
    assert event_from_json(event_json(added)) == added


def test_an_event_has_its_actor_and_the_executions_that_led_to_it(churn):
    """Loops can be detected from the chain."""
    cause = Cause("promote", ExecutionId("exe_1"), EventId("evt_1"), "model/churn:v0")
    event = churn.add_alias("model", "churn", "x", "v0", origin=Origin(ADMIN.actor, (cause,))).events[0]
    assert event.actor == ADMIN.actor
    assert event.chain == (cause,)


def test_names_in_urls_are_encoded(registry):
    """A name may contain spaces and characters of any script."""
    linked = registry.link("model", "größe & co", "fraud/net:v0", origin=MEMBER)
    url = linked.events[0].data["collection"]["url"]
    assert url == "https://upshot.example.com/api/v1/registries/model/collections/gr%C3%B6%C3%9Fe%20%26%20co"


# --- custom events


def test_custom_events_are_accepted_together(registry, events):
    """They are accepted in order, in one mutation, with the given data."""
    accepted = registry.emit([("drift", {"score": 0.7}), ("drift", {})], origin=MEMBER)

    assert [(event.name, event.subject, event.sequence) for event in accepted] == [
        ("drift", "drift", 0),
        ("drift", "drift", 1),
    ]
    assert accepted[0].mutation_id == accepted[1].mutation_id
    stored = events.find(accepted[0].id)
    assert stored is not None
    assert stored.event.data == {"score": 0.7}


def test_an_accepted_event_is_not_accepted_again(registry, events, published):
    """An event that a repeated step emits again is neither stored nor published."""
    registry.emit([("a", {"n": 1})], origin=MEMBER, event_ids=["evt_1"])
    again = registry.emit([("a", {"n": 2}), ("b", {})], origin=MEMBER, event_ids=["evt_1", "evt_2"])

    assert [event.id for event in again] == ["evt_2"]
    assert events.find("evt_1").event.data == {"n": 1}
    assert [event.id for batch in published.batches for event in batch] == ["evt_1", "evt_2"]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([], id="none"),
        pytest.param([("a", {})] * 1001, id="too many"),
        pytest.param([("a/b", {})], id="name"),
        pytest.param([("a", {"x": float("nan")})], id="data"),
        pytest.param([("valid", {}), ("", {})], id="second of two"),
    ],
)
def test_one_invalid_custom_event_rejects_all(registry, published, given):
    """If one event of a request is invalid, none is accepted."""
    with pytest.raises(InvalidInput):
        registry.emit(given, origin=MEMBER)
    assert published.batches == []


# --- history


def test_every_mutation_is_in_the_history(churn):
    """An entry has the actor, the action, the subject and the values before the change."""
    churn.add_alias("model", "churn", "blue", "v0", origin=ADMIN)
    churn.remove_alias("model", "churn", "blue", origin=MEMBER)
    churn.unlink("model", "churn", "v0", origin=MEMBER)

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
    """The history of everything, or of one registry, is read in pages."""
    everything = churn.history(None, None, cursor=None, limit=100).items
    page = churn.history(None, None, cursor=None, limit=3)
    rest = churn.history(None, None, cursor=page.next, limit=100)
    assert (*page.items, *rest.items) == everything
    assert {entry.action for entry in everything} >= {"log-artifact", "link", "create-collection"}
    assert churn.history("other", None, cursor=None, limit=1).items == ()


def test_collections_come_in_pages_by_name(registry):
    """Pages are sorted by name, and a cursor of another list is rejected."""
    for name in ("b", "a", "c"):
        registry.create_collection("model", name, "model", origin=MEMBER)
    page = registry.collections("model", cursor=None, limit=2)
    rest = registry.collections("model", cursor=page.next, limit=2)
    assert [collection.name for collection in (*page.items, *rest.items)] == ["a", "b", "c"]
    with pytest.raises(InvalidInput, match="cursor"):
        registry.versions("model", "a", cursor=page.next, limit=2)
