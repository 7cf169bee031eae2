"""
Quantize what is in production: weights of one byte each, logged and linked as a version of their own.

The job of `automations/quantize.yaml`. It asks the REST API with the token that it was started with, so
the registry's history shows the job itself as who did it. Python's standard library is all it needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

EVENT = Path(os.environ.get("UPSHOT_EVENT_FILE", "/upshot/event.json"))
OUTPUT = Path(os.environ.get("UPSHOT_OUTPUT", "/upshot/output"))
LARGEST = 127  # of a signed byte
PAUSES = (1, 2, 4, 8)  # seconds before further attempts


def quantized(weights: dict[str, float]) -> tuple[dict[str, int], float]:
    """The weights as signed bytes, and what one step of them is worth."""
    step = max(map(abs, weights.values())) / LARGEST or 1.0
    return {name: round(weight / step) for name, weight in weights.items()}, step


def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """
    Ask the REST API; again after a while where it does not answer, or says that it cannot for now.

    Both requests of this job may be repeated: the same content is logged once, and linked once.
    """
    request = urllib.request.Request(
        f"{os.environ['UPSHOT_URL']}/api/v1{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {os.environ['UPSHOT_TOKEN']}", "Content-Type": "application/json"},
    )
    for pause in (*PAUSES, None):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.read().decode(errors='replace')}"
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                break
        except OSError as error:
            problem = str(error)
        if pause is None:
            break
        print(f"{path}: {problem}; again in {pause} s")
        time.sleep(pause)
    raise SystemExit(f"POST {request.full_url}: {problem}")


def main() -> None:
    """Read, quantize, log, link, give back."""
    data = json.loads(EVENT.read_text())["data"]
    source, artifact = data["version"], data["artifact"]
    model = source["metadata"]["model"]
    weights, step = quantized(model["weights"])
    content = {"weights": weights, "step": step, "bias": model["bias"]}
    print(f"{source['reference']}: {len(weights)} weights, {8 * len(weights)} bytes become {len(weights)}")

    logged = post(
        f"/projects/{quote(artifact['project'], safe='')}/artifacts",
        {
            "name": f"{artifact['name']}-int8",
            "artifact_type": artifact["artifact_type"],
            "digest": f"sha256:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}",
            "metadata": {"format": "logistic-int8", "model": content, "quantized_from": source["reference"]},
        },
    )
    print(f"logged {logged['reference']}")
    linked = post(
        f"/registries/{quote(data['registry']['name'], safe='')}"
        f"/collections/{quote(data['collection']['name'], safe='')}/versions",
        {"artifact": logged["reference"], "aliases": ["quantized"]},
    )
    print(f"linked it as {linked['reference']}, alias quantized")
    outputs = {"artifact": logged["reference"], "version": linked["reference"], "step": step}
    (OUTPUT / "outputs.json").write_text(json.dumps(outputs))


if __name__ == "__main__":
    main()
