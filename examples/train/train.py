"""
Train a model that finds fraud, log its checkpoints as artifacts, and link the best one to the registry.

    python3 examples/train/train.py --features log_amount,abroad,attempts

It needs only Python's standard library and `upshot`. It finds its server as every program does: through UPSHOT_URL
and UPSHOT_TOKEN, through `upshot login`, or through the `upshot up` that runs in this directory.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import upshot

TRANSACTIONS = Path(__file__).with_name("transactions.csv")
TRAINING_ROWS = 400  # the other rows are for validation


def main(config: dict[str, Any], alias: str) -> None:
    """Train a model, log its checkpoints and link the best one."""
    with upshot.init(project="fraud", job_type="training", config=config) as run:
        run.define_metric("accuracy", summary="max")  # the run reports that of the checkpoint that it links
        best, best_accuracy = None, 0.0
        for epoch, model, accuracy in train(run.config):
            run.log({"epoch": epoch, "accuracy": accuracy})
            checkpoint = upshot.Artifact(
                "logistic",
                type="model",
                metadata={"format": "logistic", "epoch": epoch, "accuracy": accuracy},
            )
            with checkpoint.new_file("model.json") as file:
                json.dump(model, file)
            is_best = accuracy > best_accuracy
            run.log_artifact(checkpoint, aliases=["best"] if is_best else None).wait()
            print(f"epoch {epoch:3}  accuracy {accuracy:.4f}  logged as {checkpoint.qualified_name}")
            if is_best:
                best, best_accuracy = checkpoint, accuracy
        if best is None:
            raise SystemExit("there is no checkpoint to link; train for more epochs")
        linked = run.link_artifact(best, "model/fraud", aliases=[alias])
        print(f"linked {best.qualified_name} as {linked.qualified_name}, alias {alias}")


def train(config: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any], float]]:
    """Train a logistic regression. Yield the epoch, the model and its accuracy of each checkpoint."""
    with TRANSACTIONS.open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    training, validation = rows[:TRAINING_ROWS], rows[TRAINING_ROWS:]
    model: dict[str, Any] = {"weights": dict.fromkeys(config["features"], 0.0), "bias": 0.0}
    for epoch in range(1, config["epochs"] + 1):
        rate = config["learning_rate"] / math.sqrt(epoch)
        for row in training:
            probability = 1 / (1 + math.exp(-max(-500.0, score(model, row))))
            correction = rate * (row["fraud"] - probability)
            model["bias"] += correction
            for name in model["weights"]:
                model["weights"][name] += correction * row[name]
        if epoch % config["checkpoint_every"] == 0:
            correct = sum((score(model, row) > 0) == (row["fraud"] == 1) for row in validation)
            yield epoch, model, round(correct / len(validation), 4)


def score(model: dict[str, Any], row: dict[str, float]) -> float:
    """Return the score of a transaction. A positive score means fraud."""
    return model["bias"] + sum(weight * row[name] for name, weight in model["weights"].items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a model that finds fraud.")
    parser.add_argument("--alias", default="candidate", help="alias of the version that is linked")
    parser.add_argument("--features", default="log_amount,abroad,attempts", help="columns of transactions.csv")
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--checkpoint-every", type=int, default=30, help="epochs from one checkpoint to the next")
    parser.add_argument("--learning-rate", type=float, default=0.2)
    options = vars(parser.parse_args())
    alias = options.pop("alias")
    main({**options, "features": options["features"].split(",")}, alias)
