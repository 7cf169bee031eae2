"""
Quantize a model: download it by its alias, store its weights in one byte each, and link the result as a new version.

    python3 examples/quantize/quantize.py model/fraud:production

This is also the job of `automations/quantize.yaml`. There, the SDK uses the token that the job was started with, so
the history of the registry names the job. The script needs only Python's standard library and `upshot`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import upshot

OUTPUT = os.environ.get("UPSHOT_OUTPUT")  # of a job: the directory for its outputs
MAX_BYTE = 127  # of a signed byte


def main(reference: str) -> None:
    """Use a model, convert it, and log and link the result."""
    with upshot.init(project="fraud", job_type="quantization") as run, TemporaryDirectory() as folder:
        source = run.use_artifact(reference, type="model")
        source.download(folder)
        model = json.loads(Path(folder, "model.json").read_text())
        weights, step = quantize(model["weights"])
        print(f"{source.qualified_name}: {len(weights)} weights, {8 * len(weights)} bytes reduced to {len(weights)}")

        result = upshot.Artifact("logistic-int8", type="model", metadata={"format": "logistic-int8"})
        with result.new_file("model.json") as file:
            json.dump({"weights": weights, "step": step, "bias": model["bias"]}, file)
        run.log_artifact(result).wait()
        print(f"logged {result.qualified_name}")
        collection = reference.partition(":")[0]
        linked = run.link_artifact(result, collection, aliases=["quantized"])
        print(f"linked it as {linked.qualified_name}, alias quantized")
    if OUTPUT:
        outputs = {"artifact": result.qualified_name, "version": linked.qualified_name, "step": step}
        Path(OUTPUT, "outputs.json").write_text(json.dumps(outputs))


def quantize(weights: dict[str, float]) -> tuple[dict[str, int], float]:
    """Return the weights as signed bytes, and the value of one unit."""
    step = max(map(abs, weights.values())) / MAX_BYTE or 1.0
    return {name: round(weight / step) for name, weight in weights.items()}, step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Quantize a model of the registry.")
    parser.add_argument("reference", help="the model, such as model/fraud:production")
    main(parser.parse_args().reference)
