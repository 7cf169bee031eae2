"""Commands that need no running Upshot: help, invalid commands, `validate` and `doctor`."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import jsonschema
import pytest
from click.testing import CliRunner, Result

from tests.project.repository import ROOT
from upshot.cli import main
from upshot.cli.report_formats import github_annotations
from upshot.errors import AutomationInvalid


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, words, prog_name="upshot", env=environment)


def test_help_imports_neither_server_nor_clients():
    """`upshot --help` and `-h` answer at once, because they import nothing heavy."""
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
        pytest.param(["registry", "link", "p/a:v0", "acme/model/a/b"], id="collection with four parts"),
        pytest.param(["registry", "tag", "add", "acme/model/a/b", "checked"], id="tagged reference with four parts"),
        pytest.param(["registry", "metadata", "model/churn:v1"], id="no change"),
        pytest.param(["registry", "metadata", "model/churn:v1", "accuracy"], id="no value"),
        pytest.param(["registry", "artifacts", "log", "p/a", "--metadata", "[1]"], id="metadata that is a list"),
        pytest.param(["registry", "artifacts", "log", "p/a", "--metadata", "@nowhere.json"], id="file does not exist"),
        pytest.param(["executions", "list", "--state", "done"], id="unknown state"),
        pytest.param(["up", "--port", "70000"], id="invalid port"),
        pytest.param(["validate", "nowhere"], id="directory does not exist"),
    ],
)
def test_an_invalid_command_exits_with_2(words, tmp_path):
    """An invalid command has another exit code than a failed one, and prints its usage."""
    result = run(*words, UPSHOT_DATA=str(tmp_path), UPSHOT_URL="http://127.0.0.1:9")

    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        pytest.param(["registr"], "Did you mean 'registry'?", id="command"),
        pytest.param(["registry", "lnk"], "'link', 'unlink'", id="command of a group"),
        pytest.param(["events", "emitt"], "Did you mean 'emit'?", id="command of another group"),
    ],
)
def test_a_misspelt_command_gets_a_suggestion(words, suggestion):
    """Suggestions include commands that have not been imported yet."""
    assert suggestion in run(*words).stderr


@pytest.mark.parametrize(
    ("words", "form"),
    [
        pytest.param(["artifacts", "log", "fraud"], "'fraud' is not a reference; write project/artifact", id="name"),
        pytest.param(["artifacts", "list", "a/b/c/d"], "write project/artifact", id="four parts"),
        pytest.param(["link", "fraud", "model/x"], "write project/artifact:v3", id="artifact version"),
        pytest.param(["versions", "model"], "write registry/collection", id="collection"),
        pytest.param(["show", "model/fraud:"], "write registry/collection:v3", id="no version after the colon"),
    ],
)
def test_a_reference_of_another_form_is_answered_with_the_form_of_the_argument(words, form, tmp_path):
    """The message names the only form that this argument takes, with a version only where one is possible."""
    result = run("registry", *words, UPSHOT_DATA=str(tmp_path))

    assert result.exit_code == 2
    assert result.stderr.rstrip().endswith(form)


@pytest.mark.parametrize(
    "words",
    [
        ["events", "replay", "--since", "10m", "--until", "20m"],
        ["executions", "retry", "--since", "10m", "--until", "2h"],
    ],
)
def test_a_period_that_ends_before_it_begins_is_refused(words, tmp_path):
    """`--since 10m --until 20m` selects nothing. It is a mistake, not an empty result."""
    result = run(*words, UPSHOT_DATA=str(tmp_path), UPSHOT_URL="http://127.0.0.1:9")

    assert result.exit_code == 2
    assert "is not after --since" in result.stderr


@pytest.mark.parametrize(
    "words", [["events", "list"], ["registry", "versions", "model/churn"], ["automations", "list"]]
)
def test_without_a_running_upshot_the_error_names_the_remedy(words, tmp_path):
    """If no Upshot runs, one line says what to start or what to set."""
    result = run(*words, UPSHOT_DATA=str(tmp_path))

    assert result.exit_code == 1
    assert "no Upshot answers: start `upshot up` here, or set UPSHOT_URL" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "no-url", "ftp://x", "http://[", "http://127.0.0.1:99999"])
def test_the_error_names_a_url_where_no_server_answers(url, tmp_path):
    """If UPSHOT_URL is wrong, one line says so, without a traceback."""
    result = run("events", "list", UPSHOT_URL=url, UPSHOT_DATA=str(tmp_path))

    assert result.exit_code == 1
    assert url in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_error_names_every_invalid_setting(tmp_path):
    """All invalid settings are listed at once, by the name of their environment variable."""
    result = run("up", UPSHOT_DATA=str(tmp_path), UPSHOT_LEASE_SECONDS="soon", UPSHOT_SWEEP_SECONDS="0")

    assert result.exit_code == 1
    assert "UPSHOT_LEASE_SECONDS must be a number" in result.stderr
    assert "UPSHOT_SWEEP_SECONDS must be greater than 0" in result.stderr


GOOD = "name: good\non: version-linked\nsteps:\n  - uses: add-tag\n    with: {tag: seen}\n"


def test_validate_prints_every_mistake_with_its_place(tmp_path):
    """Each mistake of each file is printed as file:line: reason, valid automations are listed, the exit code is 1."""
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text("name: bad\non: nothing\nsteps:\n  - uses: slak\n")
    (tmp_path / "worse.yaml").write_text("name: [\n")

    result = run("validate", str(tmp_path))

    assert result.exit_code == 1
    assert f"{tmp_path}/bad.yaml:2: " in result.stdout
    assert f"{tmp_path}/bad.yaml:4: unknown action 'slak'; did you mean 'slack'?" in result.stdout
    assert f"{tmp_path}/worse.yaml:" in result.stdout
    assert f"{tmp_path}/good.yaml:1: good ok" in result.stdout


def broken_folder(tmp_path):
    folder = tmp_path / "my automations"
    folder.mkdir()
    (folder / "a,b.yaml").write_text("name: a\non: custom\nsteps:\n  - uses: emit\n    with: {name: '{{ x %100 }}'}\n")
    (folder / "empty.yaml").write_text("")
    return folder


def test_validate_annotates_lines_on_github(tmp_path, monkeypatch):
    """Each mistake is one workflow command with the file, the line and an escaped message."""
    broken_folder(tmp_path)
    monkeypatch.chdir(tmp_path)

    result = run("validate", "my automations", "--format", "github")

    assert result.exit_code == 1
    first, second, summary = result.stdout.splitlines()
    assert first.startswith("::error file=my automations/a%2Cb.yaml,line=5,title=upshot validate::with.name: ")
    assert second.startswith("::error file=my automations/empty.yaml,title=upshot validate::the file is empty")
    assert summary == "0 automations are valid; 2 mistakes found"


def test_workflow_commands_are_one_line():
    """What ends a command or a property is escaped as GitHub's toolkit does."""
    (line,) = github_annotations([AutomationInvalid("a:b.yaml", 3, "100 %\nof it: a,b")])

    assert line == "::error file=a%3Ab.yaml,line=3,title=upshot validate::100 %25%0Aof it: a,b"


#: What the schema of SARIF 2.1.0 requires of the objects that are used here, which allow no other properties.
_TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
_SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"enum": ["2.1.0"]},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool"],
                "additionalProperties": False,
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "additionalProperties": False,
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "additionalProperties": False,
                                "properties": {
                                    "name": {"type": "string"},
                                    "version": {"type": "string"},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "type": "object",
                                            "required": ["id"],
                                            "additionalProperties": False,
                                            "properties": {
                                                "id": {"type": "string"},
                                                "name": {"type": "string"},
                                                "shortDescription": _TEXT,
                                                "defaultConfiguration": {
                                                    "type": "object",
                                                    "properties": {
                                                        "level": {"enum": ["none", "note", "warning", "error"]}
                                                    },
                                                },
                                            },
                                        },
                                    },
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": -1},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": _TEXT,
                                "partialFingerprints": {
                                    "type": "object",
                                    "additionalProperties": {"type": "string"},
                                },
                                "locations": {
                                    "type": "array",
                                    "items": {
                                        "type": "object",
                                        "additionalProperties": False,
                                        "properties": {
                                            "physicalLocation": {
                                                "type": "object",
                                                "required": ["artifactLocation"],
                                                "additionalProperties": False,
                                                "properties": {
                                                    "artifactLocation": {
                                                        "type": "object",
                                                        "additionalProperties": False,
                                                        "properties": {
                                                            "uri": {"type": "string", "pattern": "^[^ ]+$"},
                                                            "uriBaseId": {"type": "string"},
                                                        },
                                                    },
                                                    "region": {
                                                        "type": "object",
                                                        "additionalProperties": False,
                                                        "properties": {"startLine": {"type": "integer", "minimum": 1}},
                                                    },
                                                },
                                            }
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_validate_writes_sarif(tmp_path, monkeypatch):
    """The log has the shape of SARIF 2.1.0, and a relative URI and a line for each mistake. No mistake: no result."""
    broken_folder(tmp_path)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "good.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)

    broken = run("validate", "my automations", "--format", "sarif")
    log, good = json.loads(broken.stdout), json.loads(run("validate", "good", "--format", "sarif").stdout)

    for written in (log, good):
        jsonschema.validate(written, _SARIF)
    assert broken.exit_code == 1
    (sarif_run,) = log["runs"]
    first, second = sarif_run["results"]
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "my%20automations/a%2Cb.yaml", "uriBaseId": "%SRCROOT%"}
    assert (place["region"], second["locations"][0]["physicalLocation"]["region"]) == (
        {"startLine": 5},
        {"startLine": 1},
    )
    assert sarif_run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == "automation"
    assert first["partialFingerprints"] != second["partialFingerprints"]
    assert good["runs"][0]["results"] == []


def test_the_schema_is_printed():
    """`upshot schema` prints what the file beside the samples contains."""
    printed = json.loads(run("schema").stdout)

    assert printed["title"] == "Upshot automation"
    assert printed == json.loads((ROOT / "automations" / "automation.schema.json").read_text())


def test_validate_checks_one_file(tmp_path):
    """The argument may be a file, as pre-commit passes it. Other files are not checked."""
    (tmp_path / "good.yaml").write_text("name: good\non: version-linked\nsteps: [{uses: emit, with: {name: x}}]\n")
    (tmp_path / "bad.yaml").write_text("name: bad\n")

    assert run("validate", str(tmp_path / "good.yaml")).exit_code == 0
    result = run("validate", str(tmp_path / "bad.yaml"))
    assert result.exit_code == 1
    assert "bad.yaml:1" in result.stdout
    assert "good" not in result.stdout


def test_validate_succeeds_if_all_files_are_valid(tmp_path):
    """Without mistakes, the exit code is 0, and `--json` lists the automations."""
    (tmp_path / "good.yaml").write_text(GOOD)

    result = run("validate", str(tmp_path))
    assert result.exit_code == 0
    assert result.stdout.endswith("1 automation is valid; 0 mistakes found\n")
    assert json.loads(run("validate", str(tmp_path), "--json").stdout) == {
        "automations": [{"name": "good", "path": f"{tmp_path}/good.yaml", "line": 1}],
        "errors": [],
    }


def test_validate_does_not_depend_on_the_egress_rules_of_a_machine(tmp_path):
    """A URL of this machine is valid in a file. Doctor names its place if the settings do not allow it."""
    (tmp_path / "local.yaml").write_text(
        "name: local\non: version-linked\nsteps:\n  - uses: webhook\n    with: {url: 'http://127.0.0.1:9/'}\n"
    )
    data = str(tmp_path / "data")

    assert run("validate", str(tmp_path)).exit_code == 0
    found = run("doctor", "--automations", str(tmp_path), "--data", data)
    allowed = run("doctor", "--automations", str(tmp_path), "--data", data, UPSHOT_EGRESS_ALLOW="127.0.0.0/8")

    assert found.exit_code == 1
    assert f"{tmp_path}/local.yaml:5: with.url: 127.0.0.1 is not public" in found.stdout
    assert "egress" not in allowed.stdout


LAUNCH = (
    "name: heavy\non: version-linked\nsteps:\n  - uses: launch\n    with: {image: a, queue: gpu, privileged: true}\n"
)


def test_validate_checks_jobs_against_the_jobs_file(tmp_path):
    """A job that the jobs file allows is valid. A job that it forbids is a mistake that names the line of the file."""
    (tmp_path / "automations").mkdir()
    (tmp_path / "automations" / "heavy.yaml").write_text(LAUNCH)
    jobs_file = tmp_path / "jobs.yaml"
    jobs_file.write_text("queues:\n  gpu:\n    limits: {privileged: true}\n")
    command = ("validate", str(tmp_path / "automations"))

    allowed = run(*command, UPSHOT_JOBS_FILE=str(jobs_file))
    assert allowed.exit_code == 0, allowed.stdout
    assert f"{jobs_file}: queues gpu ok" in allowed.stdout
    assert "with.queue: there is no queue 'gpu'" in run(*command).stdout
    jobs_file.write_text("queues:\n  gpu:\n    limits: {privileged: false}\n")
    forbidden = run(*command, UPSHOT_JOBS_FILE=str(jobs_file))
    assert forbidden.exit_code == 1
    assert (
        f"heavy.yaml:5: with.privileged: a privileged job is root on the machine, and is not allowed (limits "
        f"of queue 'gpu' in {jobs_file}:3)" in forbidden.stdout
    )


def test_validate_prints_the_mistakes_of_the_jobs_file(tmp_path):
    """Its mistakes come first. Automations are not reported because of them."""
    (tmp_path / "heavy.yaml").write_text(LAUNCH)
    (tmp_path / "jobs").write_text("queues:\n  gpu: {limit: {}}\n")
    result = run("validate", str(tmp_path), UPSHOT_JOBS_FILE=str(tmp_path / "jobs"))

    assert result.exit_code == 1
    assert f"{tmp_path}/jobs:2: queues.gpu.limit: unknown key; did you mean 'limits'?" in result.stdout
    assert result.stdout.endswith("1 automation is valid; 1 mistake found\n")


def test_doctor_checks_the_jobs_file(tmp_path):
    """It lists the queues and backends of the file, or the mistakes in it."""
    jobs_file = tmp_path / "jobs.yaml"
    jobs_file.write_text("backends: {near: {uses: process}}\nqueues: {gpu: , cpu: }\n")
    command = ("doctor", "--data", str(tmp_path / "data"), "--automations", str(tmp_path))

    valid = run(*command, UPSHOT_JOBS_FILE=str(jobs_file)).stdout
    assert f"ok    jobs file: {jobs_file}: queues gpu, cpu; backends docker (docker), near (process)" in valid
    jobs_file.write_text("queues: {gpu: {x: 1}}\n")
    broken = run(*command, UPSHOT_JOBS_FILE=str(jobs_file))
    assert broken.exit_code == 1
    assert f"fail  jobs file: {jobs_file}:1: queues.gpu.x: unknown key" in broken.stdout


def test_doctor_succeeds_before_the_first_start(tmp_path):
    """If nothing runs yet, it says what to start and reports no failure."""
    (tmp_path / "automations").mkdir()
    result = run("doctor", "--data", str(tmp_path / "data"), "--automations", str(tmp_path / "automations"))

    assert result.exit_code == 0, result.output
    assert "start `upshot up`" in result.stdout
    assert not (tmp_path / "data").exists()


def test_doctor_says_if_the_database_belongs_to_a_newer_release(tmp_path):
    """A schema revision that this release does not know is a failure, an older one a warning; both name a remedy."""
    command = ("doctor", "--data", str(tmp_path))
    assert run("migrate", "--data", str(tmp_path)).exit_code == 0
    assert "ok    database schema: revision " in run(*command).stdout

    def set_revision(revision):
        with sqlite3.connect(tmp_path / "upshot.db") as connection:
            connection.execute("update upshot_version set version_num = ?", (revision,))
        connection.close()

    set_revision("1")
    assert "warn  database schema: revision 1 is older than this release's" in run(*command).stdout
    set_revision("9999")
    newer = run(*command)
    assert newer.exit_code == 1
    assert "fail  database schema: the database has schema revision 9999" in newer.stdout
    assert "install the newer version" in newer.stdout


def test_doctor_without_workers_checks_the_secrets_of_this_machine(tmp_path):
    """If nothing runs, a secret that is not set here is a failure. A file in the data directory sets it."""
    step = 'steps: [{uses: webhook, with: {url: "https://example.com", headers: {A: "{{ secrets.TOKEN }}"}}}]'
    (tmp_path / "a.yaml").write_text(f"name: a\non: version-linked\n{step}\n")
    command = ("doctor", "--data", str(tmp_path / "data"), "--automations", str(tmp_path))

    missing = run(*command)
    assert missing.exit_code == 1
    assert "fail  secrets: TOKEN is not set; a would fail without it" in missing.stdout
    assert f"{tmp_path}/data/secrets/TOKEN" in missing.stdout
    (tmp_path / "data" / "secrets").mkdir(parents=True)
    (tmp_path / "data" / "secrets" / "TOKEN").write_text("x")
    assert "TOKEN" not in run(*command).stdout


def test_doctor_reports_failures_and_continues(tmp_path):
    """An invalid database file and a Redis that does not answer are failures; the other checks still run."""
    (tmp_path / "upshot.db").write_text("not a database " * 100)
    result = run("doctor", "--data", str(tmp_path), UPSHOT_REDIS_URL="redis://127.0.0.1:9/0")

    assert result.exit_code == 1
    assert "fail  database: " in result.stdout
    assert "fail  redis: Redis does not answer" in result.stdout
    assert "ok    data directory: " in result.stdout
