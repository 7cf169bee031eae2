"""Log a checkpoint, link it with an alias, and use it from another run: what a training script does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import upshot as wandb

checkpoint = Path("checkpoint")
(checkpoint / "deep" / "er").mkdir(parents=True)
(checkpoint / "weights.bin").write_bytes(os.urandom(3_000_000))
(checkpoint / "deep" / "er" / "größe 1.txt").write_text("one")
(checkpoint / "empty").touch()

with wandb.init(project="nature", job_type="training", config={"lr": 0.1}, tags=["nightly"]) as run:
    assert wandb.run is run
    assert len(run.id) == 8
    assert len(run.name.split()) == 2
    artifact = wandb.Artifact(f"nature-{run.id}", type="model", metadata={"accuracy": 0.9})
    artifact.add_dir("checkpoint")
    with artifact.new_file("notes/readme.txt") as file:
        file.write("text")
    assert run.log_artifact(artifact, aliases=["best", "latest"]) is artifact
    assert artifact.wait() is artifact
    assert (artifact.version, artifact.name) == ("v0", f"nature-{run.id}:v0")
    assert sorted(artifact.aliases) == ["best", "latest"]
    assert artifact.file_count == 4
    link = run.link_artifact(artifact, "model-registry/Review Summarization", aliases=["staging"])
    assert (link.is_link, link.version, link.source_version) == (True, "v0", "v0")
assert not hasattr(wandb.run, "id")

with wandb.init(project="other", job_type="inference") as run:
    model = run.use_artifact("acme/model-registry/Review Summarization:staging", type="model")
    folder = model.download()
    assert folder == f"artifacts/{artifact.name}"
    for path in ("weights.bin", "deep/er/größe 1.txt", "empty"):
        assert (Path(folder) / path).read_bytes() == (checkpoint / path).read_bytes()
    (Path(folder) / "mine.txt").touch()
    model.download()
    assert (Path(folder) / "mine.txt").exists()
    (Path(folder) / "mine.txt").unlink()
    model.verify()
    (Path(folder) / "weights.bin").write_bytes(b"damaged")
    try:
        model.verify()
    except ValueError as error:
        assert "weights.bin" in str(error)
    else:
        raise AssertionError("a damaged file was not noticed")
    model.download()
    model.verify()
    assert [(found.id, found.name) for found in model.used_by()] == [(run.id, run.name)]
    maker = model.logged_by()
    assert (maker.job_type, maker.state, maker.config, maker.tags) == ("training", "finished", {"lr": 0.1}, ["nightly"])
    assert [found.name for found in maker.logged_artifacts()] == [artifact.name]
    try:
        run.use_artifact("model-registry/Review Summarization", type="dataset")
    except ValueError as error:
        assert "'model', not 'dataset'" in str(error)
    else:
        raise AssertionError("another type was accepted")
used = wandb.Api().run(f"other/{run.id}").used_artifacts()
assert [found.name for found in used] == [artifact.name]  # by its source, although it was used through the registry

try:
    with wandb.init(project="other", config={"a": 1}) as run:
        run.config.update({"a": 2}, allow_val_change=True)
        raise KeyError("x")
except KeyError:
    pass
failed = wandb.Api().run(f"other/{run.id}")
assert (failed.state, failed.config) == ("failed", {"a": 2})

for text in (link.usage("staging", project="other"), link.usage(), artifact.usage(), artifact.usage("best")):
    names: dict[str, Any] = {}
    exec(text, names)
    assert (Path(names["artifact_dir"]) / "weights.bin").exists()
    names["run"].finish()
commands = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
for number, (form, alias) in enumerate((form, alias) for form in ("cli", "curl") for alias in ("staging", None)):
    for each, name in ((link, alias), (artifact, alias and "best")):
        place = Path(f"usage-{number}-{each.is_link}")
        place.mkdir()
        subprocess.run(each.usage(name, form=form), shell=True, check=True, cwd=place, env=commands)
        (weights,) = place.rglob("weights.bin")
        for path in ("weights.bin", "deep/er/größe 1.txt", "empty"):
            assert (weights.parent / path).read_bytes() == (checkpoint / path).read_bytes(), (form, path)
assert 'run.use_artifact("model-registry/Review Summarization:staging", type="model")' in link.usage("staging")
