"""Evaluate what a run has reported: true reports pass, a false one is found out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import upshot as wandb

with wandb.init(project="Review Models", job_type="training", config={"lr": 0.1}) as run:
    artifact = wandb.Artifact("reviews", "model")
    with artifact.new_file("weights.json") as file:
        json.dump({"accuracy": 0.9}, file)
    run.log({"accuracy": 0.9, "loss": 0.25})
    run.log_artifact(artifact)
    link = run.link_artifact(artifact, "model-registry/Reviews", aliases=["candidate"])

seen: dict[str, Any] = {}


def score(folder, config):
    """Return what is in the file of the model."""
    seen.update(config)
    return json.loads(Path(folder, "weights.json").read_text())


evaluation = wandb.evaluate("model-registry/Reviews:candidate", score)
assert evaluation.passed
assert evaluation.metrics == (("accuracy", 0.9, 0.9, True),)
assert evaluation.producer == f"Review Models/{run.id}"
assert seen == {"lr": 0.1}
assert wandb.run is None
verdict = wandb.Api().artifact("model-registry/Reviews:candidate").metadata["evaluation"]
assert (verdict["passed"], verdict["run"]) == (True, evaluation.run)

evaluator = wandb.Api().run(evaluation.run)
assert (evaluator.job_type, evaluator.state, dict(evaluator.config)) == ("evaluation", "finished", {"lr": 0.1})
assert evaluator.summary["accuracy"] == 0.9
assert [used.source_name for used in evaluator.used_artifacts()] == ["reviews:v0"]

assert not wandb.evaluate("model-registry/Reviews", lambda *_: {"accuracy": 0.8, "loss": float("nan")}).passed
metadata = wandb.Api().artifact("model-registry/Reviews").metadata["evaluation"]
assert metadata["metrics"]["loss"] == {"reported": 0.25, "found": "NaN", "within": False}
unrecorded = wandb.evaluate(
    "Review Models/reviews", score, metrics=["accuracy"], project="checks", copy_config=False, record=False
)
assert unrecorded.passed
assert unrecorded.run.startswith("checks/")
assert not wandb.Api().artifact("model-registry/Reviews").metadata["evaluation"]["passed"]
assert wandb.evaluate("model-registry/Reviews", lambda *_: {"accuracy": 0.9004}, tolerance=0.001).passed

for wrong, kind, word in (
    (lambda *_: {"f1": 1}, ValueError, "nothing to compare"),
    (lambda *_: {"accuracy": "high"}, TypeError, "must be a number"),
    (lambda *_: [0.9], TypeError, "must return a mapping"),
):
    try:
        wandb.evaluate("model-registry/Reviews", wrong)  # type: ignore[arg-type]  # some are wrong on purpose
    except kind as error:
        assert word in str(error), error
    else:
        raise AssertionError(word)
try:
    wandb.evaluate("model-registry/Reviews", score, metrics=["f1"])
except ValueError as error:
    assert "f1" in str(error)
else:
    raise AssertionError("a metric that nobody reported")


def verify(*words):
    """Run `upshot verify-metrics`."""
    command = [sys.executable, "-m", "upshot", "verify-metrics", "model/Reviews:candidate", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


program = "import json, os, sys; assert json.load(sys.stdin) == {'lr': 0.1}; print('scoring')\n"
program += "print(open(os.environ['UPSHOT_INPUT'] + '/weights.json').read())"
done = verify("--", sys.executable, "-c", program)
assert done.returncode == 0, done.stderr
assert "passed" in done.stdout
Path("metrics.json").write_text('{"accuracy": 0.1}')
done = verify("--metrics", "metrics.json", "--json")
assert (done.returncode, json.loads(done.stdout)["passed"]) == (1, False), done.stderr
assert "exit code 3" in verify("--", "sh", "-c", "exit 3").stderr
assert "is not JSON" in verify("--", "echo", "accuracy 0.9").stderr
