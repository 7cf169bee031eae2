"""The commands against a running Upshot: what they print for people and for programs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.waiting import until
from upshot.cli import main
from upshot.receivers import GITHUB_TOKEN

pytestmark = pytest.mark.live


def test_a_model_is_logged_linked_and_promoted(world):
    """A newcomer's first commands end in a delivered dispatch that can be looked up."""
    logged = world.text("registry", "artifacts", "log", "credit/xgb", "--set", "accuracy:=0.93", "--set", "format=onnx")
    assert logged.startswith("logged credit/xgb:v0 (")
    assert "linked credit/xgb:v0 as model/credit:v0" in world.text(
        "registry", "link", "credit/xgb:v0", "model/credit", "--alias", "staging"
    )
    moved = world.text("registry", "alias", "set", "model/credit:v0", "production")
    assert "model/credit:production is now v0" in moved

    shown = world.json("registry", "show", "model/credit:production")
    assert shown["metadata"] == {"accuracy": 0.93, "format": "onnx"}
    assert shown["aliases"] == ["latest", "production", "staging"]

    (promoted,) = world.json("events", "list", "--subject", "model/credit", "--kind", "alias-added", "--limit", "1")
    execution = world.wait_for_execution(promoted["id"], "succeeded")
    event = world.text("events", "show", promoted["id"])
    assert f"answered by  deploy  ({execution['id']})" in event
    assert "not by       fail: " in event

    details = world.text("executions", "show", execution["id"])
    assert "step 1  dispatch (github-dispatch) is succeeded" in details
    assert "-> POST" in details
    assert "<- 204" in details
    assert '"model":"credit"' in details
    assert GITHUB_TOKEN not in details


def test_messages_name_the_version_that_an_alias_meant(world):
    """What a command and a list say is exact: which version was linked and unlinked, and how a stage changed."""
    world.text("registry", "artifacts", "log", "rates/xgb", "--set", "accuracy:=0.9")

    assert "linked rates/xgb:v0 as model/rates:v0" in world.text("registry", "link", "rates/xgb", "model/rates")
    world.text("registry", "stage", "model/rates:latest", "staging")
    assert "None -> Staging" in world.text("events", "list", "--kind", "stage-changed", "--limit", "1")
    assert "unlinked model/rates:v0" in world.text("registry", "unlink", "model/rates:latest")


def test_collections_are_created_updated_and_deleted(world):
    """A collection can be created, described, listed and deleted; its history stays."""
    world.text("registry", "collections", "create", "model/scoring", "--description", "Scores.")
    world.text("registry", "collections", "update", "model/scoring", "--description", "Scores customers.")
    assert "Scores customers." in world.text("registry", "collections", "show", "model/scoring")
    assert "model/scoring" in world.text("registry", "collections", "list", "model")

    world.text("registry", "collections", "delete", "model/scoring", "--yes")

    assert "scoring" in world.run("registry", "collections", "show", "model/scoring", exit_code=1).stderr
    actions = [entry["action"] for entry in world.json("registry", "history", "model/scoring")]
    assert len(actions) == 3


def test_a_renamed_collection_is_reported_with_both_names(world):
    """The result of a change of the name says from what to what."""
    world.text("registry", "collections", "create", "model/rating")

    renamed = world.text("registry", "collections", "update", "model/rating", "--name", "ranking")
    assert renamed == "renamed model/rating to model/ranking\n"
    both = world.text("registry", "collections", "update", "model/ranking", "--name", "rating", "--description", "D.")
    assert both == "renamed model/ranking to model/rating; updated the description of model/rating\n"


def test_an_empty_list_with_filters_does_not_say_that_there_is_nothing(world):
    """A filter that nothing passes is named as the reason."""
    world.text("registry", "artifacts", "log", "filtered/nn")
    world.text("registry", "link", "filtered/nn", "model/filtered")

    listed = world.text("registry", "collections", "list", "model", "--type", "no-such-type")
    assert listed == "no collection of registry model passes the filters\n"
    for words in (("versions", "model/filtered"), ("artifacts", "list", "filtered/nn")):
        assert "has no versions that pass the filters" in world.text("registry", *words, "--tag", "no-such-tag")


def test_protecting_aliases_names_what_does_not_exist(world):
    """A registry or an automation that does not exist can be a typing error, so a note names it."""
    result = world.run("registry", "protect", "protecte", "prod*", "--automation", "depoly", "--automation", "deploy")

    assert "there was no registry 'protecte', so it has been created" in result.stderr
    assert "no automation 'depoly' is loaded" in result.stderr
    assert "'deploy'" not in result.stderr
    assert world.run("registry", "protect", "protecte").stderr == ""


def test_tags_aliases_and_links_can_be_removed(world):
    """Removing tags, aliases and links leaves the artifact in its project."""
    world.text("registry", "artifacts", "log", "churn/nn", "--digest", "sha256:01", "--alias", "best")
    world.text("registry", "link", "churn/nn:best", "model/churn", "--alias", "candidate")
    assert "tagged model/churn:v0 checked" in world.text("registry", "tag", "add", "model/churn:v0", "checked")
    assert "tagged model/churn team-a" in world.text("registry", "tag", "add", "model/churn", "team-a")
    removed = world.text("registry", "alias", "rm", "model/churn:candidate")
    assert "model/churn no longer has the alias candidate" in removed
    assert world.json("registry", "show", "model/churn:v0")["tags"] == ["checked"]
    assert world.json("registry", "show", "model/churn:v0")["aliases"] == ["latest"]
    assert world.json("registry", "collections", "show", "model/churn")["tags"] == ["team-a"]

    world.text("registry", "tag", "rm", "model/churn:v0", "checked")
    assert "model/churn no longer has the tag team-a" in world.text("registry", "tag", "rm", "model/churn", "team-a")
    assert world.json("registry", "show", "model/churn:v0")["tags"] == []
    world.text("registry", "unlink", "model/churn:v0")

    assert "no versions" in world.text("registry", "versions", "model/churn")
    assert "churn/nn:v0" in world.text("registry", "artifacts", "list", "churn/nn")


def test_an_artifact_has_aliases_and_tags_in_its_project(world):
    """A project has aliases of its own. Tags of an artifact version appear on its links."""
    world.text("registry", "artifacts", "log", "lab/nn", "--digest", "sha256:01", "--alias", "best")
    world.text("registry", "artifacts", "log", "lab/nn", "--digest", "sha256:02")
    world.text("registry", "link", "lab/nn:v1", "model/lab")

    assert "lab/nn:best is now v1" in world.text("registry", "artifacts", "alias", "set", "lab/nn:latest", "best")
    assert "tagged lab/nn:v1 checked" in world.text("registry", "artifacts", "tag", "add", "lab/nn:best", "checked")
    shown = world.text("registry", "artifacts", "show", "lab/nn:best")
    assert "lab/nn:v1" in shown
    assert "checked" in shown
    assert world.json("registry", "show", "model/lab:v0")["tags"] == ["checked"]
    assert world.json("registry", "show", "model/lab:v0")["aliases"] == ["latest"]

    world.text("registry", "artifacts", "tag", "rm", "lab/nn:v1", "checked")
    world.text("registry", "artifacts", "alias", "rm", "lab/nn:best")
    shown = world.json("registry", "artifacts", "show", "lab/nn:v1")
    assert (shown["tags"], shown["aliases"]) == ([], ["latest"])


def test_metadata_is_merged(world):
    """Named keys change or are removed, and the others stay. Numbers stay numbers, and text stays text."""
    world.text("registry", "artifacts", "log", "price/lm", "--metadata", '{"a": 1, "b": 2, "c": {"d": 3}}')
    world.text("registry", "link", "price/lm", "model/price")

    world.text("registry", "metadata", "model/price:v0", "a:=null", "b:=2.5", "e=hello", "f=1.10")

    assert world.json("registry", "show", "model/price:v0")["metadata"] == {
        "b": 2.5,
        "c": {"d": 3},
        "e": "hello",
        "f": "1.10",
    }


def test_files_are_logged_by_their_digest(world, tmp_path):
    """The same content is the same version. Other content is a new version."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    command = ("registry", "artifacts", "log", "files/net", "--file", str(weights))
    first = world.json(*command)
    again = world.json(*command)
    assert "no new version: files/net:v0" in world.text(*command, "--set", "accuracy:=0.9")
    weights.write_bytes(b"two")
    second = world.json(*command)

    assert (first["name"], again["name"], second["name"]) == ("v0", "v0", "v1")


def test_a_failed_execution_can_be_retried_but_not_cancelled(world):
    """The output says why it failed. A retry sends with the same delivery id. A final execution is not cancelled."""
    event_id = world.json("events", "emit", "please-fail", "why=test")["id"]
    execution_id = world.wait_for_execution(event_id, "failed")["id"]
    shown = world.text("executions", "show", execution_id)
    assert "404" in shown
    assert 'step-1 "Ask nobody" (github-dispatch)' in shown

    def failed_again():
        execution = world.json("executions", "show", execution_id)
        attempts = execution["steps"][0]["attempts"]
        return attempts if execution["state"] == "failed" and len(attempts) == 2 else None

    assert execution_id in world.text("executions", "retry", execution_id)
    assert len({attempt["delivery_id"] for attempt in until(failed_again)}) == 1
    assert execution_id in world.run("executions", "cancel", execution_id, exit_code=1).stderr


def test_executions_are_retried_by_filter_after_their_file_was_corrected(world):
    """Both continue with the corrected revision, which the output names."""
    ids = [
        world.wait_for_execution(world.json("events", "emit", "mistake", f"value:={n}")["id"], "failed")["id"]
        for n in (1, 2)
    ]
    words = ("executions", "retry", "--state", "failed", "--automation", "mistaken", "--since", "1h")
    assert world.text(*words, "--dry-run").split() == sorted(ids)
    mistaken = world.json("executions", "show", ids[0])["revision"]
    path = world.up.automations / "all.yaml"
    path.write_text(path.read_text().replace("valeu", "value"))

    def loaded():
        revision = world.json("automations", "show", "mistaken")["revision"]
        return None if revision == mistaken else revision

    corrected = until(loaded, "the corrected revision")

    lines = world.text(*words).splitlines()

    assert lines == [f"{execution_id} is waiting again, with revision {corrected}" for execution_id in sorted(ids)]
    for execution_id in ids:
        until(lambda: world.json("executions", "show", execution_id)["state"] == "succeeded", "a success")  # noqa: B023
    assert "no such executions" in world.text(*words)
    world.run("executions", "retry", exit_code=2)
    world.run("executions", "retry", ids[0], "--state", "failed", exit_code=2)


def test_events_are_replayed(world):
    """A replay is a new execution. The period counts from the given time."""
    event_id = world.json("events", "emit", "please-fail", "why=replay")["id"]
    first = world.wait_for_execution(event_id, "failed")
    assert f"{event_id}: would be answered by fail" in world.text("events", "replay", event_id, "--dry-run")
    assert event_id in world.text("events", "replay", "--since", "10m", "--automation", "fail", "--dry-run")
    assert event_id not in world.text("events", "replay", "--since", "10m", "--until", "9m", "--dry-run")

    assert "1 execution for 1 event follows" in world.text("events", "replay", event_id, "--automation", "fail")

    def both():
        found = world.json("executions", "list", "--event", event_id, "--state", "failed")
        return found if len(found) == 2 else None

    assert {(execution["id"] == first["id"], execution["replay"]) for execution in until(both, "the replay")} == {
        (True, False),
        (False, True),
    }
    assert "fail (replay)" in world.text("executions", "list", "--event", event_id)
    assert "a replay" in str(world.json("events", "show", event_id)["explanation"])
    assert "did you mean 'fail'" in world.run("events", "replay", event_id, "--automation", "fial", exit_code=1).stderr
    world.run("events", "replay", exit_code=2)
    world.run("events", "replay", event_id, "--since", "1h", exit_code=2)
    assert "is not a time" in world.run("events", "replay", "--since", "soon", exit_code=2).stderr


def test_custom_events_carry_their_data(world, tmp_path):
    """Data from words, from JSON and from a file keep their types. A text stays a text unless `:=` is written."""
    (tmp_path / "body.json").write_text('{"nested": {"x": [1, 2]}}')
    words = ("score:=0.41", "model=churn", "--data", f"@{tmp_path}/body.json")
    event_id = world.json("events", "emit", "measured", *words)["id"]

    assert world.json("events", "show", event_id)["data"] == {
        "score": 0.41,
        "model": "churn",
        "nested": {"x": [1, 2]},
    }
    assert "custom measured" in world.text("events", "list", "--name", "measured")


def test_tail_prints_each_event_once(world):
    """`events tail --json` prints one object per line: earlier events first, then new ones, none twice."""
    world.json("events", "emit", "before-tail")
    command = [sys.executable, "-m", "upshot", "events", "tail", "--json", "--last", "1", "--kind", "custom"]
    command += ["--data", str(world.up.data)]
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    try:
        assert json.loads(tail.stdout.readline())["name"] == "before-tail"
        emitted = [world.json("events", "emit", f"during-tail-{n}")["id"] for n in range(3)]
        assert [json.loads(tail.stdout.readline())["id"] for _ in emitted] == emitted
        tail.send_signal(signal.SIGINT)
        assert tail.wait(10) == 0
    finally:
        tail.kill()
        tail.communicate()


def test_automations_are_listed_with_the_errors_in_other_files(world):
    """One list shows the loaded automations and the file:line of every error."""
    listed = world.text("automations", "list")
    assert "deploy" in listed
    assert "broken.yaml:4: " in listed
    assert world.json("automations", "show", "deploy")["source"]["name"] == "deploy"
    listed = world.run("automations", "list", "--json")
    assert [automation["name"] for automation in json.loads(listed.stdout)] == ["deploy", "fail", "mistaken"]
    assert f"broken: {world.up.automations}/broken.yaml:4: " in listed.stderr
    (broken,) = world.json("automations", "list", "--broken")
    assert (broken["path"], broken["line"]) == (f"{world.up.automations}/broken.yaml", 4)


def test_every_list_is_a_json_array(world):
    """`--json` prints the items of every list as an array, also if there are none."""
    world.json("events", "emit", "please-list")
    for words in (
        ("events", "list"),
        ("executions", "list"),
        ("jobs", "list"),
        ("automations", "list"),
        ("destinations", "list"),
        ("registry", "history"),
        ("registry", "collections", "list", "model"),
        ("registry", "versions", "model/none-of-these"),
    ):
        if words[1] == "versions":
            world.text("registry", "collections", "create", "model/none-of-these")
        assert isinstance(world.json(*words), list), words


def test_the_end_of_an_id_is_enough(world):
    """A command takes an id, its unique beginning or end, or `latest`. For an ambiguous part, it lists the ids."""
    world.json("events", "emit", "another")
    event_id = world.json("events", "emit", "please-shorten")["id"]
    for word in (event_id, event_id[-8:], event_id[:-1], event_id[4:-1], event_id[-8:].upper()):
        assert world.json("events", "show", word)["id"] == event_id
    assert world.json("events", "show", "latest")["kind"]

    ambiguous = world.run("events", "show", event_id[:7], exit_code=1).stderr
    assert f"'{event_id[:7]}' matches several ids: evt_0" in ambiguous
    assert "write more characters of the id" in ambiguous
    for short in ("e", "evt_", "evt_0", event_id[-2:], ""):
        assert "at least 3 characters" in world.run("events", "show", short, exit_code=1).stderr
    assert "there is no event 'nope!'" in world.run("events", "show", "nope!", exit_code=1).stderr


def test_lists_are_filtered_by_time_and_by_several_states(world):
    """`--since` takes a time or how long ago. `--state` can be repeated."""
    event_id = world.json("events", "emit", "please-fail", "why=filters")["id"]
    failed = world.wait_for_execution(event_id, "failed")

    found = world.json("executions", "list", "--state", "failed", "--state", "cancelled", "--since", "5m")
    assert failed["id"] in {execution["id"] for execution in found}
    assert world.json("executions", "list", "--event", event_id[-8:])[0]["id"] == failed["id"]
    assert world.json("executions", "list", "--since", "2100-01-01") == []
    assert event_id in {event["id"] for event in world.json("events", "list", "--since", "5m", "--limit", "1000")}
    assert world.json("events", "list", "--since", "2100-01-01T00:00:00Z") == []
    assert world.json("jobs", "list", "--state", "queued", "--state", "failed", "--since", "1h") == []
    assert "is not a time" in world.run("events", "list", "--since", "yesterday", exit_code=2).stderr


def test_wait_ends_with_the_result_of_what_was_set_off(world):
    """With `--wait`, the exit code is 0 if everything succeeded or nothing was triggered, and 1 if something failed."""
    world.text("registry", "artifacts", "log", "wait/nn", "--digest", "sha256:01")
    linked = world.text("registry", "link", "wait/nn:v0", "model/wait", "--wait")
    assert "no automation answers it (0 of 3)" in linked
    moved = ("registry", "alias", "set", "model/wait:v0", "production", "--wait")
    assert "deploy succeeded (exe_" in world.text(*moved)
    assert "nothing changed" in world.text(*moved)

    failed = world.run("events", "emit", "please-fail", "why=wait", "--wait", "--json", exit_code=1)
    assert "fail failed: " in failed.stderr
    assert [execution["state"] for execution in json.loads(failed.stdout)["executions"]] == ["failed"]

    world.receivers.fail_times(100, 503, path="/github/repos/acme/deploy/dispatches")
    world.text("registry", "alias", "rm", "model/wait:production")
    late = world.run(*moved, "--timeout", "2", exit_code=1).stderr
    assert "not finished within 2 s: deploy exe_" in late
    assert "is waiting" in late
    world.receivers.reset(path="/github/repos/acme/deploy/dispatches")


def test_a_retry_and_a_replay_wait_for_their_result(world):
    """With `--wait`, a retry and a replay exit by what becomes of the executions."""
    world.text("registry", "artifacts", "log", "again/nn", "--digest", "sha256:01")
    world.text("registry", "link", "again/nn:v0", "model/again")
    world.receivers.fail_times(1, 422, path="/github/repos/acme/deploy/dispatches")
    moved = world.run("registry", "alias", "set", "model/again:v0", "production", "--wait", "--json", exit_code=1)
    (failed,) = json.loads(moved.stdout)["executions"]

    retried = world.text("executions", "retry", failed["id"], "--wait")
    assert f"deploy succeeded ({failed['id']})" in retried
    assert "1 execution ended, and none of them failed" in retried
    event_id = json.loads(moved.stdout)["event_ids"][-1]
    replayed = world.json("events", "replay", event_id, "--wait")
    assert [execution["state"] for execution in replayed["executions"]] == ["succeeded"]

    event_id = world.json("events", "emit", "please-fail", "why=again")["id"]
    world.wait_for_execution(event_id, "failed")
    again = world.run("executions", "retry", "--event", event_id, "--wait", "--json", exit_code=1)
    assert [execution["state"] for execution in json.loads(again.stdout)["executions"]] == ["failed"]
    assert "fail failed: " in again.stderr


def test_comments_are_added_listed_edited_and_deleted(world):
    """Versions and runs have comments, and the event of each has its mentions."""
    world.text("registry", "artifacts", "log", "talk/nn", "--digest", "sha256:01")
    world.text("registry", "link", "talk/nn:v0", "model/talk")
    added = world.text("comments", "add", "model/talk:v0", "@ada please check", "--wait")
    assert "on talk/nn:v0; it mentions ada" in added
    assert "no automation answers it (0 of 3)" in added
    comment_id = added.split()[2]
    listed = world.text("comments", "list", "talk/nn:v0")
    assert comment_id in listed
    assert "@ada please check" in listed
    (event,) = world.json("events", "list", "--kind", "comment-added")
    assert event["data"]["mentions"] == ["ada"]
    assert "edited comment" in world.text("comments", "edit", comment_id, "thanks")
    assert [comment["text"] for comment in world.json("comments", "list", "model/talk")] == ["thanks"]
    assert "deleted comment" in world.text("comments", "delete", comment_id)
    assert "no comments on model/talk:v0" in world.text("comments", "list", "model/talk:v0")
    assert "there is no project 'nope'" in world.run("comments", "list", "--run", "nope/x", exit_code=1).stderr


def test_a_list_of_events_says_who_answered(world):
    """`events list` and `events tail` show how many automations answered, of how many."""
    event_id = world.json("events", "emit", "please-count")["id"]
    until(lambda: world.json("events", "show", event_id)["matched_at"])
    row = next(line for line in world.text("events", "list").splitlines() if line.startswith(event_id))
    assert row.rstrip().endswith("0 of 3")

    event_id = world.json("events", "emit", "please-fail", "why=count")["id"]
    world.wait_for_execution(event_id, "failed")
    row = next(line for line in world.text("events", "list").splitlines() if line.startswith(event_id))
    assert row.rstrip().endswith("1 of 3")
    command = [sys.executable, "-m", "upshot", "events", "tail", "--last", "20", "--data", str(world.up.data)]
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert tail.stdout is not None
    try:
        line = next(line for line in tail.stdout if event_id in line)
        assert line.endswith("custom please-fail, answered by 1 of 3: fail\n")
    finally:
        tail.send_signal(signal.SIGINT)
        tail.communicate()


def test_only_the_last_request_is_printed(world):
    """An execution with several attempts shows one line for each, and the request and response of the last one."""
    event_id = world.json("events", "emit", "please-fail", "why=print")["id"]
    execution_id = world.wait_for_execution(event_id, "failed")["id"]
    world.text("executions", "retry", execution_id)

    def failed_again():
        execution = world.json("executions", "show", execution_id)
        return execution["state"] == "failed" and len(execution["steps"][0]["attempts"]) == 2

    until(failed_again)
    shown = world.text("executions", "show", execution_id)
    assert shown.count("  attempt ") == 2
    assert shown.count("-> POST") == 1
    assert world.text("executions", "show", execution_id, "--all-attempts").count("-> POST") == 2


def test_an_attempt_in_progress_is_shown(world):
    """While a receiver has not answered, the execution shows the number of the attempt and its worker."""
    path = "/github/repos/acme/deploy/dispatches"
    world.receivers.misbehave("hang", path=path)
    world.text("registry", "artifacts", "log", "slow/nn", "--digest", "sha256:01")
    world.text("registry", "link", "slow/nn:v0", "model/slow", "--alias", "production")

    running = until(lambda: world.json("executions", "list", "--state", "running"))[0]
    shown = world.text("executions", "show", running["id"])
    world.text("executions", "cancel", running["id"])
    world.receivers.reset(path=path)

    assert "attempt 1 is running, worker wrk_" in shown
    assert running["worker_id"].startswith("wrk_")
    assert world.json("executions", "show", running["id"])["worker_id"] is None


def test_an_answer_with_a_server_error_is_not_called_unreachable(world):
    """An attempt that was answered with 500 is `unavailable`. It is tried again."""
    path = "/github/repos/acme/deploy/dispatches"
    world.receivers.fail_times(1, 500, path=path)
    world.text("registry", "artifacts", "log", "busy/nn", "--digest", "sha256:01")
    world.text("registry", "link", "busy/nn:v0", "model/busy", "--alias", "production", "--wait")

    (execution,) = (
        execution
        for execution in world.json("executions", "list", "--automation", "deploy", "--limit", "1")
        if execution["state"] == "succeeded"
    )
    attempts = world.json("executions", "show", execution["id"])["steps"][0]["attempts"]
    assert [attempt["state"] for attempt in attempts] == ["unavailable", "succeeded"]
    assert "unreachable" not in world.text("executions", "show", execution["id"], "--all-attempts")


def test_a_shell_completes_ids_and_names(world):
    """Completion knows the ids, references and automations of the running Upshot, and prints nothing without one."""
    world.text("registry", "artifacts", "log", "shell/nn", "--digest", "sha256:01")
    world.text("registry", "link", "shell/nn:v0", "model/shell", "--alias", "best")
    event_id = world.json("events", "emit", "please-complete")["id"]

    def complete(*words):
        environment = {"_UPSHOT_COMPLETE": "fish_complete", "UPSHOT_DATA": str(world.up.data)}
        line = {"COMP_WORDS": " ".join(("upshot", *words)), "COMP_CWORD": words[-1]}
        return CliRunner().invoke(main, env={**environment, **line}, prog_name="upshot").stdout

    assert event_id in complete("events", "show", "evt_")
    assert "deploy" in complete("automations", "show", "d")
    assert "model/shell" in complete("registry", "versions", "model/s")
    assert "model/shell:best" in complete("registry", "show", "model/shell:")
    assert "shell/nn:v0" in complete("registry", "artifacts", "show", "shell/nn:")
    with_nothing = {"_UPSHOT_COMPLETE": "fish_complete", "UPSHOT_URL": "http://127.0.0.1:9"}
    line = {"COMP_WORDS": "upshot events show evt_", "COMP_CWORD": "evt_"}
    assert CliRunner().invoke(main, env={**with_nothing, **line}, prog_name="upshot").stdout.strip() == ""
    for shell in ("bash", "zsh", "fish"):
        assert "_UPSHOT_COMPLETE" in CliRunner().invoke(main, ["completion", shell], prog_name="upshot").stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(["registry", "show", "model/nothing:v9"], "nothing", id="unknown collection"),
        pytest.param(["registry", "link", "nobody/nothing:v0", "model/x"], "nobody", id="unknown artifact"),
        pytest.param(
            ["registry", "alias", "set", "model/nothing:v0", "v3"], "v3", id="alias that looks like a version"
        ),
        pytest.param(["events", "show", "evt_nothing"], "evt_nothing", id="unknown event"),
        pytest.param(["executions", "show", "exe_nothing"], "exe_nothing", id="unknown execution"),
        pytest.param(["executions", "retry", "exe_nothing"], "exe_nothing", id="nothing to retry"),
        pytest.param(["automations", "show", "nothing"], "nothing", id="unknown automation"),
        pytest.param(["events", "emit", "a/b"], "a/b", id="invalid name"),
    ],
)
def test_a_rejected_request_is_reported_in_one_line(world, words, reason):
    """The server's reason is one line on standard error. Standard output is empty, and the exit code is 1."""
    result = world.run(*words, exit_code=1)

    assert result.stdout == ""
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_names_can_contain_special_characters(world):
    """Names with spaces, accents, quotes and plus signs are passed to the server unchanged."""
    name = 'modèle "a+b" & c=1; ü'
    world.text("registry", "artifacts", "log", f"projet/{name}", "--digest", "sha256:02")
    world.text("registry", "link", f"projet/{name}:v0", f"model/{name}", "--alias", "prêt à partir")

    assert world.json("registry", "show", f"model/{name}:prêt à partir")["reference"] == f"model/{name}:v0"
    assert name in world.text("registry", "collections", "list", "model")


def test_control_characters_in_data_are_escaped(world):
    """Data of other people cannot move the cursor of a terminal or clear it."""
    event_id = world.json("events", "emit", "rude", "--data", json.dumps({"text": "\x1b[2J\x07"}))["id"]

    shown = world.text("events", "show", event_id)

    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_doctor_checks_a_running_upshot(world):
    """It checks Redis, workers, clocks and automation files."""
    printed = world.run("doctor", "--automations", str(world.up.automations), exit_code=1).stdout  # broken.yaml

    for line in ("ok    redis: Valkey", "ok    worker: wrk_", "ok    database: SQLite", "broken.yaml:4"):
        assert line in printed


def test_doctor_asks_the_workers_which_secrets_they_have(world, monkeypatch, tmp_path):
    """The environment of the workers counts, not that of the command. The message names the worker."""
    monkeypatch.delenv("UPSHOT_SECRET_GITHUB_TOKEN", raising=False)
    monkeypatch.setenv("UPSHOT_SECRET_ONLY_HERE", "x")
    step = 'steps: [{uses: webhook, with: {url: "https://example.com", headers: {A: "{{ secrets.NAME }}"}}}]'
    automation = f"name: needs-a-secret\non: version-linked\n{step}\n"

    def check(secret, exit_code):
        (tmp_path / "a.yaml").write_text(automation.replace("NAME", secret))
        results = world.run("doctor", "--automations", str(tmp_path), "--json", exit_code=exit_code).stdout
        return [result for result in json.loads(results) if result["subject"] == "secrets"]

    (found,) = check("GITHUB_TOKEN", 0)
    assert (found["state"], found["detail"]) == ("ok", "every worker has the secrets that it needs: GITHUB_TOKEN")
    (missing,) = check("ONLY_HERE", 1)
    assert missing["state"] == "fail"
    assert "ONLY_HERE is missing on worker wrk_" in missing["detail"]
    assert "needs-a-secret" in missing["detail"]
    assert "UPSHOT_SECRET_ONLY_HERE" in missing["remedy"]

    own = world.up.data / "secrets" / "ONLY_HERE"  # without a restart
    own.write_text("x")

    def is_reported():
        workers = CliRunner().invoke(main, ["doctor", "--automations", str(tmp_path), "--data", str(world.up.data)])
        return "every worker has the secrets that it needs: ONLY_HERE" in workers.stdout

    until(is_reported, "the next heartbeat reports the new secret")
    own.unlink()


def test_a_wrong_token_and_a_wrong_server_are_distinguished(world, monkeypatch):
    """For a wrong token, the error names the token. For a server that is not Upshot, it names UPSHOT_URL."""
    monkeypatch.setenv("UPSHOT_TOKEN", "wrong")
    assert "token" in world.run("events", "list", exit_code=1).stderr

    monkeypatch.setenv("UPSHOT_URL", world.receivers.url)
    other = CliRunner().invoke(main, ["events", "list"])
    assert other.exit_code == 1
    assert "UPSHOT_URL" in other.stderr
