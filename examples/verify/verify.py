"""
Check what the run of a model has reported: score the model again, on the transactions that its training kept aside.

    python3 examples/verify/verify.py model/fraud:review

This is also the job of `automations/verify.yaml`. `upshot.evaluate` finds the run that logged the model, compares its
accuracy with the one that is found here, and writes the verdict into the metadata of the version. A gate reads it
there. The script needs only Python's standard library and `upshot`.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import upshot

TRAINING_ROWS = 400  # train.py reports the accuracy on the rows after them


def main(reference: str) -> None:
    """Score the model again, and print the verdict."""
    evaluation = upshot.evaluate(reference, score, metrics=["accuracy"])
    for name, reported, found, within in evaluation.metrics:
        print(f"{name}: {evaluation.producer} has reported {reported}, found {found}: {'true' if within else 'FALSE'}")
    print(f"{evaluation.reference} has {'passed' if evaluation.passed else 'NOT passed'}; run {evaluation.run}")


def score(folder: str, config: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracy of the model in a directory."""
    del config  # how the model was trained does not matter here
    model = json.loads(Path(folder, "model.json").read_text())
    with transactions().open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)][TRAINING_ROWS:]
    correct = sum(
        (model["bias"] + sum(weight * row[name] for name, weight in model["weights"].items()) > 0)
        == (row["fraud"] == 1)
        for row in rows
    )
    return {"accuracy": round(correct / len(rows), 4)}


def transactions() -> Path:
    """Return the file of the transactions. In the image of the job, all files are in one directory."""
    beside = Path(__file__).with_name("transactions.csv")
    return beside if beside.exists() else Path(__file__).parents[1] / "train" / "transactions.csv"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check what the run of a model has reported.")
    parser.add_argument("reference", help="the model, such as model/fraud:review")
    main(parser.parse_args().reference)
