"""
Evaluate a candidate: score its model on transactions that it has never seen.

This is the job of `automations/evaluate.yaml`. Upshot puts the files of the candidate into the directory UPSHOT_INPUT
before the job starts. The job writes its results to the directory UPSHOT_OUTPUT, and what it prints is in its log. It
needs only Python's standard library.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

INPUT = Path(os.environ.get("UPSHOT_INPUT", "/upshot/input"))
OUTPUT = Path(os.environ.get("UPSHOT_OUTPUT", "/upshot/output"))
HOLDOUT = Path(__file__).with_name("holdout.csv")


def main() -> None:
    """Read the model, measure it and write the outputs."""
    path = INPUT / "model.json"
    if not path.is_file():
        sys.exit(f"the candidate has no model.json in {INPUT}; examples/train/train.py logs one")
    model = json.loads(path.read_text())
    with HOLDOUT.open() as file:
        transactions = list(csv.DictReader(file))
    if unknown := model["weights"].keys() - transactions[0].keys():
        sys.exit(f"the model has weights for {', '.join(unknown)}, which {HOLDOUT.name} does not have")
    print(f"evaluating {path} ({', '.join(model['weights'])}) on {len(transactions)} transactions")
    metrics = measure(model, transactions)
    for name, value in metrics.items():
        print(f"  {name:8}  {value:.4f}")
    (OUTPUT / "outputs.json").write_text(json.dumps({"accuracy": metrics["accuracy"], "metrics": metrics}))


def measure(model: dict[str, Any], transactions: list[dict[str, str]]) -> dict[str, float]:
    """Compute accuracy, recall (the share of the fraud that the model finds) and log loss."""
    scored = [(score(model, transaction), transaction["fraud"] == "1") for transaction in transactions]
    correct = sum((value > 0) == is_fraud for value, is_fraud in scored)
    found = sum(value > 0 for value, is_fraud in scored if is_fraud)
    losses = [log_loss(value if is_fraud else -value) for value, is_fraud in scored]
    return {
        "accuracy": round(correct / len(scored), 4),
        "recall": round(found / sum(is_fraud for _, is_fraud in scored), 4),
        "log_loss": round(sum(losses) / len(scored), 4),
    }


def score(model: dict[str, Any], transaction: dict[str, str]) -> float:
    """Return the score of a logistic model for a transaction. A positive score means fraud."""
    return model["bias"] + sum(weight * float(transaction[name]) for name, weight in model["weights"].items())


def log_loss(margin: float) -> float:
    """Return the log loss of one transaction. A positive margin means that the prediction is right."""
    return max(-margin, 0) + math.log1p(math.exp(-abs(margin)))


if __name__ == "__main__":
    main()
