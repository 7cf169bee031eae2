"""The command line where nothing runs: help, mistakes, `validate`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from upshot.cli import main


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, words, prog_name="upshot", env=environment)


def test_help_loads_neither_server_nor_clients():
    """`upshot --help` and `-h` answer at once: nothing heavy is imported."""
    heavy = "{'celery', 'fastapi', 'httpx', 'pydantic', 'redis', 'rich', 'sqlalchemy'}"
    program = (
        "import sys; from upshot.cli import main\n"
        "try: main(['-h'])\n"
        f"except SystemExit: print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "Commands:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["no-such-command"], id="unknown command"),
        pytest.param(["registry", "link", "one-word", "model/churn"], id="reference without a project"),
        pytest.param(["registry", "link", "p/a:v0", "model/churn:v1"], id="collection with a version"),
        pytest.param(["registry", "link", "p/a:v0", "model/a/b"], id="collection with three parts"),
        pytest.param(["registry", "metadata", "model/churn:v1"], id="nothing to change"),
        pytest.param(["registry", "metadata", "model/churn:v1", "accuracy"], id="no value"),
        pytest.param(["registry", "artifacts", "log", "p/a", "--metadata", "[1]"], id="metadata that is a list"),
        pytest.param(
            ["registry", "artifacts", "log", "p/a", "--metadata", "@nowhere.json"], id="file that is not there"
        ),
        pytest.param(["executions", "list", "--state", "done"], id="unknown state"),
        pytest.param(["up", "--port", "70000"], id="port that cannot be"),
        pytest.param(["validate", "nowhere"], id="folder that is not there"),
    ],
)
def test_what_is_not_understood_exits_2(words, tmp_path):
    """A mistake in the command is told apart from a command that failed, and says how it is written."""
    result = run(*words, UPSHOT_DATA=str(tmp_path), UPSHOT_URL="http://127.0.0.1:9")

    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["registr"], "Did you mean 'registry'?", id="command"),
        pytest.param(["registry", "lnk"], "'link', 'unlink'", id="command of a group"),
        pytest.param(["events", "emitt"], "Did you mean 'emit'?", id="command of another group"),
    ],
)
def test_a_misspelt_command_names_the_nearest(words, says):
    """Commands that are imported when they are called are known before that."""
    assert says in run(*words).stderr


@pytest.mark.parametrize(
    "words", [["events", "list"], ["registry", "versions", "model/churn"], ["automations", "list"]]
)
def test_without_a_running_upshot_the_remedy_is_named(words, tmp_path):
    """Nothing runs: one line says what to start, or what to set."""
    result = run(*words, UPSHOT_DATA=str(tmp_path))

    assert result.exit_code == 1
    assert "no Upshot answers: start `upshot up` here, or set UPSHOT_URL" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "no-url", "ftp://x", "http://[", "http://127.0.0.1:99999"])
def test_an_address_where_nothing_answers_is_named(url, tmp_path):
    """UPSHOT_URL names nothing that answers: one line says so, and no traceback."""
    result = run("events", "list", UPSHOT_URL=url, UPSHOT_DATA=str(tmp_path))

    assert result.exit_code == 1
    assert url in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_settings_that_cannot_be_meant_are_named(tmp_path):
    """Every bad setting is named at once, as the variable that a person has set."""
    result = run("up", UPSHOT_DATA=str(tmp_path), UPSHOT_LEASE_SECONDS="soon", UPSHOT_SWEEP_SECONDS="0")

    assert result.exit_code == 1
    assert "UPSHOT_LEASE_SECONDS" in result.stderr
    assert "UPSHOT_SWEEP_SECONDS" in result.stderr


GOOD = "name: good\non: version-linked\nsteps:\n  - uses: add-tag\n    with: {tag: seen}\n"


def test_validate_prints_every_mistake_with_its_place(tmp_path):
    """All mistakes of all files at once, each as file:line: finding; the sound ones are named too; exit code 1."""
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text("name: bad\non: nothing\nsteps:\n  - uses: slak\n")
    (tmp_path / "worse.yaml").write_text("name: [\n")

    result = run("validate", str(tmp_path))

    assert result.exit_code == 1
    assert f"{tmp_path}/bad.yaml:2: " in result.stdout
    assert f"{tmp_path}/bad.yaml:4: unknown action 'slak'; did you mean 'slack'?" in result.stdout
    assert f"{tmp_path}/worse.yaml:" in result.stdout
    assert f"{tmp_path}/good.yaml:1: good ok" in result.stdout


def test_validate_takes_one_file(tmp_path):
    """As pre-commit hands them over."""
    (tmp_path / "good.yaml").write_text("name: good\non: version-linked\nsteps: [{uses: emit, with: {name: x}}]\n")
    (tmp_path / "bad.yaml").write_text("name: bad\n")
    assert run("validate", str(tmp_path / "good.yaml")).exit_code == 0
    result = run("validate", str(tmp_path / "bad.yaml"))
    assert result.exit_code == 1
    assert "bad.yaml:1" in result.stdout
    assert "good" not in result.stdout


def test_validate_is_content_with_what_is_sound(tmp_path):
    """Nothing wrong: exit code 0, also for programs."""
    (tmp_path / "good.yaml").write_text(GOOD)

    result = run("validate", str(tmp_path))
    assert result.exit_code == 0
    assert result.stdout.endswith("1 automation is sound; 0 mistakes found\n")
    form = json.loads(run("validate", str(tmp_path), "--json").stdout)
    assert form == {"automations": [{"name": "good", "path": f"{tmp_path}/good.yaml", "line": 1}], "errors": []}


def test_validate_knows_what_may_be_reached(tmp_path):
    """A URL of this machine is a mistake until the settings allow it, as it would be at the delivery."""
    (tmp_path / "local.yaml").write_text(
        "name: local\non: version-linked\nsteps:\n  - uses: webhook\n    with: {url: 'http://127.0.0.1:9/'}\n"
    )

    assert run("validate", str(tmp_path)).exit_code == 1
    assert run("validate", str(tmp_path), UPSHOT_EGRESS_ALLOW="127.0.0.0/8").exit_code == 0


LAUNCH = (
    "name: heavy\non: version-linked\nsteps:\n  - uses: launch\n    with: {image: a, queue: gpu, privileged: true}\n"
)


def test_validate_holds_jobs_against_the_operator_s_file(tmp_path):
    """What the file allows is sound, what it forbids is a mistake that names the file's line."""
    (tmp_path / "automations").mkdir()
    (tmp_path / "automations" / "heavy.yaml").write_text(LAUNCH)
    jobs_file = tmp_path / "jobs.yaml"
    jobs_file.write_text("queues:\n  gpu:\n    ceilings: {privileged: true}\n")
    command = ("validate", str(tmp_path / "automations"))

    allowed = run(*command, UPSHOT_JOBS_FILE=str(jobs_file))
    assert allowed.exit_code == 0, allowed.stdout
    assert f"{jobs_file}: queues gpu ok" in allowed.stdout
    assert "with.queue: there is no queue 'gpu'" in run(*command).stdout
    jobs_file.write_text("queues:\n  gpu:\n    ceilings: {privileged: false}\n")
    forbidden = run(*command, UPSHOT_JOBS_FILE=str(jobs_file))
    assert forbidden.exit_code == 1
    assert (
        f"heavy.yaml:5: with.privileged: a privileged job is root on the machine, and is not allowed (ceilings "
        f"of queue 'gpu' in {jobs_file}:3)" in forbidden.stdout
    )


def test_validate_prints_the_mistakes_of_the_operator_s_file(tmp_path):
    """They come first, and automations are not blamed for them."""
    (tmp_path / "heavy.yaml").write_text(LAUNCH)
    (tmp_path / "jobs").write_text("queues:\n  gpu: {ceiling: {}}\n")
    result = run("validate", str(tmp_path), UPSHOT_JOBS_FILE=str(tmp_path / "jobs"))

    assert result.exit_code == 1
    assert f"{tmp_path}/jobs:2: queues.gpu.ceiling: a queue has no such key; did you mean 'ceilings'?" in result.stdout
    assert result.stdout.endswith("1 automation is sound; 1 mistake found\n")


def test_doctor_looks_at_the_operator_s_file(tmp_path):
    """It says what is declared, or what is wrong with it."""
    jobs_file = tmp_path / "jobs.yaml"
    jobs_file.write_text("backends: {near: {uses: process}}\nqueues: {gpu: , cpu: }\n")
    command = ("doctor", "--data", str(tmp_path / "data"), "--automations", str(tmp_path))

    sound = run(*command, UPSHOT_JOBS_FILE=str(jobs_file)).stdout
    assert f"ok    jobs file: {jobs_file}: queues gpu, cpu; backends docker (docker), near (process)" in sound
    jobs_file.write_text("queues: {gpu: {x: 1}}\n")
    broken = run(*command, UPSHOT_JOBS_FILE=str(jobs_file))
    assert broken.exit_code == 1
    assert f"fail  jobs file: {jobs_file}:1: queues.gpu.x: a queue has no such key" in broken.stdout


def test_doctor_works_where_nothing_runs_yet(tmp_path):
    """Before the first start it says what is ready and what to start, and finds nothing to repair."""
    (tmp_path / "automations").mkdir()
    result = run("doctor", "--data", str(tmp_path / "data"), "--automations", str(tmp_path / "automations"))

    assert result.exit_code == 0, result.output
    assert "start `upshot up`" in result.stdout
    assert not (tmp_path / "data").exists()


def test_doctor_names_what_is_broken_and_goes_on(tmp_path):
    """A database file that is none, and a Redis that does not answer, are findings among the others."""
    (tmp_path / "upshot.db").write_text("this is no database " * 100)
    result = run("doctor", "--data", str(tmp_path), UPSHOT_REDIS_URL="redis://127.0.0.1:9/0")

    assert result.exit_code == 1
    assert "fail  database: " in result.stdout
    assert "fail  redis: Redis does not answer" in result.stdout
    assert "ok    data folder: " in result.stdout
