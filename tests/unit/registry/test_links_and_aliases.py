"""The rules of links, versions and aliases."""

import pytest

from tests.unit.registry.conftest import ADMIN, MEMBER, summarize
from upshot.domain.event import Actor, ActorKind, Origin, Role
from upshot.domain.stage import Stage, parse_stage
from upshot.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, NotFound


def link(registry, source="fraud/net:v0", collection="churn", aliases=(), origin=MEMBER):
    return registry.link("model", collection, source, aliases=aliases, origin=origin)


def aliases(registry, collection="churn"):
    return dict(registry.collection("model", collection).aliases)


def test_a_collection_numbers_its_versions_in_the_order_of_links(registry):
    """The number of the artifact version does not matter."""
    assert link(registry, "fraud/net:v2").value.name == "v0"
    assert link(registry, "fraud/net:v0").value.name == "v1"
    assert registry.version("model", "churn", "v0").artifact_version.reference == "fraud/net:v2"


def test_linking_creates_the_collection_and_moves_latest(registry):
    """One mutation creates the collection and the link, moves `latest`, and then moves the requested aliases."""
    first = link(registry, aliases=["candidate"])
    second = link(registry, "fraud/net:v1", aliases=["candidate"])

    assert summarize(first.events) == [
        ("collection-created", "model/churn"),
        ("version-linked", "model/churn:v0"),
        ("alias-added", "model/churn:v0", "latest"),
        ("alias-added", "model/churn:v0", "candidate"),
    ]
    assert summarize(second.events) == [
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


def test_a_link_moves_latest_automatically_also_if_it_is_requested(registry):
    """W&B's SDK always asks for `latest`; only a person who moves it by itself makes a decision."""
    linked = link(registry, aliases=["latest", "best"])
    assert {event.data["alias"]: event.data["automatic"] for event in linked.events if "alias" in event.data} == {
        "latest": True,
        "best": False,
    }
    link(registry, "fraud/net:v1")
    again = link(registry, aliases=["latest"])
    assert [event.data["automatic"] for event in again.events] == [True, True]
    moved = registry.add_alias("model", "churn", "latest", "v1", origin=MEMBER)
    assert [event.data["automatic"] for event in moved.events] == [False, False]


def test_events_of_a_mutation_are_numbered_and_published_together(registry, published):
    """They share a mutation id, are numbered from 0, and are published in one batch after the commit."""
    linked = link(registry, aliases=["a", "b"])

    assert [event.sequence for event in linked.events] == list(range(len(linked.events)))
    assert len({event.mutation_id for event in linked.events}) == 1
    assert sorted(event.id for event in linked.events) == [event.id for event in linked.events]
    assert published.batches == [list(linked.events)]


def test_the_same_artifact_version_keeps_its_number(registry):
    """Linking it again makes no link event. Requested aliases still move, and `latest` does not."""
    link(registry, "fraud/net:v0")
    link(registry, "fraud/net:v1")

    linked_again = link(registry, "fraud/net:v0", aliases=["production"])

    assert linked_again.value.name == "v0"
    assert not linked_again.created
    assert summarize(linked_again.events) == [("alias-added", "model/churn:v0", "production")]
    assert aliases(registry) == {"latest": "v1", "production": "v0"}
    assert link(registry, "fraud/net:v0").events == ()


def test_numbers_are_never_used_again(registry):
    """Numbers continue after an unlink. A new collection with the name of a deleted one starts with v0."""
    link(registry, "fraud/net:v0")
    link(registry, "fraud/net:v1")
    registry.unlink("model", "churn", "v1", origin=MEMBER)
    assert link(registry, "fraud/net:v1").value.name == "v2"

    registry.delete_collection("model", "churn", origin=MEMBER)
    assert link(registry, "fraud/net:v1").value.name == "v0"


def test_linking_a_link_links_its_artifact_version(registry):
    """The second collection links the artifact version, and aliases are not copied."""
    link(registry, "fraud/net:v2", aliases=["production"])

    copied = link(registry, "model/churn:production", collection="churn-eu").value

    assert copied.artifact_version.reference == "fraud/net:v2"
    assert copied.aliases == ("latest",)


@pytest.mark.parametrize(
    "reference",
    [
        "model/churn:v0",
        "model-registry/churn:v0",
        "acme/model-registry/churn:v0",
        "wandb-registry-model/churn:v0",
        "acme/wandb-registry-model/churn:v0",
        "fraud/net:v2",
        "acme/fraud/net:v2",
    ],
)
def test_references_of_wandb_are_read(registry, reference):
    """The forms that W&B's pages show refer to links of a registry, or to an artifact of a project."""
    link(registry, "fraud/net:v2")

    assert link(registry, reference, collection="a").value.artifact_version.digest == "d2"


def test_a_name_belongs_to_a_registry_or_to_a_project(registry):
    """A reference never has two meanings. The registry `model` has its name also before its first link."""
    with pytest.raises(Conflict, match="there is a registry 'model', and a project cannot have the same name"):
        registry.log_artifact("model", "churn", "model", digest="other", origin=MEMBER)
    link(registry)
    with pytest.raises(Conflict, match="there is a registry 'model', and a project cannot have the same name"):
        registry.log_artifact("model", "churn", "model", digest="other", origin=MEMBER)
    with pytest.raises(Conflict, match="there is a project 'fraud', and a registry cannot have the same name"):
        registry.create_collection("fraud", "churn", "model", origin=MEMBER)
    with pytest.raises(Conflict, match="there is a project 'fraud'"):
        registry.protect_aliases("fraud", ["x"], origin=ADMIN)
    with pytest.raises(Conflict, match="there is a registry 'model'"):
        registry.rename_project("fraud", "model", origin=ADMIN)


def test_latest_moves_on_when_its_version_is_unlinked(registry):
    """The newest version that remains gets `latest`; the move is automatic, and nobody sees a collection without it."""
    for number in range(3):
        link(registry, f"fraud/net:v{number}")

    unlinked = registry.unlink("model", "churn", "v2", origin=MEMBER)

    assert summarize(unlinked.events) == [
        ("alias-removed", "model/churn:v2", "latest"),
        ("version-unlinked", "model/churn:v2"),
        ("alias-added", "model/churn:v1", "latest"),
    ]
    removed, _, added = unlinked.events
    assert (removed.data["automatic"], removed.data["moved_to"]) == (True, "v1")
    assert (added.data["automatic"], added.data["previous"]["name"]) == (True, "v2")
    assert aliases(registry) == {"latest": "v1"}
    registry.unlink("model", "churn", "v0", origin=MEMBER)
    assert summarize(registry.unlink("model", "churn", "v1", origin=MEMBER).events) == [
        ("alias-removed", "model/churn:v1", "latest"),
        ("version-unlinked", "model/churn:v1"),
    ]


def test_an_id_of_the_client_makes_a_request_repeatable(registry):
    """A second request with the id of a version or a link returns it, whatever happened meanwhile."""
    version_id, link_id = "ver_01kdwpvng00000000000000009", "lnk_01kdwpvng00000000000000009"
    logged = registry.log_artifact("fraud", "net", "model", digest="d9", version_id=version_id, origin=MEMBER)
    registry.log_artifact("fraud", "net", "model", digest="d10", origin=MEMBER)
    linked = registry.link("model", "churn", logged.value.reference, link_id=link_id, origin=MEMBER)

    again = registry.log_artifact("fraud", "net", "model", digest="d9", version_id=version_id, origin=MEMBER)
    linked_again = registry.link("model", "churn", "fraud/net:latest", link_id=link_id, origin=MEMBER)

    assert (again.value.reference, again.value.id, again.events) == ("fraud/net:v3", version_id, ())
    assert (linked_again.value.reference, linked_again.value.id) == (linked.value.reference, link_id)
    assert linked_again.events == ()
    with pytest.raises(InvalidInput, match="must be ver_"):
        registry.log_artifact("fraud", "net", "model", version_id="7", origin=MEMBER)


def test_another_artifact_type_is_rejected(registry):
    """A collection has one artifact type, and the message names both types."""
    registry.create_collection("model", "churn", "dataset", origin=MEMBER)
    with pytest.raises(Conflict, match=r"model/churn is for artifacts of type 'dataset', and .*v0 is of type 'model'"):
        link(registry)


def test_an_alias_has_one_holder(registry):
    """The event of the previous holder comes first, and both events name the other version."""
    link(registry, "fraud/net:v0", aliases=["production"])
    link(registry, "fraud/net:v1")

    moved = registry.add_alias("model", "churn", "production", "v1", origin=MEMBER)

    assert summarize(moved.events) == [
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
    """It makes no history entry either, and nothing is published."""
    link(registry, aliases=["production"])
    registry.add_tag("model", "churn", "nice", "v0", origin=MEMBER)
    registry.add_tag("model", "churn", "nice", origin=MEMBER)
    published.batches.clear()
    before = registry.history(None, None, cursor=None, limit=100)

    assert registry.add_alias("model", "churn", "production", "latest", origin=MEMBER).events == ()
    assert registry.add_tag("model", "churn", "nice", "v0", origin=MEMBER).events == ()
    assert registry.add_tag("model", "churn", "nice", origin=MEMBER).events == ()
    assert registry.update_collection("model", "churn", description="", origin=MEMBER).events == ()
    assert registry.update_version("model", "churn", "v0", metadata={"number": 0}, origin=MEMBER).events == ()

    assert published.batches == []
    assert registry.history(None, None, cursor=None, limit=100) == before


def test_a_version_is_found_by_number_and_by_alias(registry):
    """Reads and changes accept `vN` and aliases."""
    link(registry, aliases=["production"])
    assert registry.version("model", "churn", "production") == registry.version("model", "churn", "v0")
    registry.add_alias("model", "churn", "blue", "production", origin=MEMBER)
    assert aliases(registry)["blue"] == "v0"


def test_removing_an_alias_names_its_holder(registry):
    """The event has the version that lost the alias, and `moved_to` is null."""
    link(registry, aliases=["production"])
    removed = registry.remove_alias("model", "churn", "production", origin=MEMBER)
    assert summarize(removed.events) == [("alias-removed", "model/churn:v0", "production")]
    assert removed.events[0].data["moved_to"] is None
    assert aliases(registry) == {"latest": "v0"}


def test_unlinking_removes_the_link_and_its_aliases(registry):
    """The events of the aliases come first, then the event of the link. The artifact version stays."""
    link(registry, aliases=["production"])

    unlinked = registry.unlink("model", "churn", "production", origin=MEMBER)

    assert summarize(unlinked.events) == [
        ("alias-removed", "model/churn:v0", "latest"),
        ("alias-removed", "model/churn:v0", "production"),
        ("version-unlinked", "model/churn:v0"),
    ]
    assert unlinked.events[-1].data["aliases"] == ["latest", "production"]
    assert unlinked.events[-1].data["version"]["aliases"] == []
    assert aliases(registry) == {}
    assert registry.artifact_version("fraud/net:v0").digest == "d0"
    with pytest.raises(NotFound, match="model/churn has no version 'v0'; it has no versions"):
        registry.version("model", "churn", "v0")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        pytest.param(lambda r: r.version("model", "churn", "prodution"), "did you mean 'production'", id="alias"),
        pytest.param(
            lambda r: r.version("model", "churn", "v7"), "no version 'v7'; its newest version is v0", id="number"
        ),
        pytest.param(lambda r: r.collection("model", "Chrun"), "did you mean 'churn'", id="collection"),
        pytest.param(
            lambda r: r.collection("modle", "churn"), "no registry 'modle'; did you mean 'model'", id="registry"
        ),
        pytest.param(
            lambda r: r.collections("zzz", cursor=None, limit=1),
            "no registry 'zzz'; choose from 'model'",
            id="no similar name",
        ),
        pytest.param(lambda r: link(r, "fraud/nte:v0"), "no artifact 'nte'; did you mean 'net'", id="artifact"),
        pytest.param(lambda r: link(r, "fruad/net:v0"), "no project 'fruad'; did you mean 'fraud'", id="project"),
        pytest.param(
            lambda r: link(r, "fraud/net:v3"), "no version 'v3'; its newest version is v2", id="artifact version"
        ),
        pytest.param(lambda r: link(r, "model/chrun:v0"), "did you mean 'churn'", id="link of a link"),
        pytest.param(
            lambda r: r.remove_tag("model", "churn", "nicer", "v0", origin=MEMBER), "did you mean 'nice'", id="tag"
        ),
        pytest.param(
            lambda r: r.remove_alias("model", "churn", "Production", origin=MEMBER),
            "did you mean 'production'",
            id="remove",
        ),
    ],
)
def test_errors_for_unknown_names_suggest_an_existing_name(registry, read, message):
    """The message has a similar existing name, or the names that exist."""
    link(registry, aliases=["production"])
    registry.add_tag("model", "churn", "nice", "v0", origin=MEMBER)
    with pytest.raises(NotFound, match=message):
        read(registry)


@pytest.mark.parametrize("name", ["v3", "v0", "", " x", "a/b", "a:b", "a%", "x" * 129, "\ud800", "a\nb", "a\x00b"])
def test_an_invalid_alias_is_rejected(registry, name):
    """`vN` refers to the version itself, and some characters are reserved for references and URLs."""
    link(registry)
    with pytest.raises(InvalidInput):
        registry.add_alias("model", "churn", name, "v0", origin=MEMBER)
    with pytest.raises(InvalidInput):
        link(registry, aliases=["valid", name])
    assert aliases(registry) == {"latest": "v0"}


@pytest.mark.parametrize(
    "reference", ["net", "fraud/net:", "fraud//net:v0", "a/b/c/d:v0", "/:v0", "fraud/net:v0:v1", ""]
)
def test_an_invalid_reference_is_rejected(registry, reference):
    """A text without the form of a reference is invalid input."""
    with pytest.raises(InvalidInput):
        link(registry, reference)


def test_the_number_of_aliases_is_limited(registry):
    """There is one limit for a request and one for a collection."""
    with pytest.raises(InvalidInput, match="101 aliases in one request"):
        link(registry, aliases=[f"a{number}" for number in range(101)])
    link(registry)
    for hundred in range(9):
        link(registry, aliases=[f"a{hundred}-{number}" for number in range(100)])
    link(registry, aliases=[f"b{number}" for number in range(99)])
    with pytest.raises(InvalidInput, match=r"1,001 aliases; at most 1,000"):
        registry.add_alias("model", "churn", "one-more", "v0", origin=MEMBER)


# --- protected aliases


@pytest.fixture
def protected(registry):
    """Return a registry where `prod*` is protected, v0 holds `production`, and v1 has no protected alias."""
    registry.protect_aliases("model", ["prod*"], origin=ADMIN)
    link(registry, "fraud/net:v0", aliases=["production"], origin=ADMIN)
    link(registry, "fraud/net:v1")
    return registry


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r, origin: r.add_alias("model", "churn", "production", "v1", origin=origin), id="move"),
        pytest.param(lambda r, origin: r.add_alias("model", "churn", "prod-eu", "v1", origin=origin), id="add"),
        pytest.param(lambda r, origin: r.remove_alias("model", "churn", "production", origin=origin), id="remove"),
        pytest.param(lambda r, origin: r.unlink("model", "churn", "v0", origin=origin), id="unlink"),
        pytest.param(
            lambda r, origin: r.delete_collection("model", "churn", origin=origin), id="delete its collection"
        ),
        pytest.param(
            lambda r, origin: link(r, "fraud/net:v2", aliases=["production"], origin=origin), id="link with it"
        ),
    ],
)
def test_only_an_admin_may_change_a_protected_alias(protected, change):
    """A member is rejected and nothing changes; an admin may make the change."""
    before = protected.collection("model", "churn")
    with pytest.raises(Forbidden, match=r"only an admin may .*; ann is a member"):
        change(protected, MEMBER)
    assert protected.collection("model", "churn") == before
    assert change(protected, ADMIN).events


def test_other_aliases_are_not_protected(protected):
    """Members may change other aliases, other versions and other registries."""
    assert protected.add_alias("model", "churn", "candidate", "v0", origin=MEMBER).events
    assert protected.unlink("model", "churn", "v1", origin=MEMBER).events
    assert protected.link("staging", "churn", "fraud/net:v0", aliases=["production"], origin=MEMBER).events


def test_a_protected_pattern_does_not_forbid_links(registry):
    """`*` protects requested aliases, but not the automatic move of `latest`. Only `latest` itself protects that."""
    registry.protect_aliases("model", ["*"], origin=ADMIN)
    assert link(registry).created
    registry.protect_aliases("model", ["latest"], origin=ADMIN)
    with pytest.raises(Forbidden, match="latest"):
        link(registry, "fraud/net:v1")


def test_an_artifact_version_with_a_protected_alias_is_not_deleted(protected):
    """Even an admin must first move the alias of the link."""
    with pytest.raises(
        Conflict, match=r"fraud/net:v0 is linked as model/churn:v0, which has the protected alias 'production'"
    ):
        protected.delete_artifact_version("fraud/net:v0", origin=ADMIN)
    protected.remove_alias("model", "churn", "production", origin=ADMIN)
    assert protected.delete_artifact_version("fraud/net:v0", origin=MEMBER).events


@pytest.mark.parametrize("role", ["viewer", "restricted-viewer"])
def test_viewers_may_not_change_anything(registry, role):
    """Every mutation checks the role first."""
    link(registry)
    viewer = Origin(Actor("vic", role=Role(role)))
    changes = [
        lambda: link(registry, origin=viewer),
        lambda: registry.add_alias("model", "churn", "x", "v0", origin=viewer),
        lambda: registry.log_artifact("fraud", "net", "model", origin=viewer),
        lambda: registry.emit([("nightly", {})], origin=viewer),
        lambda: registry.create_collection("model", "new", "model", origin=viewer),
    ]
    for change in changes:
        with pytest.raises(Forbidden, match=rf"vic is a {role}"):
            change()


def test_only_an_admin_may_protect_aliases(registry):
    """A member is rejected, and the history keeps the earlier patterns."""
    with pytest.raises(Forbidden):
        registry.protect_aliases("model", ["x"], origin=MEMBER)
    registry.protect_aliases("model", ["b", "a", "a"], origin=ADMIN)
    registry.protect_aliases("model", ["c?"], origin=ADMIN)
    assert registry.registries()[0].protected_aliases == ("c?",)
    newest = registry.history("model", None, cursor=None, limit=1).items[0]
    assert (newest.action, newest.before, newest.after) == (
        "protect-aliases",
        {"protected_aliases": ["a", "b"], "allowed_automations": []},
        {"protected_aliases": ["c?"], "allowed_automations": []},
    )


def test_an_allowed_automation_may_move_protected_aliases(registry):
    """The protection names automations. Every other automation is refused, and the message names the allowed ones."""
    registry.protect_aliases("model", ["prod*"], automations=["promote"], origin=ADMIN)
    link(registry)
    promote = Origin(Actor("promote", ActorKind.AUTOMATION))
    other = Origin(Actor("other", ActorKind.AUTOMATION))
    person = Origin(Actor("promote"))

    with pytest.raises(Forbidden, match=r"automation other is not one of its allowed automations \(promote\)"):
        registry.add_alias("model", "churn", "production", "v0", origin=other)
    with pytest.raises(Forbidden, match="promote is a member"):
        registry.add_alias("model", "churn", "production", "v0", origin=person)
    registry.add_alias("model", "churn", "production", "v0", origin=promote)
    assert aliases(registry)["production"] == "v0"


# --- renaming


def test_a_renamed_collection_keeps_everything(registry):
    """Id, versions, aliases and history stay; the event has the previous name, and the old name is free."""
    link(registry, aliases=["production"])
    before = registry.collection("model", "churn")

    renamed = registry.update_collection("model", "churn", new_name="leaving", origin=MEMBER)

    assert summarize(renamed.events) == [("collection-updated", "model/leaving")]
    assert renamed.events[0].data["changes"] == {"name": {"before": "churn", "after": "leaving"}}
    after = registry.collection("model", "leaving")
    assert (after.id, after.aliases) == (before.id, before.aliases)
    assert registry.version("model", "leaving", "production").reference == "model/leaving:v0"
    actions = [entry.action for entry in registry.history("model", "leaving", cursor=None, limit=9).items]
    assert actions == ["update-collection", "link", "create-collection"]
    assert registry.history("model", "churn", cursor=None, limit=9).items == ()
    with pytest.raises(NotFound):
        registry.collection("model", "churn")
    assert link(registry).value.name == "v0"
    with pytest.raises(AlreadyExists):
        registry.update_collection("model", "churn", new_name="leaving", origin=MEMBER)


def test_a_collection_with_a_protected_alias_is_renamed_by_an_admin_only(protected):
    """A renamed collection would otherwise take its protected alias to another name."""
    with pytest.raises(Forbidden, match="may rename its collection"):
        protected.update_collection("model", "churn", new_name="other", origin=MEMBER)
    protected.update_collection("model", "churn", new_name="other", origin=ADMIN)


def test_renamed_artifacts_and_projects_keep_their_links(registry):
    """Links, events and lineage refer to ids, and references show the new names."""
    link(registry, "fraud/net:v1", aliases=["production"])
    with pytest.raises(Forbidden, match="only an admin may rename project 'fraud'"):
        registry.rename_project("fraud", "risk", origin=MEMBER)
    registry.rename_artifact("fraud", "net", "network", origin=ADMIN)
    registry.rename_project("fraud", "risk", origin=ADMIN)

    assert registry.version("model", "churn", "production").artifact_version.reference == "risk/network:v1"
    assert registry.artifact_version("risk/network:latest").digest == "d2"
    assert registry.projects(cursor=None, limit=9).items == ("risk",)
    assert [version.reference for version in registry.links("risk", "network", "v1")] == ["model/churn:v0"]
    with pytest.raises(NotFound):
        registry.artifact("fraud", "net")


# --- stages


def test_a_stage_transition_may_archive_the_others(registry):
    """The versions that leave the stage come first, each with an event of its own."""
    for number in range(3):
        link(registry, f"fraud/net:v{number}")
    registry.set_stage("model", "churn", "v0", Stage.PRODUCTION, origin=MEMBER)
    registry.set_stage("model", "churn", "v1", Stage.PRODUCTION, origin=MEMBER)

    moved = registry.set_stage("model", "churn", "v2", Stage.PRODUCTION, archive_existing=True, origin=MEMBER)

    assert [(event.subject, event.data["stage"]) for event in moved.events] == [
        ("model/churn:v0", {"from": "Production", "to": "Archived"}),
        ("model/churn:v1", {"from": "Production", "to": "Archived"}),
        ("model/churn:v2", {"from": "None", "to": "Production"}),
    ]
    assert moved.events[2].data["version"]["stage"] == "Production"
    assert registry.set_stage("model", "churn", "v2", Stage.PRODUCTION, origin=MEMBER).events == ()
    assert registry.history("model", "churn", cursor=None, limit=1).items[0].after == {"stage": "Production"}


@pytest.mark.parametrize(
    ("text", "stage"),
    [("development", Stage.NONE), ("none", Stage.NONE), ("PRODUCTION", Stage.PRODUCTION), ("retired", Stage.ARCHIVED)],
)
def test_stages_have_names_for_people_of_both_worlds(text, stage):
    """MLflow's words are read in any case, and so are the words that Upshot uses for people."""
    assert parse_stage(text) is stage


def test_an_unknown_stage_is_refused():
    """The message names the nearest word."""
    with pytest.raises(InvalidInput, match="no stage 'prodution'; did you mean 'production'"):
        parse_stage("prodution")
