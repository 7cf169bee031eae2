"""The rules of artifacts: drafts, what a version keeps, links, changes and deletion."""

from datetime import timedelta
from pathlib import Path

import upshot as wandb


def raises(kind, work, *words):
    """Call a function that must raise, and check the text of the error."""
    try:
        work()
    except kind as error:
        assert all(word in str(error) for word in words), str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")


def draft(name, text, **arguments):
    artifact = wandb.Artifact(name, "dataset", **arguments)
    with artifact.new_file("data.txt") as file:
        file.write(text)
    return artifact


run = wandb.init(project="rules")

first = draft("data", "one", description="first", metadata={"rows": 1, "columns": (1, 2)})
raises(Exception, lambda: first.version, "wait()")
link = wandb.link_artifact(first, "wandb-registry-dataset/Data", aliases="candidate")  # a draft is logged first
assert (first.version, link.version) == ("v0", "v0")
assert "candidate" in link.aliases
raises(ValueError, lambda: first.add_file(__file__), "was logged")
raises(ValueError, lambda: wandb.link_artifact(first, "Data"), "model-registry/Data")
raises(ValueError, lambda: wandb.link_artifact(first, "dataset/Data:v1"), "dataset/Data")

second = wandb.log_artifact(draft("data", "two")).wait()
assert second.version == "v1"
assert first.link("dataset/Data").source_version == "v0"  # its own version, whatever was logged since
assert wandb.log_artifact(draft("data", "two"), aliases=["again"]).wait().version == "v1"  # equal content
assert run.use_artifact("data").version == "v1"
assert run.use_artifact("rules/data:v0").metadata == {"rows": 1, "columns": [1, 2]}

used = run.use_artifact("data:again", type="dataset")
used.aliases.append("stable")
used.aliases.remove("again")
used.metadata["checked"] = {"by": "test"}
used.description = "second"
used.tags.append("clean")
used.save()
seen = wandb.Api().artifact("rules/data:stable")
assert (seen.description, seen.metadata["checked"], seen.tags) == ("second", {"by": "test"}, ["clean"])
assert "again" not in seen.aliases
del used.metadata["checked"]
used.save()
assert "checked" not in wandb.Api().artifact("rules/data:stable").metadata

assert [found.name for found in second.linked_artifacts] == []
other = second.link("dataset/Data", aliases=["new"])
assert second.linked_artifacts[0].name == "Data:v1"
other.unlink()
assert not wandb.Api().artifact_exists("dataset/Data:v1")
raises(ValueError, used.delete, "stable")
used.delete(delete_aliases=True)
assert not wandb.Api().artifact_exists("rules/data:v1")

Path("model.bin").write_bytes(b"weights")
wandb.log_model("model.bin", name="net")
assert Path(wandb.use_model("net:latest")).read_bytes() == b"weights"
registered = wandb.link_model("model.bin", "Net", name="net", aliases=["staging"])
assert (registered.type, registered.source_name) == ("model", "net:v0")
raises(ValueError, lambda: wandb.use_model("data:v0"), "not a model")
assert wandb.log_artifact("model.bin", type="weights").wait().source_name.startswith(f"run-{run.id}-model.bin:")

reference = wandb.Artifact("elsewhere", "dataset")
reference.add_reference(Path("model.bin").absolute().as_uri())
reference.add_reference("gs://bucket/key.bin")
wandb.log_artifact(reference).wait()
raises(ValueError, reference.download, "gs://")
assert (Path(reference.download(allow_missing_references=True)) / "model.bin").read_bytes() == b"weights"

lasting = wandb.Artifact("lasting", "dataset")
raises(AttributeError, lambda: lasting.ttl, "inherits")
lasting.ttl = timedelta(days=30)
wandb.log_artifact(lasting).wait()
assert wandb.Api().artifact(f"{run.project}/lasting:v0").ttl == timedelta(days=30)
lasting.ttl = None
lasting.save()
assert wandb.Api().artifact(f"{run.project}/lasting:v0").ttl is None
lasting.ttl = wandb.ArtifactTTL.INHERIT
lasting.save()
assert lasting.ttl is None
raises(ValueError, lambda: setattr(registered, "ttl", timedelta(days=1)), "source_artifact")

empty = wandb.log_artifact(wandb.Artifact("empty", "dataset")).wait()
assert empty.file_count == 0
assert list(Path(empty.download()).iterdir()) == []

run.finish()
raises(wandb.Error, lambda: run.log_artifact("model.bin"), "has finished")
raises(wandb.Error, lambda: wandb.log_artifact("model.bin"), "You must call upshot.init() before upshot.log_artifact()")
