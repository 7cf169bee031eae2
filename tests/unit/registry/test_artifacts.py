"""Artifacts are logged, numbered, compared by content, and deleted."""

import math

import pytest

from tests.unit.registry.conftest import MEMBER, summarize
from upshot.errors import Conflict, InvalidInput, NotFound

MANIFEST = {"model.onnx": "sha256:aa", "data/train.csv": "sha256:bb"}


def log(registry, name="new", **given):
    return registry.log_artifact("fraud", name, "model", origin=MEMBER, **given)


def test_logging_creates_a_version_and_moves_latest_in_the_project(registry):
    """The event of the version comes first, then the events of its aliases in the project."""
    log(registry, digest="a")
    logged = log(registry, digest="b", aliases=["best"])

    assert logged.created
    assert logged.value.reference == "fraud/new:v1"
    assert logged.value.aliases == ("best", "latest")
    assert summarize(logged.events) == [
        ("artifact-created", "fraud/new:v1"),
        ("alias-removed", "fraud/new:v0", "latest"),
        ("alias-added", "fraud/new:v1", "latest"),
        ("alias-added", "fraud/new:v1", "best"),
    ]
    assert "registry" not in logged.events[0].data
    assert logged.events[2].data["previous"]["reference"] == "fraud/new:v0"


def test_equal_content_creates_no_version(registry):
    """Only the newest version is compared. Metadata does not count, and aliases still move."""
    first = log(registry, manifest=MANIFEST, metadata={"a": 1})
    again = log(registry, manifest=dict(reversed(MANIFEST.items())), metadata={"a": 2}, aliases=["best"])

    assert not again.created
    assert (first.metadata_ignored, again.metadata_ignored) == (False, True)
    assert again.value.reference == first.value.reference
    assert again.value.metadata == {"a": 1}
    assert summarize(again.events) == [("alias-added", "fraud/new:v0", "best")]
    assert log(registry, manifest=MANIFEST).events == ()

    log(registry, digest="other")
    assert log(registry, manifest=MANIFEST).value.name == "v2"


def test_without_content_the_metadata_distinguishes_versions(registry):
    """Other metadata without a digest or a manifest creates a version, so that the metadata is not lost."""
    first = log(registry, metadata={"accuracy": 0.9, "bar": 1})
    assert not log(registry, metadata={"bar": 1, "accuracy": 0.9}).created
    second = log(registry, metadata={"accuracy": 0.95, "bar": 1})
    assert second.created
    assert second.value.digest != first.value.digest
    assert second.value.manifest is None


def test_the_digest_is_computed_from_the_sorted_manifest(registry):
    """The order of entries does not matter, and every change gives another digest. The manifest can be read."""
    version = log(registry, manifest=MANIFEST).value
    assert version.digest.startswith("sha256:")
    assert len(version.digest) == len("sha256:") + 64
    assert log(registry, "b", manifest=MANIFEST | {"model.onnx": "sha256:ab"}).value.digest != version.digest
    files = registry.files("fraud/new:latest", cursor=None, limit=9).items
    assert {file.path: file.digest for file in files} == MANIFEST
    assert registry.artifact_version("fraud/net:v0").manifest is None


def test_another_type_is_rejected(registry):
    """All versions of an artifact have one type, and the message names both types."""
    with pytest.raises(Conflict, match="fraud/net is of type 'model', not 'dataset'"):
        registry.log_artifact("fraud", "net", "dataset", origin=MEMBER)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({"a": {"b": [1, math.nan]}}, r"metadata\.a\.b\[1\]: nan is not a JSON number", id="NaN"),
        pytest.param({"a": math.inf}, "inf is not a JSON number", id="infinity"),
        pytest.param({"a": 2**64}, "does not fit into 64 bits", id="number too large"),
        pytest.param({"a": "x" * 270_000}, "at most 262,144", id="too long"),
        pytest.param({"a": {1, 2}}, "a set is not JSON", id="Python object"),
        pytest.param({1: 2}, "key 1 is not a string", id="key that is a number"),
        pytest.param({"a": "\ud800"}, "cannot be stored", id="lone surrogate"),
        pytest.param({"a\x00": 1}, "cannot be stored", id="NUL in a key"),
        pytest.param(["a"], "must be a JSON object, not a list", id="list"),
    ],
)
def test_metadata_must_be_json_of_limited_size(registry, metadata, message):
    """Invalid metadata is rejected, and the message names the path of the value."""
    with pytest.raises(InvalidInput, match=message):
        log(registry, metadata=metadata)


def test_metadata_has_a_limited_depth(registry):
    """Metadata may be 32 levels deep, so that deeply nested metadata cannot crash a reader."""
    nested: dict[str, object] = {}
    for _ in range(10_000):
        nested = {"a": nested}
    with pytest.raises(InvalidInput, match="nested deeper than 32 levels"):
        log(registry, metadata=nested)


def test_the_registry_stores_a_copy_of_the_metadata(registry):
    """A change of the caller's object after the call does not reach the registry."""
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
        pytest.param({"digest": "a", "manifest": MANIFEST}, id="digest that does not match the manifest"),
        pytest.param({"manifest": {"../x": "a"}}, id="path outside the artifact"),
        pytest.param({"manifest": {"/x": "a"}}, id="absolute path"),
        pytest.param({"manifest": {"": "a"}}, id="empty path"),
        pytest.param({"manifest": {"a\\b": "a"}}, id="backslash"),
        pytest.param({"manifest": {"a": ""}}, id="empty content digest"),
        pytest.param({"manifest": {f"f{number}": "a" for number in range(10_001)}}, id="too many entries"),
        pytest.param(
            {"manifest": {f"{number:05}{'x' * 900}": "a" * 200 for number in range(5_000)}}, id="too many bytes"
        ),
        pytest.param({"description": "x" * 32_769}, id="long description"),
        pytest.param({"description": "a\x00"}, id="NUL in a description"),
        pytest.param({"aliases": ["v1"]}, id="alias of the form vN"),
    ],
)
def test_invalid_input_is_rejected_and_nothing_is_written(registry, given):
    """An invalid request does not even create the artifact."""
    with pytest.raises(InvalidInput):
        log(registry, **given)
    with pytest.raises(NotFound):
        registry.artifact_version("fraud/new")


def test_deleting_unlinks_everywhere(registry):
    """Links are removed with their events, `latest` moves on, and the number of the version is not used again."""
    registry.link("model", "a", "fraud/net:v2", origin=MEMBER)
    registry.link("model", "b", "fraud/net:v2", aliases=["x"], origin=MEMBER)

    deleted = registry.delete_artifact_version("fraud/net:latest", origin=MEMBER)

    assert summarize(deleted.events) == [
        ("alias-removed", "model/a:v0", "latest"),
        ("version-unlinked", "model/a:v0"),
        ("alias-removed", "model/b:v0", "latest"),
        ("alias-removed", "model/b:v0", "x"),
        ("version-unlinked", "model/b:v0"),
        ("alias-removed", "fraud/net:v2", "latest"),
        ("artifact-deleted", "fraud/net:v2"),
        ("alias-added", "fraud/net:v1", "latest"),
    ]
    assert registry.artifact_version("fraud/net:latest").name == "v1"
    assert log(registry, "net", digest="d2").value.name == "v3"
    assert log(registry, "net", digest="d2").events == ()


def test_artifact_versions_are_listed_newest_first(registry):
    """Pages of artifact versions begin with the newest version."""
    page = registry.artifact_versions("fraud", "net", cursor=None, limit=2)
    rest = registry.artifact_versions("fraud", "net", cursor=page.next, limit=2)
    assert [version.name for version in (*page.items, *rest.items)] == ["v2", "v1", "v0"]
    assert rest.next is None


def test_an_alias_in_a_project_is_moved_and_removed_like_one_in_a_collection(registry):
    """The event of the previous holder comes first, and aliases of collections do not change."""
    registry.link("model", "churn", "fraud/net:v0", aliases=["best"], origin=MEMBER)
    added = registry.add_artifact_alias("fraud", "net", "best", "v0", origin=MEMBER)
    moved = registry.add_artifact_alias("fraud", "net", "best", "latest", origin=MEMBER)
    removed = registry.remove_artifact_alias("fraud", "net", "best", origin=MEMBER)

    assert summarize(added.events) == [("alias-added", "fraud/net:v0", "best")]
    assert summarize(moved.events) == [
        ("alias-removed", "fraud/net:v0", "best"),
        ("alias-added", "fraud/net:v2", "best"),
    ]
    previous, new = (event.data for event in moved.events)
    assert (previous["moved_to"], previous["aliases"], previous["automatic"]) == ("v2", [], False)
    assert (new["previous"]["reference"], new["aliases"]) == ("fraud/net:v0", ["best", "latest"])
    assert moved.value.aliases == ("best", "latest")
    assert summarize(removed.events) == [("alias-removed", "fraud/net:v2", "best")]
    assert (removed.events[0].data["moved_to"], removed.events[0].data["aliases"]) == (None, ["latest"])
    assert registry.artifact_version("fraud/net:v2").aliases == ("latest",)
    assert registry.collection("model", "churn").aliases == {"best": "v0", "latest": "v0"}


def test_adding_an_existing_alias_or_tag_changes_nothing(registry):
    """An alias or a tag that the artifact version already has makes no event and no history entry."""
    registry.add_artifact_alias("fraud", "net", "best", "v0", origin=MEMBER)
    registry.add_artifact_tag("fraud", "net", "good", "v0", origin=MEMBER)
    entries = len(registry.history(None, None, cursor=None, limit=100).items)

    assert registry.add_artifact_alias("fraud", "net", "best", "v0", origin=MEMBER).events == ()
    assert registry.add_artifact_tag("fraud", "net", "good", "best", origin=MEMBER).events == ()
    assert len(registry.history(None, None, cursor=None, limit=100).items) == entries


def test_a_tag_added_in_the_project_shows_through_all_links(registry):
    """The tag belongs to the artifact version, so all links to it have the tag."""
    registry.link("model", "a", "fraud/net:v1", origin=MEMBER)
    registry.link("model", "b", "fraud/net:v1", origin=MEMBER)

    tagged = registry.add_artifact_tag("fraud", "net", "good", "v1", origin=MEMBER)
    seen = [registry.version("model", collection, "v0").artifact_version.tags for collection in ("a", "b")]
    untagged = registry.remove_artifact_tag("fraud", "net", "good", "v1", origin=MEMBER)

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
    assert registry.version("model", "a", "v0").artifact_version.tags == ()


def test_metadata_changed_in_the_project_shows_through_all_links(registry):
    """The event has the changed keys with both values, and a change without effect makes no event."""
    registry.link("model", "a", "fraud/net:v1", origin=MEMBER)

    changed = registry.update_artifact_version(
        "fraud", "net", "v1", metadata={"number": None, "f1": 0.5}, description="Better.", origin=MEMBER
    )
    again = registry.update_artifact_version("fraud", "net", "v1", metadata={"f1": 0.5}, origin=MEMBER)

    (event,) = changed.events
    assert (event.kind, event.subject) == ("version-updated", "fraud/net:v1")
    assert event.data["changes"] == {
        "metadata": {"f1": {"before": None, "after": 0.5}, "number": {"before": 1, "after": None}},
        "description": {"before": "", "after": "Better."},
    }
    assert event.data["version"]["metadata"] == {"f1": 0.5}
    linked = registry.version("model", "a", "v0").artifact_version
    assert (linked.metadata, linked.description) == ({"f1": 0.5}, "Better.")
    assert again.events == ()


def test_changes_of_an_artifact_version_in_its_project_are_in_the_history(registry):
    """The entries have the values before the change, and no registry."""
    registry.add_artifact_alias("fraud", "net", "best", "v0", origin=MEMBER)
    registry.add_artifact_alias("fraud", "net", "best", "v1", origin=MEMBER)
    registry.remove_artifact_alias("fraud", "net", "best", origin=MEMBER)
    registry.add_artifact_tag("fraud", "net", "good", "v1", origin=MEMBER)

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
            lambda r: r.add_artifact_alias("fraud", "net", "v7", "v0", origin=MEMBER), InvalidInput, "v7", id="alias vN"
        ),
        pytest.param(
            lambda r: r.add_artifact_alias("fraud", "net", "best", "v9", origin=MEMBER), NotFound, "v2", id="no version"
        ),
        pytest.param(
            lambda r: r.add_artifact_alias("fraud", "nte", "best", "v0", origin=MEMBER),
            NotFound,
            "'net'",
            id="no artifact",
        ),
        pytest.param(
            lambda r: r.remove_artifact_alias("fraud", "net", "lates", origin=MEMBER),
            NotFound,
            "'latest'",
            id="no alias",
        ),
        pytest.param(
            lambda r: r.remove_artifact_tag("fraud", "net", "x", "v0", origin=MEMBER),
            NotFound,
            "no tag 'x'",
            id="no tag",
        ),
        pytest.param(
            lambda r: r.add_artifact_tag("fraud", "net", "a/b", "v0", origin=MEMBER), InvalidInput, "'/'", id="bad tag"
        ),
    ],
)
def test_a_wrong_name_in_a_project_is_rejected_with_a_remedy(registry, change, error, message):
    """The message has a similar existing name, or the rule that the name breaks."""
    with pytest.raises(error, match=message):
        change(registry)
