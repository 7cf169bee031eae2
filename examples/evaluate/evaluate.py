"""
Evaluate a candidate: score its weights on transactions that it has never seen.

The job of `automations/evaluate.yaml`. It reads the event that started it, and gives back its outputs;
everything that it says lands in the job's log. Python's standard library is all it needs.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

EVENT = Path(os.environ.get("UPSHOT_EVENT_FILE", "/upshot/event.json"))
OUTPUT = Path(os.environ.get("UPSHOT_OUTPUT", "/upshot/output"))
HOLDOUT = Path(__file__).with_name("holdout.csv")


def score(model: dict[str, Any], transaction: dict[str, str]) -> float:
    """What a logistic model says of one transaction: above 0 it takes it for fraud."""
    return model["bias"] + sum(weight * float(transaction[name]) for name, weight in model["weights"].items())


def loss(scored: float) -> float:
    """Of one transaction; the score is turned so that above 0 is right."""
    return max(-scored, 0) + math.log1p(math.exp(-abs(scored)))


def measure(model: dict[str, Any], transactions: list[dict[str, str]]) -> dict[str, float]:
    """Accuracy, recall (how much of the fraud it finds) and log loss."""
    judged = [(score(model, one), one["fraud"] == "1") for one in transactions]
    right = sum((scored > 0) == is_fraud for scored, is_fraud in judged)
    found = sum(scored > 0 for scored, is_fraud in judged if is_fraud)
    return {
        "accuracy": round(right / len(judged), 4),
        "recall": round(found / sum(is_fraud for _, is_fraud in judged), 4),
        "log_loss": round(sum(loss(scored if is_fraud else -scored) for scored, is_fraud in judged) / len(judged), 4),
    }


def main() -> None:
    """Read, measure, give back."""
    version = json.loads(EVENT.read_text())["data"]["version"]
    model = version["metadata"].get("model")
    if model is None:
        sys.exit(f"{version['reference']} has no model in its metadata; examples/evaluate/models shows what that is")
    with HOLDOUT.open() as file:
        transactions = list(csv.DictReader(file))
    if unknown := model["weights"].keys() - transactions[0].keys():
        sys.exit(f"{version['reference']} has weights for {', '.join(unknown)}, which {HOLDOUT.name} does not have")
    print(f"evaluating {version['reference']} ({', '.join(model['weights'])}) on {len(transactions)} transactions")
    metrics = measure(model, transactions)
    for name, value in metrics.items():
        print(f"  {name:8}  {value:.4f}")
    (OUTPUT / "outputs.json").write_text(json.dumps({"accuracy": metrics["accuracy"], "metrics": metrics}))


if __name__ == "__main__":
    main()
