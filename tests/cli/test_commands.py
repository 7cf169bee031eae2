"""The commands against a running Upshot: what a person reads, and what a program gets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.waiting import until

pytestmark = pytest.mark.live


def test_a_model_is_logged_linked_and_promoted_by_hand(world):
    """The path that a newcomer takes, command by command, ends in a delivered dispatch that can be looked up."""
    logged = world.say("registry", "artifacts", "log", "credit/xgb", "--set", "accuracy=0.93", "--set", "format=onnx")
    assert logged.startswith("logged credit/xgb:v0 (")
    assert "linked credit/xgb:v0 as model/credit:v0" in world.say(
        "registry", "link", "credit/xgb:v0", "model/credit", "--alias", "staging"
    )
    assert "model/credit:production is now v0" in world.say("registry", "alias", "set", "model/credit:v0", "production")

    shown = world.data("registry", "show", "model/credit:production")
    assert shown["metadata"] == {"accuracy": 0.93, "format": "onnx"}
    assert shown["aliases"] == ["latest", "production", "staging"]

    (promoted,) = world.data("events", "list", "--subject", "model/credit", "--kind", "alias-added", "--limit", "1")
    execution = world.execution_of(promoted["id"], "succeeded")
    event = world.say("events", "show", promoted["id"])
    assert f"answered by  deploy  ({execution['id']})" in event
    assert "not by       fail: " in event

    story = world.say("executions", "show", execution["id"])
    assert "step 1  dispatch (github-dispatch) is succeeded" in story
    assert "-> POST" in story
    assert "<- 204" in story
    assert '"model":"credit"' in story
    assert "ghp_stand_in" not in story


def test_collections_are_made_described_and_deleted(world):
    """A collection's life, from the command line."""
    world.say("registry", "collections", "create", "model/scoring", "--description", "Scores.")
    world.say("registry", "collections", "update", "model/scoring", "--description", "Scores customers.")
    assert "Scores customers." in world.say("registry", "collections", "show", "model/scoring")
    assert "model/scoring" in world.say("registry", "collections", "list", "model")

    world.say("registry", "collections", "delete", "model/scoring", "--yes")

    assert "scoring" in world.run("registry", "collections", "show", "model/scoring", exit_code=1).stderr
    actions = [entry["action"] for entry in world.data("registry", "history", "model/scoring")]
    assert len(actions) == 3


def test_tags_aliases_and_links_are_taken_away_again(world):
    """What was given can be taken."""
    world.say("registry", "artifacts", "log", "churn/nn", "--digest", "sha256:01", "--alias", "best")
    world.say("registry", "link", "churn/nn:best", "model/churn", "--alias", "candidate")
    world.say("registry", "tag", "add", "model/churn:v0", "checked")
    world.say("registry", "tag", "add", "model/churn", "team-a")
    world.say("registry", "alias", "rm", "model/churn:candidate")
    assert world.data("registry", "show", "model/churn:v0")["tags"] == ["checked"]
    assert world.data("registry", "show", "model/churn:v0")["aliases"] == ["latest"]
    assert world.data("registry", "collections", "show", "model/churn")["tags"] == ["team-a"]

    world.say("registry", "tag", "rm", "model/churn:v0", "checked")
    world.say("registry", "tag", "rm", "model/churn", "team-a")
    assert world.data("registry", "show", "model/churn:v0")["tags"] == []
    world.say("registry", "unlink", "model/churn:v0")

    assert "no versions" in world.say("registry", "versions", "model/churn")
    assert "churn/nn:v0" in world.say("registry", "artifacts", "list", "churn/nn")


def test_aliases_and_tags_of_an_artifact_are_given_and_taken_in_its_project(world):
    """A project has aliases of its own; a tag is seen through the links."""
    world.say("registry", "artifacts", "log", "lab/nn", "--digest", "sha256:01", "--alias", "best")
    world.say("registry", "artifacts", "log", "lab/nn", "--digest", "sha256:02")
    world.say("registry", "link", "lab/nn:v1", "model/lab")

    assert "lab/nn:best is now v1" in world.say("registry", "artifacts", "alias", "set", "lab/nn:latest", "best")
    assert "tagged lab/nn:v1 checked" in world.say("registry", "artifacts", "tag", "add", "lab/nn:best", "checked")
    shown = world.say("registry", "artifacts", "show", "lab/nn:best")
    assert "lab/nn:v1" in shown
    assert "checked" in shown
    assert world.data("registry", "show", "model/lab:v0")["tags"] == ["checked"]
    assert world.data("registry", "show", "model/lab:v0")["aliases"] == ["latest"]

    world.say("registry", "artifacts", "tag", "rm", "lab/nn:v1", "checked")
    world.say("registry", "artifacts", "alias", "rm", "lab/nn:best")
    left = world.data("registry", "artifacts", "show", "lab/nn:v1")
    assert (left["tags"], left["aliases"]) == ([], ["latest"])


def test_metadata_is_merged(world):
    """Keys that are named change or go, the others stay; numbers stay numbers, and words words."""
    world.say("registry", "artifacts", "log", "price/lm", "--metadata", '{"a": 1, "b": 2, "c": {"d": 3}}')
    world.say("registry", "link", "price/lm", "model/price")

    world.say("registry", "metadata", "model/price:v0", "a=null", "b=2.5", "e=hello", 'f="1.10"')

    assert world.data("registry", "show", "model/price:v0")["metadata"] == {
        "b": 2.5,
        "c": {"d": 3},
        "e": "hello",
        "f": "1.10",
    }


def test_files_are_logged_by_their_digest(world, tmp_path):
    """The same bytes are the same version, whatever the file is called elsewhere; other bytes are a new one."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    first = world.data("registry", "artifacts", "log", "files/net", "--file", str(weights))
    again = world.data("registry", "artifacts", "log", "files/net", "--file", str(weights))
    assert "no new version: files/net:v0" in world.say(
        "registry", "artifacts", "log", "files/net", "--file", str(weights), "--set", "accuracy=0.9"
    )
    weights.write_bytes(b"two")
    second = world.data("registry", "artifacts", "log", "files/net", "--file", str(weights))

    assert (first["version"], again["version"], second["version"]) == ("v0", "v0", "v1")


def test_a_failed_execution_is_explained_retried_and_cancelled(world):
    """A person sees why it failed, sets it going again, and is told when there is nothing to stop."""
    event = world.data("events", "emit", "please-fail", "why=test")["id"]
    failed = world.execution_of(event, "failed")
    assert "404" in world.say("executions", "show", failed["id"])

    assert failed["id"] in world.say("executions", "retry", failed["id"])
    again = until(lambda: _with_attempts(world, failed["id"], 2))
    deliveries = {attempt["delivery_id"] for attempt in again["steps"][0]["attempts"]}
    assert len(deliveries) == 1
    assert failed["id"] in world.run("executions", "cancel", failed["id"], exit_code=1).stderr


def _with_attempts(world, execution, count):
    found = world.data("executions", "show", execution)
    return found if found["state"] == "failed" and len(found["steps"][0]["attempts"]) == count else None


def test_custom_events_carry_what_they_are_given(world, tmp_path):
    """Data from words, from JSON and from a file arrive with their types."""
    (tmp_path / "body.json").write_text('{"nested": {"x": [1, 2]}}')
    event = world.data("events", "emit", "measured", "score=0.41", "model=churn", "--data", f"@{tmp_path}/body.json")[
        "id"
    ]

    assert world.data("events", "show", event)["data"] == {
        "score": 0.41,
        "model": "churn",
        "nested": {"x": [1, 2]},
    }
    assert "custom measured" in world.say("events", "list", "--name", "measured")


def test_tail_prints_each_event_once_as_it_happens(world):
    """`events tail --json` gives one object a line, earlier events first, then new ones, none twice."""
    world.data("events", "emit", "before-tail")
    command = [sys.executable, "-m", "upshot", "events", "tail", "--json", "--last", "1", "--kind", "custom"]
    command += ["--data", str(world.up.data)]
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    try:
        assert json.loads(tail.stdout.readline())["name"] == "before-tail"
        emitted = [world.data("events", "emit", f"during-tail-{n}")["id"] for n in range(3)]
        assert [json.loads(tail.stdout.readline())["id"] for _ in emitted] == emitted
        tail.send_signal(signal.SIGINT)
        assert tail.wait(10) == 0
    finally:
        tail.kill()
        tail.communicate()


def test_automations_are_listed_with_what_is_broken(world):
    """One list says what is in force and which file keeps something out."""
    listed = world.say("automations", "list")
    assert "deploy" in listed
    assert "broken.yaml:4: " in listed
    assert world.data("automations", "show", "deploy")["source"]["name"] == "deploy"
    assert [one["name"] for one in world.data("automations", "list")["items"]] == ["deploy", "fail"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["registry", "show", "model/nothing:v9"], "nothing", id="no such collection"),
        pytest.param(["registry", "link", "nobody/nothing:v0", "model/x"], "nobody", id="no such artifact"),
        pytest.param(["registry", "alias", "set", "model/nothing:v0", "v3"], "v3", id="alias that means a version"),
        pytest.param(["events", "show", "evt_nothing"], "evt_nothing", id="no such event"),
        pytest.param(["executions", "show", "exe_nothing"], "exe_nothing", id="no such execution"),
        pytest.param(["executions", "retry", "exe_nothing"], "exe_nothing", id="nothing to retry"),
        pytest.param(["automations", "show", "nothing"], "nothing", id="no such automation"),
        pytest.param(["events", "emit", "a/b"], "a/b", id="name that cannot be"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(world, words, reason):
    """The server's reason reaches the person: one line on standard error, nothing on standard output, exit code 1."""
    result = world.run(*words, exit_code=1)

    assert result.stdout == ""
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_names_of_every_kind_find_their_way(world):
    """Names with spaces, accents, quotes and plus signs mean themselves."""
    name = 'modèle "a+b" & c=1; ü'
    world.say("registry", "artifacts", "log", f"projet/{name}", "--digest", "sha256:02")
    world.say("registry", "link", f"projet/{name}:v0", f"model/{name}", "--alias", "prêt à partir")

    assert world.data("registry", "show", f"model/{name}:prêt à partir")["reference"] == f"model/{name}:v0"
    assert name in world.say("registry", "collections", "list", "model")


def test_terminal_commands_in_data_are_disarmed(world):
    """What others wrote cannot move the cursor or ring the bell of whoever reads it."""
    event = world.data("events", "emit", "rude", "--data", json.dumps({"text": "\x1b[2J\x07"}))["id"]

    shown = world.say("events", "show", event)

    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_doctor_looks_at_everything(world, monkeypatch):
    """Beside a running Upshot it sees Redis, the worker and the clocks, and fails for a secret that nobody set."""
    automations = ("--automations", str(world.up.automations))
    monkeypatch.setenv("UPSHOT_SECRET_GITHUB_TOKEN", "x")
    seen = world.run("doctor", *automations, exit_code=1)  # broken.yaml
    for line in ("ok    redis: Valkey", "ok    worker: wrk_", "ok    database: SQLite", "broken.yaml:4"):
        assert line in seen.stdout
    assert "GITHUB_TOKEN" not in seen.stdout

    monkeypatch.delenv("UPSHOT_SECRET_GITHUB_TOKEN")
    findings = json.loads(world.run("doctor", *automations, "--json", exit_code=1).stdout)
    secrets = [finding for finding in findings if finding["subject"] == "secrets"]
    assert [finding["state"] for finding in secrets] == ["fail"]
    assert "UPSHOT_SECRET_GITHUB_TOKEN" in secrets[0]["remedy"]


def test_another_token_or_server_is_said_to_be_wrong(world, monkeypatch):
    """A wrong token and an address where something else answers are told apart, each with its remedy."""
    monkeypatch.setenv("UPSHOT_TOKEN", "wrong")
    assert "token" in world.run("events", "list", exit_code=1).stderr

    monkeypatch.setenv("UPSHOT_URL", world.receivers.url)
    from click.testing import CliRunner

    from upshot.cli import main

    other = CliRunner().invoke(main, ["events", "list"])
    assert other.exit_code == 1
    assert "UPSHOT_URL" in other.stderr
