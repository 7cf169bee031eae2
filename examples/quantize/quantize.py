"""
Quantize the model in production: store its weights in one byte each, and link the result as a new version.

This is the job of `automations/quantize.yaml`. It calls the REST API with the token that it was started
with, so the history of the registry names the job. It needs only Python's standard library.
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
MAX_BYTE = 127  # of a signed byte
PAUSES = (1, 2, 4, 8)  # seconds before further attempts


def quantize(weights: dict[str, float]) -> tuple[dict[str, int], float]:
    """Return the weights as signed bytes, and the value of one unit."""
    step = max(map(abs, weights.values())) / MAX_BYTE or 1.0
    return {name: round(weight / step) for name, weight in weights.items()}, step


def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """
    Send a request to the REST API. Try again later if the API does not answer, or is temporarily unavailable.

    Both requests of this job can be repeated: equal content is logged once, and linked once.
    """
    request = urllib.request.Request(
        f"{os.environ['UPSHOT_URL']}/api/v1{path}",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {os.environ['UPSHOT_TOKEN']}", "Content-Type": "application/json"},
    )
    for pause in (*PAUSES, None):
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.read().decode(errors='replace')}"
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                break
        except OSError as error:
            problem = str(error)
        if pause is None:
            break
        print(f"{path}: {problem}; trying again in {pause} s")
        time.sleep(pause)
    raise SystemExit(f"POST {request.full_url}: {problem}")


def main() -> None:
    """Read the event, quantize the model, log and link the result, and write the outputs."""
    data = json.loads(EVENT.read_text())["data"]
    source, artifact = data["version"], data["artifact"]
    model = source["metadata"]["model"]
    weights, step = quantize(model["weights"])
    content = {"weights": weights, "step": step, "bias": model["bias"]}
    print(f"{source['reference']}: {len(weights)} weights, {8 * len(weights)} bytes reduced to {len(weights)}")

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
