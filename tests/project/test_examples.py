"""The jobs under examples/ do what the sample automations and their README files say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.project.repository import ROOT

EVALUATE = ROOT / "examples" / "evaluate"
QUANTIZE = ROOT / "examples" / "quantize"


def run(script, event, directory, **environment):
    """Run the script of a job as a person would."""
    (directory / "event.json").write_text(json.dumps(event))
    return subprocess.run(
        [sys.executable, script],
        env={
            **os.environ,
            "UPSHOT_EVENT_FILE": str(directory / "event.json"),
            "UPSHOT_OUTPUT": str(directory),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def event_with(metadata):
    """Return an event about a version with this metadata."""
    return {"data": {"version": {"reference": "model/fraud:v0", "metadata": metadata}}}


@pytest.mark.parametrize(("model", "accuracy"), [("first", 0.87), ("simpler", 0.8133), ("better", 0.9433)])
def test_each_model_has_its_documented_accuracy(model, accuracy, tmp_path):
    """Of the three models of the demo, the second is worse and the third is better than the first."""
    metadata = json.loads((EVALUATE / "models" / f"{model}.json").read_text())

    done = run(EVALUATE / "evaluate.py", event_with(metadata), tmp_path)

    assert done.returncode == 0, done.stderr
    outputs = json.loads((tmp_path / "outputs.json").read_text())
    assert outputs["accuracy"] == outputs["metrics"]["accuracy"] == accuracy
    assert f"accuracy  {accuracy:.4f}" in done.stdout


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        pytest.param({"format": "onnx"}, "model/fraud:v0 has no model in its metadata", id="no model"),
        pytest.param({"model": {"weights": {"colour": 1}, "bias": 0}}, "has weights for colour", id="unknown column"),
    ],
)
def test_a_candidate_that_cannot_be_evaluated_fails_with_a_reason(metadata, words, tmp_path):
    """The last line of the log says what is wrong, and there are no outputs."""
    done = run(EVALUATE / "evaluate.py", event_with(metadata), tmp_path)

    assert done.returncode == 1
    assert words in done.stderr
    assert not (tmp_path / "outputs.json").exists()


def test_extreme_weights_can_be_evaluated(tmp_path):
    """A model with extreme weights has a low accuracy; the job does not crash."""
    model = {"weights": {"log_amount": -1e6}, "bias": 1e9}

    done = run(EVALUATE / "evaluate.py", event_with({"model": model}), tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs.json").read_text())["accuracy"] < 0.5


def test_a_rejected_request_is_reported_without_the_token(tmp_path):
    """The job does not repeat a rejected request. It prints the server's response, and not its token."""
    event = json.loads((ROOT / "automations" / "events" / "quantize-production.json").read_text())
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append((self.path, self.headers["Authorization"]))
            self.send_error(403, "not for you")

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        done = run(QUANTIZE / "quantize.py", event, tmp_path, UPSHOT_URL=url, UPSHOT_TOKEN="upj_secret")
    finally:
        server.shutdown()
        server.server_close()

    assert done.returncode == 1
    assert requests == [("/api/v1/projects/fraud/artifacts", "Bearer upj_secret")]
    assert f"POST {url}/api/v1/projects/fraud/artifacts: 403" in done.stderr
    assert "not for you" in done.stderr
    assert "upj_secret" not in done.stdout + done.stderr
