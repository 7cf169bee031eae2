"""Linking, versions and aliases: the rules of the registry, one by one."""

import pytest

from tests.unit.registry.conftest import ANN, BOSS, told
from upshot.errors import Conflict, Forbidden, InvalidInput, NotFound


def link(registry, source="fraud/net:v0", collection="churn", aliases=(), actor=ANN):
    return registry.link("model", collection, source, aliases=aliases, actor=actor)


def aliases(registry, collection="churn"):
    return dict(registry.collection("model", collection).aliases)


def test_the_collection_counts_its_own_versions_in_link_order(registry):
    """The artifact's own number does not matter."""
    assert link(registry, "fraud/net:v2").value.name == "v0"
    assert link(registry, "fraud/net:v0").value.name == "v1"
    assert registry.version("model", "churn", "v0").artifact.reference == "fraud/net:v2"


def test_linking_makes_the_collection_and_moves_latest(registry):
    """One mutation: the collection, the link, `latest` by itself, then what was asked for."""
    first = link(registry, aliases=["candidate"])
    second = link(registry, "fraud/net:v1", aliases=["candidate"])

    assert told(first.events) == [
        ("collection-created", "model/churn"),
        ("version-linked", "model/churn:v0"),
        ("alias-added", "model/churn:v0", "latest"),
        ("alias-added", "model/churn:v0", "candidate"),
    ]
    assert told(second.events) == [
        ("version-linked", "model/churn:v1"),
        ("alias-removed", "model/churn:v0", "latest"),
        ("alias-added", "model/churn:v1", "latest"),
        ("alias-removed", "model/churn:v0", "candidate"),
        ("alias-added", "model/churn:v1", "candidate"),
    ]
    assert [event.data["automatic"] for event in second.events[1:]] == [True, True, False, False]
    assert first.created
    assert second.created
    assert registry.collection("model", "churn").artifact_type == "model"
    assert aliases(registry) == {"candidate": "v1", "latest": "v1"}


def test_latest_that_was_asked_for_does_not_move_by_itself(registry):
    """Who writes `latest` means it: a pattern in a filter then matches."""
    linked = link(registry, aliases=["latest"])
    assert [event.data["automatic"] for event in linked.events if "alias" in event.data] == [False]


def test_events_of_a_mutation_are_numbered_and_published_together(registry, published):
    """They share a mutation, count from 0, and reach the stream in one batch after the commit."""
    linked = link(registry, aliases=["a", "b"])

    assert [event.sequence for event in linked.events] == list(range(len(linked.events)))
    assert len({event.mutation_id for event in linked.events}) == 1
    assert sorted(event.id for event in linked.events) == [event.id for event in linked.events]
    assert published.batches == [list(linked.events)]


def test_the_same_artifact_version_keeps_its_number(registry):
    """Linking it again says nothing of a link; aliases that were passed still move, `latest` does not."""
    link(registry, "fraud/net:v0")
    link(registry, "fraud/net:v1")

    again = link(registry, "fraud/net:v0", aliases=["production"])

    assert again.value.name == "v0"
    assert not again.created
    assert told(again.events) == [("alias-added", "model/churn:v0", "production")]
    assert aliases(registry) == {"latest": "v1", "production": "v0"}
    assert link(registry, "fraud/net:v0").events == ()


def test_numbers_are_never_used_twice(registry):
    """Neither after an unlink nor in a collection that is made anew under the same name."""
    link(registry, "fraud/net:v0")
    link(registry, "fraud/net:v1")
    registry.unlink("model", "churn", "v1", actor=ANN)
    assert link(registry, "fraud/net:v1").value.name == "v2"

    registry.delete_collection("model", "churn", actor=ANN)
    assert link(registry, "fraud/net:v1").value.name == "v3"


def test_linking_a_link_links_its_source(registry):
    """The second collection points to the artifact version, and aliases are not copied."""
    link(registry, "fraud/net:v2", aliases=["production"])

    copied = link(registry, "model/churn:production", collection="churn-eu").value

    assert copied.artifact.reference == "fraud/net:v2"
    assert copied.aliases == ("latest",)


def test_the_older_form_of_wandb_means_the_registry_called_model(registry):
    """`entity/model-registry/Name:alias` is a link, even where a project is called `model`."""
    link(registry, "fraud/net:v2")
    registry.log_artifact("model", "churn", "model", digest="other", actor=ANN)

    assert link(registry, "acme/model-registry/churn:v0", collection="a").value.artifact.digest == "d2"
    assert link(registry, "model/churn:v0", collection="b").value.artifact.digest == "other"


def test_another_type_is_refused_and_both_are_named(registry):
    """A collection holds one type of artifacts."""
    registry.create_collection("model", "churn", "dataset", actor=ANN)
    with pytest.raises(Conflict, match=r"model/churn is for artifacts of type 'dataset', and .*v0 is of type 'model'"):
        link(registry)


def test_an_alias_has_one_holder(registry):
    """Moving it takes it from the first, which is said first; both events know of the other version."""
    link(registry, "fraud/net:v0", aliases=["production"])
    link(registry, "fraud/net:v1")

    moved = registry.add_alias("model", "churn", "production", "v1", actor=ANN)

    assert told(moved.events) == [
        ("alias-removed", "model/churn:v0", "production"),
        ("alias-added", "model/churn:v1", "production"),
    ]
    removed, added = moved.events
    assert removed.data["moved_to"] == "v1"
    assert removed.data["aliases"] == []
    assert added.data["previous"]["reference"] == "model/churn:v0"
    assert added.data["aliases"] == ["latest", "production"]
    assert moved.value.aliases == ("latest", "production")
    assert aliases(registry) == {"latest": "v1", "production": "v1"}


def test_a_mutation_that_changes_nothing_makes_no_event(registry, published):
    """Nor an entry in the history."""
    link(registry, aliases=["production"])
    registry.add_tag("model", "churn", "nice", "v0", actor=ANN)
    registry.add_tag("model", "churn", "nice", actor=ANN)
    published.batches.clear()
    before = registry.history(None, None, cursor=None, limit=100)

    assert registry.add_alias("model", "churn", "production", "latest", actor=ANN).events == ()
    assert registry.add_tag("model", "churn", "nice", "v0", actor=ANN).events == ()
    assert registry.add_tag("model", "churn", "nice", actor=ANN).events == ()
    assert registry.update_collection("model", "churn", description="", actor=ANN).events == ()
    assert registry.update_version("model", "churn", "v0", metadata={"number": 0}, actor=ANN).events == ()

    assert published.batches == []
    assert registry.history(None, None, cursor=None, limit=100) == before


def test_a_version_is_found_by_number_and_by_alias(registry):
    """`vN` works as an alias, for reading and for changing."""
    link(registry, aliases=["production"])
    assert registry.version("model", "churn", "production") == registry.version("model", "churn", "v0")
    registry.add_alias("model", "churn", "blue", "production", actor=ANN)
    assert aliases(registry)["blue"] == "v0"


def test_removing_an_alias_says_who_lost_it(registry):
    """It moved to nobody."""
    link(registry, aliases=["production"])
    removed = registry.remove_alias("model", "churn", "production", actor=ANN)
    assert told(removed.events) == [("alias-removed", "model/churn:v0", "production")]
    assert removed.events[0].data["moved_to"] is None
    assert aliases(registry) == {"latest": "v0"}


def test_unlinking_removes_the_pointer_and_its_aliases(registry):
    """Each alias is said, then the link with the aliases it had; the artifact stays."""
    link(registry, aliases=["production"])

    unlinked = registry.unlink("model", "churn", "production", actor=ANN)

    assert told(unlinked.events) == [
        ("alias-removed", "model/churn:v0", "latest"),
        ("alias-removed", "model/churn:v0", "production"),
        ("version-unlinked", "model/churn:v0"),
    ]
    assert unlinked.events[-1].data["aliases"] == ["latest", "production"]
    assert unlinked.events[-1].data["version"]["aliases"] == []
    assert aliases(registry) == {}
    assert registry.artifact_version("fraud/net:v0").digest == "d0"
    with pytest.raises(NotFound, match="model/churn has no version 'v0'; it has none"):
        registry.version("model", "churn", "v0")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        pytest.param(lambda r: r.version("model", "churn", "prodution"), "did you mean 'production'", id="alias"),
        pytest.param(lambda r: r.version("model", "churn", "v7"), "no version 'v7'; its newest is v0", id="number"),
        pytest.param(lambda r: r.collection("model", "Chrun"), "did you mean 'churn'", id="collection"),
        pytest.param(
            lambda r: r.collection("modle", "churn"), "no registry 'modle'; did you mean 'model'", id="registry"
        ),
        pytest.param(
            lambda r: r.collections("zzz", cursor=None, limit=1), "no registry 'zzz'; there is 'model'", id="far"
        ),
        pytest.param(lambda r: link(r, "fraud/nte:v0"), "no artifact 'nte'; did you mean 'net'", id="artifact"),
        pytest.param(lambda r: link(r, "fruad/net:v0"), "no project 'fruad'; did you mean 'fraud'", id="project"),
        pytest.param(lambda r: link(r, "fraud/net:v3"), "no version 'v3'; its newest is v2", id="artifact version"),
        pytest.param(lambda r: link(r, "model/chrun:v0"), "did you mean 'churn'", id="link of a link"),
        pytest.param(
            lambda r: r.remove_tag("model", "churn", "nicer", "v0", actor=ANN), "did you mean 'nice'", id="tag"
        ),
        pytest.param(
            lambda r: r.remove_alias("model", "churn", "Production", actor=ANN),
            "did you mean 'production'",
            id="remove",
        ),
    ],
)
def test_what_is_not_there_is_answered_with_the_nearest_right_name(registry, ask, message):
    """A slip of the finger costs one look, not a search."""
    link(registry, aliases=["production"])
    registry.add_tag("model", "churn", "nice", "v0", actor=ANN)
    with pytest.raises(NotFound, match=message):
        ask(registry)


@pytest.mark.parametrize("name", ["v3", "v0", "", " x", "a/b", "a:b", "a%", "x" * 129, "\ud800", "a\nb", "a\x00b"])
def test_a_bad_alias_is_refused(registry, name):
    """`vN` always means the version itself; the other signs belong to references."""
    link(registry)
    with pytest.raises(InvalidInput):
        registry.add_alias("model", "churn", name, "v0", actor=ANN)
    with pytest.raises(InvalidInput):
        link(registry, aliases=["fine", name])
    assert aliases(registry) == {"latest": "v0"}


@pytest.mark.parametrize("reference", ["net", "fraud/net:", "fraud//net:v0", "a/b/c:v0", "/:v0", "fraud/net:v0:v1", ""])
def test_a_bad_reference_is_refused(registry, reference):
    """The message shows the forms there are."""
    with pytest.raises(InvalidInput):
        link(registry, reference)


def test_aliases_are_bounded(registry):
    """At once, and in a collection as a whole."""
    with pytest.raises(InvalidInput, match="101 aliases at once"):
        link(registry, aliases=[f"a{number}" for number in range(101)])
    link(registry)
    for hundred in range(9):
        link(registry, aliases=[f"a{hundred}-{number}" for number in range(100)])
    link(registry, aliases=[f"b{number}" for number in range(99)])
    with pytest.raises(InvalidInput, match=r"1,001 aliases; at most 1,000"):
        registry.add_alias("model", "churn", "one-more", "v0", actor=ANN)


# --- protected aliases


@pytest.fixture
def guarded(registry):
    """`prod*` is protected; v0 holds `production`, v1 is there."""
    registry.protect_aliases("model", ["prod*"], actor=BOSS)
    link(registry, "fraud/net:v0", aliases=["production"], actor=BOSS)
    link(registry, "fraud/net:v1")
    return registry


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda r, who: r.add_alias("model", "churn", "production", "v1", actor=who), id="move"),
        pytest.param(lambda r, who: r.add_alias("model", "churn", "prod-eu", "v1", actor=who), id="add"),
        pytest.param(lambda r, who: r.remove_alias("model", "churn", "production", actor=who), id="remove"),
        pytest.param(lambda r, who: r.unlink("model", "churn", "v0", actor=who), id="unlink"),
        pytest.param(lambda r, who: r.delete_collection("model", "churn", actor=who), id="delete its collection"),
        pytest.param(lambda r, who: link(r, "fraud/net:v2", aliases=["production"], actor=who), id="link with it"),
    ],
)
def test_only_an_admin_touches_a_protected_alias(guarded, act):
    """A member is refused and nothing changes; an admin is not."""
    before = guarded.collection("model", "churn")
    with pytest.raises(Forbidden, match=r"only an admin may .*; ann is a member"):
        act(guarded, ANN)
    assert guarded.collection("model", "churn") == before
    assert act(guarded, BOSS).events


def test_what_is_not_protected_moves_as_before(guarded):
    """Other aliases, other versions, other registries."""
    assert guarded.add_alias("model", "churn", "candidate", "v0", actor=ANN).events
    assert guarded.unlink("model", "churn", "v1", actor=ANN).events
    assert guarded.link("staging", "churn", "fraud/net:v0", aliases=["production"], actor=ANN).events


def test_a_pattern_does_not_keep_members_from_linking(registry):
    """`*` protects aliases that are given, not `latest` moving by itself; its exact name does protect that."""
    registry.protect_aliases("model", ["*"], actor=BOSS)
    assert link(registry).created
    registry.protect_aliases("model", ["latest"], actor=BOSS)
    with pytest.raises(Forbidden, match="latest"):
        link(registry, "fraud/net:v1")


def test_an_artifact_version_that_a_protected_alias_reaches_is_not_deleted(guarded):
    """Not even by an admin, who must move the alias first."""
    with pytest.raises(Conflict, match=r"fraud/net:v0 is model/churn:v0, which has the protected alias 'production'"):
        guarded.delete_artifact_version("fraud/net:v0", actor=BOSS)
    guarded.remove_alias("model", "churn", "production", actor=BOSS)
    assert guarded.delete_artifact_version("fraud/net:v0", actor=ANN).events


@pytest.mark.parametrize("role", ["viewer", "restricted-viewer"])
def test_viewers_change_nothing(registry, role):
    """Every mutation asks for the role first."""
    link(registry)
    who = type(ANN)("vic", role=role)
    acts = [
        lambda: link(registry, actor=who),
        lambda: registry.add_alias("model", "churn", "x", "v0", actor=who),
        lambda: registry.log_artifact("fraud", "net", "model", actor=who),
        lambda: registry.emit([("nightly", {})], actor=who),
        lambda: registry.create_collection("model", "new", "model", actor=who),
    ]
    for act in acts:
        with pytest.raises(Forbidden, match=rf"vic is a {role}"):
            act()


def test_only_an_admin_protects_aliases(registry):
    """And the history keeps what was protected before."""
    with pytest.raises(Forbidden):
        registry.protect_aliases("model", ["x"], actor=ANN)
    registry.protect_aliases("model", ["b", "a", "a"], actor=BOSS)
    registry.protect_aliases("model", ["c?"], actor=BOSS)
    assert registry.registries()[0].protected_aliases == ("c?",)
    newest = registry.history("model", None, cursor=None, limit=1).items[0]
    assert (newest.action, newest.before, newest.after) == (
        "protect-aliases",
        {"protected_aliases": ["a", "b"]},
        {"protected_aliases": ["c?"]},
    )
