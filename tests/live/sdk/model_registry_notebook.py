"""Make the calls of W&B's notebook Model_Registry_E2E, without a framework. `docs/from-wandb.md` goes through them."""

import json
import os
import random
from pathlib import Path

import upshot as wandb

CLASSES = ["Amphibia", "Aves", "Fungi"]


class Tensor:
    """A loss that requires a gradient: it has a value, and no dimensions."""

    shape = ()
    requires_grad = True

    def __init__(self, value):
        self._value = value

    def item(self):
        """Return the value."""
        return self._value

    def numpy(self):
        """Fail, as PyTorch does."""
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


class Pixels:
    """A normalized image: floating-point values, some of them negative."""

    dtype = "float32"
    shape = (2, 2, 3)

    def tolist(self):
        """Return the values."""
        return [[[-2.1, 0.0, 2.6], [0.5, 0.5, 0.5]], [[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]]


# --- the notebook of today --------------------------------------------------------------------------

assert wandb.login()

PROJECT_NAME = "model-registry-tutorial"
ENTITY = wandb.api.default_entity
assert ENTITY is not None
DATASET_NAME = "nature_100"
DATA_SRC = Path("data") / DATASET_NAME
for name in CLASSES:
    (DATA_SRC / name).mkdir(parents=True)
    for number in range(3):
        (DATA_SRC / name / f"{number}.jpg").write_bytes(os.urandom(100))

with wandb.init(project=PROJECT_NAME, entity=ENTITY, job_type="log_datasets") as run:
    train_art = wandb.Artifact(name=DATASET_NAME, type="raw_images", description="images of 3 classes")
    train_art.add_dir(DATA_SRC)
    wandb.log_artifact(train_art)

run = wandb.init(
    project=PROJECT_NAME,
    entity=ENTITY,
    job_type="training",
    config={"model_type": "squeezenet", "lr": 1.0, "gamma": 0.75, "batch_size": 16, "epochs": 3},
)
assert wandb.config["model_type"] == "squeezenet"
wandb.config["input_size"] = 224
art = wandb.use_artifact(f"{DATASET_NAME}:latest")
path_at = Path(art.download())
img_paths = sorted(path_at.rglob("*.jpg"))
assert len(img_paths) == 9
class_names = sorted({path.parent.name for path in img_paths})
idx_to_class = dict(enumerate(class_names))

best_loss = float("inf")
best_model = None
for epoch_ndx, test_loss in enumerate([0.9, 0.4, 0.6]):
    for batch_ndx in range(2):
        loss = Tensor(test_loss + 0.1 * batch_ndx)
        wandb.log(
            {
                "train/epoch_ndx": epoch_ndx,
                "train/batch_ndx": batch_ndx,
                "train/train_loss": loss,
                "train/learning_rate": wandb.config["lr"] * wandb.config["gamma"] ** epoch_ndx,
            }
        )
    val_table = wandb.Table(columns=["pred", "actual", "image"])
    for name in class_names:
        val_table.add_data(class_names[0], name, wandb.Image(Pixels()))
    conf_mat = wandb.plot.confusion_matrix(y_true=[0, 1, 2], preds=[0, 0, 0], class_names=class_names)
    is_best = test_loss < best_loss
    wandb.log(
        {
            "eval/test_loss": test_loss,
            "eval/accuracy": 100.0 / 3,
            "eval/conf_mat": conf_mat,
            "eval/val_table": val_table,
        }
    )
    Path("model.pth").write_bytes(f"weights {epoch_ndx}".encode())
    art = wandb.Artifact(
        f"nature-{wandb.run.id}",
        type="model",
        metadata={
            "format": "onnx",
            "num_classes": len(class_names),
            "model_type": wandb.config["model_type"],
            "model_input_size": wandb.config["input_size"],
            "index_to_class": idx_to_class,
        },
    )
    art.add_file("model.pth")
    wandb.log_artifact(art, aliases=["best", "latest"] if is_best else None)
    if is_best:
        best_loss, best_model = test_loss, art
assert best_model is not None
wandb.run.link_artifact(best_model, f"{ENTITY}/model-registry/Model Registry Tutorial", aliases=["staging"])
wandb.finish()
training = run

run = wandb.init(project=PROJECT_NAME, entity=ENTITY, job_type="inference")
artifact = run.use_artifact(f"{ENTITY}/model-registry/Model Registry Tutorial:staging", type="model")
artifact_dir = artifact.download()
wandb.finish()

assert (Path(artifact_dir) / "model.pth").read_text() == "weights 1"  # of the best checkpoint, not of the last
assert artifact_dir == f"artifacts/nature-{training.id}:v1"
assert artifact.metadata["index_to_class"] == {"0": "Amphibia", "1": "Aves", "2": "Fungi"}
assert artifact.metadata["model_input_size"] == 224
assert wandb.Api().artifact(f"{PROJECT_NAME}/nature-{training.id}:latest").version == "v2"
assert wandb.Api().artifact(f"{PROJECT_NAME}/nature-{training.id}:best").version == "v1"

seen = wandb.Api().run(f"{PROJECT_NAME}/{training.id}")
assert (seen.state, seen.job_type, seen.entity) == ("finished", "training", ENTITY)
assert seen.config["input_size"] == 224
assert [used.name for used in seen.used_artifacts()] == [f"{DATASET_NAME}:v0"]
assert len(list(seen.logged_artifacts())) == 3
losses = [row["train/train_loss"] for row in seen.scan_history(keys=["train/train_loss"])]
assert losses == [0.9, 1.0, 0.4, 0.5, 0.6, 0.7]
assert seen.summary["eval/test_loss"] == 0.6
table = seen.summary["eval/val_table"]
assert (table["rows"], table["columns"]) == (3, 3)
rows = json.loads(Path(seen.file(table["path"]).download("media").name).read_text())["data"]
picture = rows[0][2]
assert (rows[0][:2], picture["width"], picture["height"]) == (["Amphibia", "Amphibia"], 2, 2)
assert Path(seen.file(picture["path"]).download("media").name).read_bytes().startswith(b"\x89PNG")
matrix = seen.file(seen.summary["eval/conf_mat"]["path"]).download("media")
assert "Amphibia" in Path(matrix.name).read_text()

# --- the notebook of 2022, which is often copied -----------------------------------------------------

PROJECT_NAME, ENTITY = "Model Registry E2E", "kenlee"
run = wandb.init(project=PROJECT_NAME, entity=ENTITY, job_type="upload_data")
raw_data_art = wandb.Artifact("GCS_raw_data_100", type="raw_data")
raw_data_art.add_dir(str(DATA_SRC))
run.log_artifact(raw_data_art)
run.finish()

run = wandb.init(project=PROJECT_NAME, entity=ENTITY, job_type="data_split")
data_at = run.use_artifact("GCS_raw_data_100" + ":latest")
data_dir = data_at.download()
data_split_at = wandb.Artifact("GCS_80-10-10_100", type="balanced_data")
for label in Path(data_dir).iterdir():
    images = list(label.iterdir())
    random.shuffle(images)
    for split, image in zip(("train", "val", "test"), images, strict=True):
        data_split_at.add_file(str(image), name=f"{split}/{label.name}/{image.name}")
run.log_artifact(data_split_at)
run.finish()

CFG = {"fc_size": 1024, "epochs": 2, "batch_size": 32, "num_log_batches": 1}
run = wandb.init(project=PROJECT_NAME, entity=ENTITY, name="keras_model_training", job_type="train", config=CFG)
cfg = wandb.config
assert (cfg.fc_size, cfg.num_log_batches) == (1024, 1)
wandb.watch(object())
data = run.use_artifact("GCS_80-10-10_100:latest", type="balanced_data")
assert len(list((Path(data.download()) / "val").rglob("*.jpg"))) == 3
for epoch in range(cfg.epochs):
    predictions_table = wandb.Table(columns=["id", "image", "guess", "truth", *(f"score_{name}" for name in CLASSES)])
    row = ["0001", wandb.Image([[0.1, 0.9], [0.5, 0.5]]), "Aves", "Fungi"]
    row.extend(Tensor(score) for score in (0.2, 0.7, 0.1))
    predictions_table.add_data(*row)
    wandb.run.log({"predictions": predictions_table, "val_acc": Tensor(0.5 + 0.1 * epoch)})
    trained_model_artifact = wandb.Artifact("iv3_finetuned", type="model", description="finetuned inception v3")
    Path("saved").mkdir(exist_ok=True)
    Path("saved/weights").write_text(str(epoch))
    trained_model_artifact.add_dir("saved")
    wandb.log_artifact(trained_model_artifact, aliases=["best", "latest"])
wandb.run.link_artifact(trained_model_artifact, "model-registry/Nature Classification", aliases=["staging"])
run.finish()

run = wandb.init(project=PROJECT_NAME, entity=ENTITY, job_type="inference")
try:
    wandb.use_artifact("Nature Classification:staging")
except wandb.Error as error:
    assert "model-registry/Nature Classification:staging" in str(error), error
else:
    raise AssertionError("a name alone is an artifact of the project")
model_at = wandb.use_artifact("model-registry/Nature Classification:staging")
assert (Path(model_at.download()) / "weights").read_text() == "1"
run.finish()
assert wandb.Api().run(f"{ENTITY}/{PROJECT_NAME}/{run.id}").state == "finished"

# --- what is refused --------------------------------------------------------------------------------

for name in ("keras", "integration", "sweep"):
    try:
        getattr(wandb, name)
    except AttributeError as error:
        assert f"upshot has no '{name}'; " in str(error), error
    else:
        raise AssertionError(name)
