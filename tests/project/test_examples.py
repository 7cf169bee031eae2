"""The programs under examples/ do what the sample automations, the demo and their README files say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.project.repository import ROOT, blocks

TRAIN = ROOT / "examples" / "train" / "train.py"
EVALUATE = ROOT / "examples" / "evaluate" / "evaluate.py"
QUANTIZE = ROOT / "examples" / "quantize" / "quantize.py"
CONFIG = {"epochs": 90, "checkpoint_every": 30, "learning_rate": 0.2}  # the defaults of the script


def run(script, directory, *arguments, **environment):
    """Run a script as a person would."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")}
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={**inherited, "UPSHOT_INPUT": str(directory), "UPSHOT_OUTPUT": str(directory), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def evaluate(model, directory):
    """Run the evaluation of a model."""
    (directory / "model.json").write_text(json.dumps(model))
    return run(EVALUATE, directory)


def best_checkpoint(features):
    """Train as the script does, and return the first checkpoint with the best accuracy."""
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checkpoints = module.train({**CONFIG, "features": features.split(",")})
    saved = [(json.dumps(model), accuracy) for _, model, accuracy in checkpoints]
    return json.loads(max(saved, key=lambda checkpoint: checkpoint[1])[0])


@pytest.mark.parametrize(
    ("features", "accuracy"),
    [
        pytest.param("log_amount,abroad,attempts", 0.8533, id="first"),
        pytest.param("log_amount,attempts", 0.8067, id="simpler"),
        pytest.param("log_amount,night,abroad,attempts,account_age", 0.9467, id="better"),
    ],
)
def test_each_model_has_its_documented_accuracy(features, accuracy, tmp_path):
    """Of the three models of the demo, the second is worse and the third is better than the first."""
    done = evaluate(best_checkpoint(features), tmp_path)

    assert done.returncode == 0, done.stderr
    outputs = json.loads((tmp_path / "outputs.json").read_text())
    assert outputs["accuracy"] == outputs["metrics"]["accuracy"] == accuracy
    assert f"accuracy  {accuracy:.4f}" in done.stdout


def test_a_candidate_without_a_model_fails_with_a_reason(tmp_path):
    """The last line of the log says what is missing and what provides it, and there are no outputs."""
    done = run(EVALUATE, tmp_path)

    assert done.returncode == 1
    assert f"the candidate has no model.json in {tmp_path}" in done.stderr
    assert not (tmp_path / "outputs.json").exists()


def test_a_candidate_with_unknown_features_fails_with_a_reason(tmp_path):
    """The last line of the log names the features that the transactions do not have."""
    done = evaluate({"weights": {"colour": 1}, "bias": 0}, tmp_path)

    assert done.returncode == 1
    assert "has weights for colour" in done.stderr
    assert not (tmp_path / "outputs.json").exists()


def test_extreme_weights_can_be_evaluated(tmp_path):
    """A model with extreme weights has a low accuracy; the job does not crash."""
    done = evaluate({"weights": {"log_amount": -1e6}, "bias": 1e9}, tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "outputs.json").read_text())["accuracy"] < 0.5


def test_a_rejected_request_is_reported_without_the_token(tmp_path):
    """The job does not repeat a rejected request. It prints the server's response, and not its token."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            requests.append((self.path.rpartition("/")[0], self.headers["Authorization"]))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b'{"type": "urn:upshot:problem:forbidden", "status": 403, "detail": "not for you"}')

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        done = run(QUANTIZE, tmp_path, "model/fraud:production", UPSHOT_URL=url, UPSHOT_TOKEN="upj_secret")
    finally:
        server.shutdown()
        server.server_close()

    assert done.returncode == 1
    assert requests == [("/api/v1/projects/fraud/runs", "Bearer upj_secret")]
    assert "not for you" in done.stderr
    assert "upj_secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("script", [TRAIN, QUANTIZE], ids=lambda script: script.name)
def test_the_scripts_on_pages_are_those_of_the_examples(script):
    """A Python block that names a script in its first line shows a part of that script, word for word."""
    name = script.relative_to(ROOT).as_posix()
    shown = [block.text for block in blocks("python") if block.text.startswith(f"# {name}\n")]

    assert shown
    assert [text for text in shown if text.partition("\n")[2].strip() not in script.read_text()] == []
