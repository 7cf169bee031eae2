"""The module and the run, config, steps and summary, what `log` takes: as a training script uses them."""

import argparse
import json
import math
import sys
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


class Scalar:
    """A number as a tensor that requires a gradient."""

    shape = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value

    def numpy(self):
        raise RuntimeError("call detach() first")


raises(wandb.Error, lambda: wandb.log({"a": 1}), "You must call upshot.init() before upshot.log()")
raises(wandb.Error, lambda: wandb.config.lr, "You must call upshot.init() before upshot.config")

# --- the module and config ---
options = argparse.Namespace(lr=0.1, layers=[3, 3])
run = wandb.init(project="train", job_type="training", config=options, tags=["a"], notes="first", group="g")
assert wandb.run is run
assert wandb.config is run.config
assert wandb.summary is run.summary
assert (run.config.lr, run.config["layers"]) == (0.1, [3, 3])
run.config.update({"batch": 32, "inf": None})
wandb.config["seed"] = 7
raises(ValueError, lambda: setattr(run.config, "lr", 0.2), "allow_val_change=True")
run.config.update({"lr": 0.3}, allow_val_change=True)
run.config.setdefaults({"lr": 1, "depth": 2})
run.config.layers.append(5)
run.name = "renamed"
run.tags += ("b",)
assert run.path == f"train/{run.id}"
assert run.url.endswith(f"/projects/train/runs/{run.id}")
assert run.url in run._repr_html_()

# --- steps and summary ---
for number in range(3):
    run.log({"loss": Scalar(1 / (number + 1)), "test": {"acc": number / 3}})
run.log({"a/b": 1}, step=10)
run.log({"c": "text"}, step=10)
run.log({"late": 1}, step=3)
# Without a step, a call completes the step that has begun.
run.log({"nan": math.nan, "inf": math.inf, "minus": -math.inf, "flag": True, "none": None, "list": [1, "x"]})
wandb.define_metric("val/*", step_metric="epoch", summary="min")
for epoch, loss in enumerate([0.5, 0.2, 0.4]):
    wandb.log({"epoch": epoch, "val/loss": loss})
assert run.summary["val/loss"] == 0.2
wandb.summary["best"] = 0.95
wandb.log({"best": 0.1})
assert run.summary.best == 0.95
assert run.summary["test"]["acc"] == 2 / 3
raises(TypeError, lambda: run.log({"bad": object()}), "bad")
raises(TypeError, lambda: run.log({"bad": Path()}), "bad")

# --- media and files ---
table = wandb.Table(columns=["id", "image"], data=[[1, wandb.Image([[0, 255]])]])
raises(ValueError, lambda: table.add_data(1))
matrix = wandb.plot.confusion_matrix(y_true=[0, 1, 1], preds=[0, 1, 0], class_names=["cat", "dog"])
wandb.log({"table": table, "image": wandb.Image([[0.0, 1.0]], caption="half"), "matrix": matrix})
Path("logs").mkdir()
Path("logs/train.txt").write_text("one")
Path("large.bin").write_bytes(b"x" * 3_000_000)
assert wandb.save("logs/*.txt") == ["logs/train.txt"]
assert wandb.save("large.bin", policy="now") == ["large.bin"]
Path("logs/train.txt").write_text("one\ntwo")
wandb.watch(object())
wandb.unwatch()
wandb.alert("Low accuracy", "It fell", level=wandb.AlertLevel.WARN)
run_id = run.id
wandb.finish()
assert not hasattr(wandb.run, "id")
raises(wandb.Error, lambda: run.log({"a": 1}), "has finished")
assert not Path(".upshot-runs").exists() or not list(Path(".upshot-runs").glob("run-*"))

# --- what the server has ---
seen = wandb.Api().run(f"train/{run_id}")
assert (seen.state, seen.name, seen.job_type, seen.group, seen.notes) == (
    "finished",
    "renamed",
    "training",
    "g",
    "first",
)
assert sorted(seen.tags) == ["a", "b"]
assert seen.config == {"lr": 0.3, "layers": [3, 3, 5], "batch": 32, "inf": None, "seed": 7, "depth": 2}
assert seen.summary["loss"] == 1 / 3
assert seen.summary["test"]["acc"] == 2 / 3
assert seen.summary.get("best") == 0.95
assert seen.summary["val/loss"] == 0.2
assert math.isnan(seen.summary["nan"])
assert seen.summary["minus"] == -math.inf
assert "late" not in seen.summary
rows = list(seen.scan_history())
assert [row["_step"] for row in rows] == [0, 1, 2, 10, 11, 12, 13, 14, 15]
assert [row["loss"] for row in rows[:3]] == [1.0, 0.5, 1 / 3]
assert (rows[3]["a/b"], rows[3]["c"]) == (1, "text")
assert rows[3]["inf"] == math.inf
assert rows[3]["list"] == [1, "x"]
assert [row["val/loss"] for row in seen.scan_history(keys=["val/loss", "epoch"])] == [0.5, 0.2, 0.4]
assert [row["epoch"] for row in seen.history(keys=["epoch", "val/loss"], pandas=False)] == [0, 1, 2]
assert len(seen.history(samples=4, pandas=False)) <= 4
files = {file.name: file for file in seen.files()}
assert {"logs/train.txt", "large.bin", "environment/requirements.txt"} <= set(files)
assert files["large.bin"].size == 3_000_000
with seen.file("logs/train.txt").download(root="copy") as file:
    assert file.read() == "one\ntwo"
    assert Path(file.name) == Path("copy/logs/train.txt")
value = seen.summary["table"]
with seen.file(value["path"]).download(root="copy") as file:
    data = json.load(file)["data"]
assert data[0][1]["path"] in files
assert seen.summary["image"]["caption"] == "half"
assert files[seen.summary["image"]["path"]].digest == seen.summary["image"]["digest"]
assert seen.metadata["argv"] == sys.argv
assert seen.metadata["program"].endswith("record_a_run.py")
assert {"python", "os", "hostname", "user", "cpu_count", "memory_bytes", "gpus", "git"} <= set(seen.metadata)

# --- resume ---
raises(wandb.Error, lambda: wandb.init(project="train", id=run_id), 'resume="allow"')
raises(ValueError, lambda: wandb.init(project="train", id="nothing", resume="must"), "does not exist")
with wandb.init(project="train", id=run_id, resume="allow", config={"lr": 0.4}) as again:
    assert again.resumed
    assert (again.step, again.name, again.config.batch, again.config.lr) == (16, "renamed", 32, 0.4)
    assert again.summary["best"] == 0.95
    again.log({"loss": 0.01})
seen.load()
assert (seen.state, seen.config["lr"], seen.summary["loss"]) == ("finished", 0.4, 0.01)
assert list(seen.scan_history(keys=["loss"]))[-1]["_step"] == 16
with wandb.init(project="train", id="fresh", resume="allow") as fresh:
    assert not fresh.resumed
