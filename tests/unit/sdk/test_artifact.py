import os
from datetime import timedelta
from typing import Any

import pytest

from upshot import Artifact, ArtifactTTL
from upshot.domain.manifest import ManifestEntry
from upshot.sdk.json_values import merge_patch, to_json_object


@pytest.mark.parametrize("name", ["", "a/b", "a:v1", "a b", "ä", "x" * 129, "..", None, 3])
def test_names_are_checked_at_construction(name):
    """A name that W&B refuses is refused at once, as a ValueError."""
    with pytest.raises(ValueError, match="artifact name"):
        Artifact(name, "model")


def test_metadata_becomes_json_at_construction():
    """Number keys become text, tuples lists, NaN null, and objects with `item()` numbers."""

    class Scalar:
        def item(self):
            return 0.5

    metadata: Any = {1: (1, {2.5: Scalar()}), "nan": float("nan"), False: None}

    assert Artifact("a", "model", metadata=metadata).metadata == {"1": [1, {"2.5": 0.5}], "nan": None, "false": None}


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"x": float("inf")}, "inf"),
        ({"x": object()}, "object"),
        ({"x": "y" * 300_000}, "bytes of JSON"),
        ("text", "mapping"),
    ],
)
def test_wrong_metadata_is_refused_at_construction(metadata, word):
    """The error comes before anything is uploaded, and names the problem."""
    with pytest.raises(ValueError, match=word):
        Artifact("a", "model", metadata=metadata)


def test_files_get_their_base_name_or_the_given_one(tmp_path):
    """`add_file` uses the base name; `add_dir` adds the content, under `name/` if it is given."""
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    artifact = Artifact("a", "dataset")

    artifact.add_file(tmp_path / "b.txt")
    artifact.add_file(str(tmp_path / "b.txt"), name="other/b.txt")
    artifact.add_dir(tmp_path / "folder")
    artifact.add_dir(tmp_path / "folder", name="top")

    assert sorted(artifact.manifest.entries) == ["b.txt", "inner/a.txt", "other/b.txt", "top/inner/a.txt"]
    assert artifact.size == 4


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/./b", "a\\b", "a\x00b", ""])
def test_paths_stay_inside_the_artifact(tmp_path, name):
    """A path that leads out of the artifact is refused."""
    (tmp_path / "x").touch()

    with pytest.raises(ValueError, match="inside the artifact"):
        Artifact("a", "dataset").add_file(tmp_path / "x", name=name)


def test_links_out_of_the_folder_are_refused(tmp_path):
    """A link inside the folder is followed; one out of it, or in a circle, is refused by name."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "a").write_text("a")
    (folder / "inside").symlink_to("a")
    artifact = Artifact("a", "dataset")
    artifact.add_dir(folder)
    assert sorted(artifact.manifest.entries) == ["a", "inside"]

    (folder / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"out: this link leads out of"):
        Artifact("a", "dataset").add_dir(folder)
    (folder / "out").unlink()
    (folder / "circle").symlink_to(".")
    with pytest.raises(ValueError, match="circle"):
        Artifact("a", "dataset").add_dir(folder)
    (folder / "circle").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ValueError, match="a pipe is not a file"):
        Artifact("a", "dataset").add_dir(folder)


def test_names_that_differ_in_the_form_of_accents_are_refused(tmp_path):
    """Unicode names are kept as given, but two that are equal after NFC are refused."""
    (tmp_path / "x").touch()
    artifact = Artifact("a", "dataset")
    artifact.add_file(tmp_path / "x", name="u\u0308")
    assert list(artifact.manifest.entries) == ["u\u0308"]

    with pytest.raises(ValueError, match="accents"):
        artifact.add_file(tmp_path / "x", name="\u00fc")


def test_the_same_name_with_other_content_is_refused(tmp_path):
    """Adding equal content again is harmless; other content needs overwrite=True."""
    artifact = Artifact("a", "dataset")
    (tmp_path / "x").write_text("1")
    artifact.add_file(tmp_path / "x")
    artifact.add_file(tmp_path / "x")
    (tmp_path / "x").write_text("2")

    with pytest.raises(ValueError, match="overwrite=True"):
        artifact.add_file(tmp_path / "x")
    artifact.add_file(tmp_path / "x", overwrite=True)


def test_the_digest_depends_on_paths_and_content_only(tmp_path):
    """Neither the order nor the metadata changes the digest."""
    (tmp_path / "x").write_text("x")
    (tmp_path / "y").write_text("y")
    one, other = Artifact("a", "dataset"), Artifact("b", "model", metadata={"k": 1})
    for artifact, names in ((one, "xy"), (other, "yx")):
        for name in names:
            artifact.add_file(tmp_path / name)

    assert one.digest == other.digest


def test_a_new_file_is_added_when_it_is_complete():
    """`new_file` adds nothing if the block fails."""
    artifact = Artifact("a", "dataset")
    with artifact.new_file("a/b.bin", mode="wb") as file:
        file.write(b"abc")
    with pytest.raises(KeyError), artifact.new_file("c.txt") as file:
        raise KeyError
    assert {path: entry.size for path, entry in artifact.manifest.entries.items()} == {"a/b.bin": 3}
    with pytest.raises(ValueError, match="already"), artifact.new_file("a/b.bin"):
        pass


def test_a_draft_has_no_version():
    """Attributes of a version say that it must be logged and waited for."""
    artifact = Artifact("a", "dataset")

    for name in ("version", "id", "aliases", "source_version", "created_at"):
        with pytest.raises(AttributeError, match=r"wait\(\)"):
            getattr(artifact, name)
    assert artifact.name == "a"


def test_a_merge_patch_leads_from_one_object_to_the_other():
    """Keys that are gone become null, nested ones, too; equal values are left out."""
    before = {"a": 1, "b": {"c": 1, "d": 2}, "e": [1]}
    after = {"b": {"c": 1, "x": 3}, "e": [1, 2]}

    assert merge_patch(before, after) == {"a": None, "b": {"d": None, "x": 3}, "e": [1, 2]}


def test_local_references_are_recorded_with_their_checksum(tmp_path):
    """A reference to a local folder has one entry for each file, with its size and address."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.bin").write_bytes(b"abc")
    artifact = Artifact("a", "dataset")

    artifact.add_reference((tmp_path / "f").as_uri(), name="data")
    artifact.add_reference("s3://bucket/folder/key.bin", checksum=False)

    entries = artifact.manifest.entries
    assert entries["data/a.bin"].size == 3
    assert entries["data/a.bin"].ref_target() == (tmp_path / "f" / "a.bin").as_uri()
    assert entries["key.bin"].to_entry() == ManifestEntry(
        "key.bin", entries["key.bin"].digest, None, "s3://bucket/folder/key.bin"
    )


def test_nested_too_deeply():
    """Deep nesting is an error of its own, not one of Python's stack."""
    value: dict[str, Any] = {}
    for _ in range(50):
        value = {"x": value}

    with pytest.raises(ValueError, match="nested deeper"):
        to_json_object(value, "metadata")


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(days=-1), 30, "30d"])
def test_an_invalid_ttl_is_refused(ttl):
    """A time to live is a positive `timedelta`, None, or what `ArtifactTTL` has."""
    artifact = Artifact("a", "dataset")

    with pytest.raises(ValueError, match="must be a timedelta"):
        artifact.ttl = ttl


def test_a_draft_knows_its_own_ttl_only():
    """A time that was set can be read, and an inherited one is known when the artifact is logged."""
    artifact = Artifact("a", "dataset")

    with pytest.raises(AttributeError, match="inherits"):
        _ = artifact.ttl
    for ttl in (timedelta(days=3), None):
        artifact.ttl = ttl
        assert artifact.ttl == ttl
    artifact.ttl = ArtifactTTL.INHERIT
    with pytest.raises(AttributeError, match="inherits"):
        _ = artifact.ttl


@pytest.mark.parametrize(
    "name", ["id", "version", "project", "source_version", "source_project", "aliases", "tags", "created_at", "url"]
)
def test_attributes_of_a_version_are_unknown_before(name):
    """What the server decides raises an error on a draft that says what to call."""
    with pytest.raises(AttributeError, match=r"log it with run.log_artifact\(\), and call wait\(\) first"):
        getattr(Artifact("a", "dataset"), name)


@pytest.mark.parametrize(
    "name", ["download", "verify", "file", "files", "delete", "used_by", "logged_by", "usage", "wait"]
)
def test_a_draft_can_do_nothing_that_needs_a_version(name):
    """The same holds for methods: without a server, they say that the artifact was not logged."""
    with pytest.raises(AttributeError, match="call wait"):
        getattr(Artifact("a", "dataset"), name)()


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", r"C:\a.txt", "a//b", "a/./b", "", "a\x00"])
def test_a_path_out_of_the_artifact_is_refused(name, tmp_path):
    """`add_file` and `new_file` refuse it, and add nothing."""
    (tmp_path / "a.txt").write_text("a")
    artifact = Artifact("a", "dataset")

    with pytest.raises(ValueError, match="is not a path inside the artifact"):
        artifact.add_file(tmp_path / "a.txt", name=name)
    with pytest.raises(ValueError, match="is not a path inside the artifact"), artifact.new_file(name):
        pass
    assert len(artifact.manifest) == 0


def test_the_manifest_counts_files_and_references(tmp_path):
    """Files that were written and references both count, and a nested path is kept."""
    (tmp_path / "b.txt").write_text("bb")
    artifact = Artifact("a", "dataset")
    with artifact.new_file("nested/a.txt", "w") as file:
        file.write("text")
    artifact.add_reference((tmp_path / "b.txt").as_uri(), "b")

    assert {path: entry.size for path, entry in artifact.manifest.entries.items()} == {"nested/a.txt": 4, "b": 2}
    assert (len(artifact.manifest), artifact.size, artifact.file_count) == (2, 6, 2)
