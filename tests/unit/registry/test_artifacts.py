"""Artifacts: logged, numbered, compared by content, deleted."""

import math

import pytest

from tests.unit.registry.conftest import ANN, told
from upshot.errors import Conflict, InvalidInput, NotFound

MANIFEST = {"model.onnx": "sha256:aa", "data/train.csv": "sha256:bb"}


def log(registry, name="new", **given):
    return registry.log_artifact("fraud", name, "model", actor=ANN, **given)


def test_logging_makes_a_version_and_moves_latest_in_the_project(registry):
    """The version is announced first, then its aliases in the project's scope."""
    log(registry, digest="a")
    logged = log(registry, digest="b", aliases=["best"])

    assert logged.created
    assert logged.value.reference == "fraud/new:v1"
    assert logged.value.aliases == ("best", "latest")
    assert told(logged.events) == [
        ("artifact-created", "fraud/new:v1"),
        ("alias-removed", "fraud/new:v0", "latest"),
        ("alias-added", "fraud/new:v1", "latest"),
        ("alias-added", "fraud/new:v1", "best"),
    ]
    assert "registry" not in logged.events[0].data
    assert logged.events[2].data["previous"]["reference"] == "fraud/new:v0"


def test_equal_content_makes_no_new_version(registry):
    """Compared with `latest` only; metadata does not count, aliases still move."""
    first = log(registry, manifest=MANIFEST, metadata={"a": 1})
    again = log(registry, manifest=dict(reversed(MANIFEST.items())), metadata={"a": 2}, aliases=["best"])

    assert not again.created
    assert again.value.reference == first.value.reference
    assert again.value.metadata == {"a": 1}
    assert told(again.events) == [("alias-added", "fraud/new:v0", "best")]
    assert log(registry, manifest=MANIFEST).events == ()

    log(registry, digest="other")
    assert log(registry, manifest=MANIFEST).value.version == "v2"


def test_without_content_the_metadata_tells_versions_apart(registry):
    """A version that is logged with other metadata and nothing else is a new one: its metadata is not lost."""
    first = log(registry, metadata={"accuracy": 0.9, "bar": 1})
    assert not log(registry, metadata={"bar": 1, "accuracy": 0.9}).created
    second = log(registry, metadata={"accuracy": 0.95, "bar": 1})
    assert second.created
    assert second.value.digest != first.value.digest
    assert second.value.manifest is None


def test_the_digest_is_that_of_the_sorted_manifest(registry):
    """Any order gives the same, any change another one; the manifest can be read again."""
    one = log(registry, manifest=MANIFEST).value
    assert one.digest.startswith("sha256:")
    assert len(one.digest) == len("sha256:") + 64
    assert log(registry, "b", manifest=MANIFEST | {"model.onnx": "sha256:ab"}).value.digest != one.digest
    assert registry.artifact_version("fraud/new:latest").manifest == MANIFEST
    assert registry.artifact_version("fraud/net:v0").manifest is None


def test_another_type_is_refused(registry):
    """An artifact is of one type, and the message names both."""
    with pytest.raises(Conflict, match="fraud/net is of type 'model', not 'dataset'"):
        registry.log_artifact("fraud", "net", "dataset", actor=ANN)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({"a": {"b": [1, math.nan]}}, r"metadata\.a\.b\[1\]: nan is no JSON number", id="NaN"),
        pytest.param({"a": math.inf}, "inf is no JSON number", id="infinity"),
        pytest.param({"a": 2**64}, "does not fit into 64 bits", id="too large a number"),
        pytest.param({"a": "x" * 70_000}, "at most 65,536", id="too long"),
        pytest.param({"a": {1, 2}}, "a set is no JSON", id="a Python object"),
        pytest.param({1: 2}, "the key 1 is no string", id="a key that is a number"),
        pytest.param({"a": "\ud800"}, "cannot be kept", id="half a character"),
        pytest.param({"a\x00": 1}, "cannot be kept", id="NUL in a key"),
        pytest.param(["a"], "a JSON object is needed", id="a list"),
    ],
)
def test_metadata_must_be_json_of_a_bounded_size(registry, metadata, message):
    """The message says where."""
    with pytest.raises(InvalidInput, match=message):
        log(registry, metadata=metadata)


def test_metadata_has_a_bounded_depth(registry):
    """Deep enough for people, not for an attack on whoever reads it."""
    nested: dict[str, object] = {}
    for _ in range(10_000):
        nested = {"a": nested}
    with pytest.raises(InvalidInput, match="nested deeper than 32 levels"):
        log(registry, metadata=nested)


def test_later_changes_to_what_was_passed_do_not_reach_the_registry(registry):
    """What is kept is a copy."""
    metadata = {"scores": [1]}
    log(registry, metadata=metadata)
    metadata["scores"].append(2)
    assert registry.artifact_version("fraud/new:v0").metadata == {"scores": [1]}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"digest": ""}, id="empty digest"),
        pytest.param({"digest": "a b"}, id="digest with a space"),
        pytest.param({"digest": "x" * 201}, id="long digest"),
        pytest.param({"digest": "a", "manifest": MANIFEST}, id="digest that is not the manifest's"),
        pytest.param({"manifest": {"../x": "a"}}, id="path out of the artifact"),
        pytest.param({"manifest": {"/x": "a"}}, id="absolute path"),
        pytest.param({"manifest": {"": "a"}}, id="empty path"),
        pytest.param({"manifest": {"a\\b": "a"}}, id="backslash"),
        pytest.param({"manifest": {"a": ""}}, id="empty content digest"),
        pytest.param({"manifest": {f"f{number}": "a" for number in range(10_001)}}, id="too many entries"),
        pytest.param({"manifest": {f"{number:05}{'x' * 900}": "a" * 200 for number in range(5_000)}}, id="too big"),
        pytest.param({"description": "x" * 32_769}, id="long description"),
        pytest.param({"description": "a\x00"}, id="NUL in a description"),
        pytest.param({"aliases": ["v1"]}, id="an alias that means a version"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(registry, given):
    """Not even the artifact's name."""
    with pytest.raises(InvalidInput):
        log(registry, **given)
    with pytest.raises(NotFound):
        registry.artifact_version("fraud/new")


def test_deleting_unlinks_everywhere(registry):
    """Each link is unlinked with its events; numbers of deleted versions are not used again."""
    registry.link("model", "a", "fraud/net:v2", actor=ANN)
    registry.link("model", "b", "fraud/net:v2", aliases=["x"], actor=ANN)

    deleted = registry.delete_artifact_version("fraud/net:latest", actor=ANN)

    assert told(deleted.events) == [
        ("alias-removed", "model/a:v0", "latest"),
        ("version-unlinked", "model/a:v0"),
        ("alias-removed", "model/b:v0", "latest"),
        ("alias-removed", "model/b:v0", "x"),
        ("version-unlinked", "model/b:v0"),
        ("alias-removed", "fraud/net:v2", "latest"),
    ]
    with pytest.raises(NotFound, match="has no alias 'latest'"):
        registry.artifact_version("fraud/net:latest")
    assert log(registry, "net", digest="d2").value.version == "v3"


def test_artifact_versions_are_listed_newest_first(registry):
    """In pages."""
    page = registry.artifact_versions("fraud", "net", cursor=None, limit=2)
    rest = registry.artifact_versions("fraud", "net", cursor=page.next, limit=2)
    assert [one.version for one in (*page.items, *rest.items)] == ["v2", "v1", "v0"]
    assert rest.next is None


def test_an_alias_in_a_project_moves_and_goes_as_one_in_a_collection_does(registry):
    """The loser first, each with what was true after the change; a collection's aliases are not touched."""
    registry.link("model", "churn", "fraud/net:v0", aliases=["best"], actor=ANN)
    given = registry.add_artifact_alias("fraud", "net", "best", "v0", actor=ANN)
    moved = registry.add_artifact_alias("fraud", "net", "best", "latest", actor=ANN)
    gone = registry.remove_artifact_alias("fraud", "net", "best", actor=ANN)

    assert told(given.events) == [("alias-added", "fraud/net:v0", "best")]
    assert told(moved.events) == [("alias-removed", "fraud/net:v0", "best"), ("alias-added", "fraud/net:v2", "best")]
    lost, gained = (event.data for event in moved.events)
    assert (lost["moved_to"], lost["aliases"], lost["automatic"]) == ("v2", [], False)
    assert (gained["previous"]["reference"], gained["aliases"]) == ("fraud/net:v0", ["best", "latest"])
    assert moved.value.aliases == ("best", "latest")
    assert told(gone.events) == [("alias-removed", "fraud/net:v2", "best")]
    assert (gone.events[0].data["moved_to"], gone.events[0].data["aliases"]) == (None, ["latest"])
    assert registry.artifact_version("fraud/net:v2").aliases == ("latest",)
    assert registry.collection("model", "churn").aliases == {"best": "v0", "latest": "v0"}


def test_giving_an_artifact_version_what_it_has_changes_nothing(registry):
    """Neither an alias nor a tag that it has makes an event."""
    registry.add_artifact_alias("fraud", "net", "best", "v0", actor=ANN)
    registry.add_artifact_tag("fraud", "net", "good", "v0", actor=ANN)
    written = len(registry.history(None, None, cursor=None, limit=100).items)

    assert registry.add_artifact_alias("fraud", "net", "best", "v0", actor=ANN).events == ()
    assert registry.add_artifact_tag("fraud", "net", "good", "best", actor=ANN).events == ()
    assert len(registry.history(None, None, cursor=None, limit=100).items) == written


def test_a_tag_given_in_the_project_is_seen_through_all_links(registry):
    """It belongs to the artifact version, however it is reached."""
    registry.link("model", "a", "fraud/net:v1", actor=ANN)
    registry.link("model", "b", "fraud/net:v1", actor=ANN)

    tagged = registry.add_artifact_tag("fraud", "net", "good", "v1", actor=ANN)
    seen = [registry.version("model", collection, "v0").artifact.tags for collection in ("a", "b")]
    untagged = registry.remove_artifact_tag("fraud", "net", "good", "v1", actor=ANN)

    assert seen == [("good",), ("good",)]
    assert [(event.kind, event.subject) for event in (*tagged.events, *untagged.events)] == [
        ("tag-added", "fraud/net:v1"),
        ("tag-removed", "fraud/net:v1"),
    ]
    data = tagged.events[0].data
    assert (data["tag"], data["on"], data["version"]["tags"], data["project"]) == (
        "good",
        "version",
        ["good"],
        {"name": "fraud"},
    )
    assert registry.version("model", "a", "v0").artifact.tags == ()


def test_metadata_changed_in_the_project_is_seen_through_all_links(registry):
    """The event has the keys that changed and what they were; what changes nothing makes none."""
    registry.link("model", "a", "fraud/net:v1", actor=ANN)

    changed = registry.update_artifact_version(
        "fraud", "net", "v1", metadata={"number": None, "f1": 0.5}, description="Better.", actor=ANN
    )
    again = registry.update_artifact_version("fraud", "net", "v1", metadata={"f1": 0.5}, actor=ANN)

    (event,) = changed.events
    assert (event.kind, event.subject) == ("version-updated", "fraud/net:v1")
    assert event.data["changes"] == {
        "metadata": {"f1": {"before": None, "after": 0.5}, "number": {"before": 1, "after": None}},
        "description": {"before": "", "after": "Better."},
    }
    assert event.data["version"]["metadata"] == {"f1": 0.5}
    linked = registry.version("model", "a", "v0").artifact
    assert (linked.metadata, linked.description) == ({"f1": 0.5}, "Better.")
    assert again.events == ()


def test_what_is_done_to_an_artifact_version_in_its_project_is_history(registry):
    """With what it was before."""
    registry.add_artifact_alias("fraud", "net", "best", "v0", actor=ANN)
    registry.add_artifact_alias("fraud", "net", "best", "v1", actor=ANN)
    registry.remove_artifact_alias("fraud", "net", "best", actor=ANN)
    registry.add_artifact_tag("fraud", "net", "good", "v1", actor=ANN)

    newest = registry.history(None, None, cursor=None, limit=3).items

    assert [(entry.action, entry.subject, entry.registry) for entry in newest] == [
        ("add-tag", "fraud/net:v1", None),
        ("remove-alias", "fraud/net:v1", None),
        ("add-alias", "fraud/net:v1", None),
    ]
    assert newest[2].before == {"aliases": {"best": "v0"}}
    assert newest[1].before == {"alias": "best", "version": "v1"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            lambda r: r.add_artifact_alias("fraud", "net", "v7", "v0", actor=ANN), InvalidInput, "v7", id="alias vN"
        ),
        pytest.param(
            lambda r: r.add_artifact_alias("fraud", "net", "best", "v9", actor=ANN), NotFound, "v2", id="no version"
        ),
        pytest.param(
            lambda r: r.add_artifact_alias("fraud", "nte", "best", "v0", actor=ANN), NotFound, "'net'", id="no artifact"
        ),
        pytest.param(
            lambda r: r.remove_artifact_alias("fraud", "net", "lates", actor=ANN), NotFound, "'latest'", id="no alias"
        ),
        pytest.param(
            lambda r: r.remove_artifact_tag("fraud", "net", "x", "v0", actor=ANN), NotFound, "no tag 'x'", id="no tag"
        ),
        pytest.param(
            lambda r: r.add_artifact_tag("fraud", "net", "a/b", "v0", actor=ANN), InvalidInput, "'/'", id="bad tag"
        ),
    ],
)
def test_a_wrong_name_in_a_project_is_told(registry, change, error, message):
    """With the nearest right one, or the rule."""
    with pytest.raises(error, match=message):
        change(registry)
