"""The Api and the refusals: find runs, read their values, walk from a version to its run and on."""

import math

import upshot as wandb


def raises(kind, work, *words):
    """Call a function that must raise, and check the text of the error."""
    try:
        work()
    except kind as error:
        assert all(word in str(error) for word in words), str(error)
    else:
        raise AssertionError(f"no {kind.__name__}")


def draft(name):
    artifact = wandb.Artifact(name, "dataset")
    with artifact.new_file("data.txt") as file:
        file.write(name)
    return artifact


with wandb.init(project="read", id="prepare", job_type="preprocessing") as run:
    wandb.link_artifact(draft("raw"), "wandb-registry-dataset/Raw", aliases=["checked"])
rates = [0.1, 0.01, 1 / 3]
for number, rate in enumerate(rates):
    with wandb.init(
        project="read", id=f"train-{number}", job_type="training", config={"lr": rate, "model": {"depth": number}}
    ) as run:
        run.tags += ("best",) if number == 1 else ("other",)
        run.use_artifact("wandb-registry-dataset/Raw:checked")
        for step in range(10):
            run.log({"loss": rate / (step + 1), "odd": step} if step % 2 else {"loss": rate / (step + 1)})
        run.log_artifact(draft(f"model-{number}"))
        run.summary["acc"] = 1 - rate
try:
    with wandb.init(project="read", id="broken"):
        raise KeyError("a mistake")
except KeyError:
    pass

api = wandb.Api(overrides={"project": "read"})
names = ["prepare", "train-0", "train-1", "train-2", "broken"]
assert [run.id for run in api.runs()] == names
assert [run.id for run in api.runs("read", order="-created_at")] == names[::-1]


def found(filters, order="+created_at"):
    return [run.id for run in api.runs("acme/read", filters=filters, order=order)]


assert found({"jobType": "training"}) == names[1:4]
assert found({"state": "failed"}) == ["broken"]
assert found({"config.lr": {"$lt": 0.2}, "tags": "other"}) == ["train-0"]
assert found({"$or": [{"config.lr": 0.01}, {"name": "prepare"}]}) == ["prepare", "train-1"]
assert found({"summary_metrics.acc": {"$gte": 0.9}}, order="-summary_metrics.acc") == ["train-1", "train-0"]
assert found({"tags": {"$in": ["best"]}, "state": {"$ne": "failed"}}) == ["train-1"]
assert found({"config.model.depth": {"$exists": True}, "name": {"$regex": "^train-[02]$"}}) == ["train-0", "train-2"]
raises(wandb.Error, lambda: found({"config.lr": {"$near": 1}}), "$near")
raises(wandb.Error, lambda: found({"nothing": 1}), "nothing")

seen = api.run("read/train-2")
assert (seen.id, seen.state, seen.job_type) == ("train-2", "finished", "training")
assert seen.config["lr"] == seen.config.get("lr") == 1 / 3
assert "lr" in seen.config
assert list(seen.config) == ["lr", "model"]
assert seen.summary["acc"] == 1 - 1 / 3
assert seen.summary["loss"] == (1 / 3) / 10
assert set(seen.summary.keys()) == {"loss", "odd", "acc"}
assert dict(seen.summary.items())["odd"] == 9
losses = [row["loss"] for row in seen.scan_history()]
assert losses == [(1 / 3) / (step + 1) for step in range(10)]
assert [row["_step"] for row in seen.scan_history(keys=["odd"])] == [1, 3, 5, 7, 9]
assert [row["_step"] for row in seen.scan_history(min_step=2, max_step=5, page_size=1)] == [2, 3, 4]
assert [row["loss"] for row in seen.history(keys=["loss"], pandas=False)] == losses
assert len(seen.history(samples=3, keys=["loss"], pandas=False)) <= 3
raises(ValueError, lambda: seen.history(keys="loss"), "list of texts")  # type: ignore[arg-type] # on purpose
assert all(math.isfinite(row["_timestamp"]) for row in seen.scan_history())

# From a version to the run that logged it, what that used, and on.
version = api.artifact("model-2")
producer = version.logged_by()
assert producer.id == "train-2"
(used,) = producer.used_artifacts()
assert (used.name, used.is_link) == ("raw:v0", False)  # by its source, although it was used through the registry
assert used.logged_by().id == "prepare"
assert [other.id for other in used.used_by()] == ["train-0", "train-1", "train-2"]
assert [artifact.name for artifact in used.used_by()[1].logged_artifacts()] == ["model-1:v0"]

# What there is not.
for name in ("sweep", "agent", "controller", "Video", "Audio", "Object3D", "Molecule", "Html", "integration"):
    assert not hasattr(wandb, name)
assert not hasattr(wandb.plot, "line_series")
raises(wandb.Error, lambda: wandb.init(project="read", fork_from="train-0?_step=1"), "fork_from")
raises(wandb.Error, lambda: wandb.init(project="read", resume_from="train-0?_step=1"), "resume_from")
raises(ValueError, lambda: wandb.init(project="read", resume="sometimes"), "allow")
with wandb.init(project="read", sync_tensorboard=True, monitor_gym=True, anonymous="allow") as run:
    pass
