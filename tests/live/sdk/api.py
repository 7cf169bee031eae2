"""The Api: artifacts, collections and registries without a run."""

from pathlib import Path

import upshot as wandb

with wandb.init(project="api") as run:
    for number in range(3):
        artifact = wandb.Artifact("series", "model")
        with artifact.new_file("number.txt") as file:
            file.write(str(number))
        run.log_artifact(artifact)
        run.link_artifact(artifact, "model-registry/Series", aliases=[f"number-{number}"])

api = wandb.Api(overrides={"project": "api"})
assert api.artifact("series:v1").version == "v1"
assert api.artifact("api/series").version == "v2"
assert api.artifact("acme/api/series:latest", type="model").file_count == 1
assert [found.version for found in api.artifacts("model", "api/series")] == ["v2", "v1", "v0"]
assert api.artifact("model-registry/Series:number-1").source_version == "v1"
assert api.artifact("model/Series:number-1").is_link
assert api.artifact_exists("series:v1")
assert not api.artifact_exists("series:v9")
assert not api.artifact_exists("nothing")
assert not api.artifact_exists("series", type="dataset")
collection = api.artifact_collection("model", "model-registry/Series")
assert len(collection.artifacts()) == 3
assert {"number-0", "latest"} <= set(collection.aliases)
assert api.artifact_collection("model", "series").name == "series"
assert "model" in [registry.name for registry in api.registries()]
versions = api.registries(filter={"name": "model"}).collections(filter={"name": {"$regex": "^Series$"}}).versions()
assert len(versions) == 3
entry = api.artifact("series:v0").get_entry("number.txt")
assert Path(entry.download(root="one")).read_text() == "0"
assert Path(api.artifact("series:v1").file()).read_text() == "1"
try:
    api.artifact("series", type="dataset")
except ValueError:
    pass
else:
    raise AssertionError("another type was accepted")
