"""The jobs under examples/ do what the sample automations rely on, by hand too."""

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


def run(script, event, folder, **environment):
    """A job's script as a person runs it."""
    (folder / "event.json").write_text(json.dumps(event))
    return subprocess.run(
        [sys.executable, script],
        env={
            **os.environ,
            "UPSHOT_EVENT_FILE": str(folder / "event.json"),
            "UPSHOT_OUTPUT": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def about(metadata):
    """An event about a version."""
    return {"data": {"version": {"reference": "model/fraud:v0", "metadata": metadata}}}


@pytest.mark.parametrize(("model", "accuracy"), [("first", 0.87), ("simpler", 0.8133), ("better", 0.9433)])
def test_candidates_differ_in_what_they_reach(model, accuracy, tmp_path):
    """The three models are the story's: a good one, a worse one, a better one; the same numbers everywhere."""
    metadata = json.loads((EVALUATE / "models" / f"{model}.json").read_text())

    done = run(EVALUATE / "evaluate.py", about(metadata), tmp_path)

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
def test_a_candidate_that_cannot_be_evaluated_is_told_apart(metadata, words, tmp_path):
    """The last line of the log says what is wrong; no outputs are left behind."""
    done = run(EVALUATE / "evaluate.py", about(metadata), tmp_path)

    assert done.returncode == 1
    assert words in done.stderr
    assert not (tmp_path / "outputs.json").exists()


def test_wild_weights_are_no_crash(tmp_path):
    """A model that is far off is measured like any other."""
    done = run(EVALUATE / "evaluate.py", about({"model": {"weights": {"log_amount": -1e6}, "bias": 1e9}}), tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs.json").read_text())["accuracy"] < 0.5


def test_a_job_that_may_not_call_back_says_what_it_was_told(tmp_path):
    """A refusal is final and printed with the server's words; the token is not."""
    event = json.loads((ROOT / "automations" / "events" / "quantize-production.json").read_text())
    asked = []

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_error(403, "not for you")

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        done = run(QUANTIZE / "quantize.py", event, tmp_path, UPSHOT_URL=url, UPSHOT_TOKEN="upj_secret")
    finally:
        server.shutdown()
        server.server_close()

    assert done.returncode == 1
    assert asked == [("/api/v1/projects/fraud/artifacts", "Bearer upj_secret")]
    assert f"POST {url}/api/v1/projects/fraud/artifacts: 403" in done.stderr
    assert "not for you" in done.stderr
    assert "upj_secret" not in done.stdout + done.stderr
