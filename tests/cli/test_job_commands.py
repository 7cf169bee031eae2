"""The commands for jobs, against a web server whose database contains jobs in the states that workers leave them in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.web.conftest import Stores
from tests.web.jobs_api import JobsApiHarness
from upshot.cli import main
from upshot.cli.jobs import _last_lines
from upshot.clock import SystemClock
from upshot.console import Output
from upshot.domain import job_token
from upshot.domain.job import FailureKind, JobState


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


@pytest.fixture
def api(web, stores, clock) -> JobsApiHarness:
    return JobsApiHarness(web, stores, clock)


@dataclass(frozen=True)
class CliUser:
    """The command line of a user whose server runs on another machine."""

    url: str
    token: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"UPSHOT_URL": self.url, **({"UPSHOT_TOKEN": self.token} if self.token else {})}

    def run(self, *words: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, words, prog_name="upshot", env=self.environment)
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result

    def text(self, *words: str) -> str:
        return self.run(*words).stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.text(*words, "--json"))

    @contextmanager
    def process(self, *words: str):
        """Run a command as a process with pipes, and kill it when the block ends."""
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "upshot", *words]
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def user(web) -> CliUser:
    return CliUser(str(web.base_url))


# --- list and show --------------------------------------------------------------------------------


def test_jobs_are_listed(user, api, clock):
    """The list is sorted, newest first. It shows state and queue, and can be filtered by both."""
    running = api.running()
    clock.advance(seconds=1)
    queued = api.queued(automation="train", queue="gpu")

    listed = user.text("jobs", "list").splitlines()

    assert listed[1].startswith(queued.id)
    assert "train/evaluate" in listed[1]
    assert "running" in listed[2]
    assert "machine-1" in listed[2]
    for words in (("--state", "running"), ("--queue", "default"), ("--automation", "promote")):
        assert [job["id"] for job in user.json("jobs", "list", *words)] == [running.id]
    assert [job["id"] for job in user.json("jobs", "list", "--execution", queued.execution_id)] == [queued.id]
    assert "no such jobs" in user.text("jobs", "list", "--state", "failed")
    user.run("jobs", "list", "--state", "jogging", exit_code=2)


def test_a_queued_job_shows_why_it_waits(user, api):
    """`jobs show` says why a job waits, and lists its options. Secrets appear as the templates that name them."""
    job = api.queued(queue="gpu-a100")
    spec = replace(job.spec, memory_bytes=64 * 2**20, command=("sh", "-c", "echo hi"), args=("a\n'b'\n",))
    job = api.queued(automation="a", queue="gpu-a100", spec=spec)
    api.add_worker()

    shown = user.text("jobs", "show", job.id)

    assert "no worker takes queue gpu-a100" in shown
    assert "command: sh -c 'echo hi'" in shown
    assert "  args: \n  a\n  'b'\n" in shown
    assert "resources.memory: 64MiB" in shown
    assert "timeout: 1h" in shown
    assert "{{ secrets.API_KEY }}" in shown
    assert job.nonce not in shown
    assert "privileged" not in shown


def test_a_failed_job_shows_why_it_failed(user, api):
    """`jobs show` prints the failure, its reason, the exit code, the outputs and the end of the log."""
    job = api.record(
        api.running(),
        JobState.FAILED,
        failure=FailureKind.EXITED,
        reason="it ended with exit code 3",
        exit_code=3,
        outputs={"accuracy": 0.5},
        log_tail="loading\n\x1b[2Jboom\n",
        finished_at=api.clock.now(),
    )

    shown = user.text("jobs", "show", job.id)

    for words in ("failed", "exited", "it ended with exit code 3", '"accuracy": 0.5', "sha256:1", "machine-1"):
        assert words in shown
    assert "\\x1b[2Jboom" in shown  # control characters are escaped


def test_an_unknown_job_is_an_error(user):
    """The exit code is 1, and the error names the job."""
    for words in (("show",), ("logs",), ("logs", "--follow"), ("cancel",)):
        assert "job_0" in user.run("jobs", words[0], "job_0", *words[1:], exit_code=1).stderr


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_is_printed_unchanged(user, api):
    """`jobs logs` prints the whole log, however many requests that takes, or its last lines."""
    job = api.running()
    api.append_log(job, *(f"{number}\n" for number in range(45)), "no newline")

    whole = "".join(f"{number}\n" for number in range(45)) + "no newline"
    assert user.text("jobs", "logs", job.id) == whole
    assert user.text("jobs", "logs", job.id, "--tail", "2") == "44\nno newline"
    assert user.text("jobs", "logs", job.id, "--tail", "0") == ""
    assert user.text("jobs", "logs", job.id, "--tail", "1000") == whole
    chunks = [json.loads(line) for line in user.text("jobs", "logs", job.id, "--json").splitlines()]
    assert chunks[44:] == [{"number": 45, "text": "44\n"}, {"number": 46, "text": "no newline"}]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, ""), (1, "d"), (2, "c\nd"), (3, "b\r.\nc\nd"), (4, "a\nb\r.\nc\nd"), (9, "a\nb\r.\nc\nd")],
)
def test_the_last_lines_are_counted_across_chunks(count, expected):
    """A progress bar is one line, however often it is redrawn."""
    chunks = [{"number": n, "text": text} for n, text in enumerate(("a\n", "", "b\r.\nc\n", "d"))]

    assert "".join(chunk["text"] for chunk in _last_lines(deque(chunks), count)) == expected


@pytest.mark.parametrize(
    ("is_terminal", "expected"),
    [(False, "\t1 %\r\x1b[31m99 %\r\ndone\n"), (True, "\t1 %\n\\x1b[31m99 %\ndone\n")],
    ids=["file", "terminal"],
)
def test_a_log_cannot_control_a_terminal(monkeypatch, capsys, is_terminal, expected):
    """A terminal gets every state of a progress bar, and escaped control characters. A file gets the log unchanged."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    Output(as_json=False).raw("\t1 %\r\x1b[31m99 %\r\ndone\n")

    assert capsys.readouterr().out == expected


def test_a_log_is_followed_until_the_job_ends(user, api):
    """Each line is printed once and in order, also if it appears while the command runs. Then the command ends."""
    job = api.running()
    api.append_log(job, "one\n")
    with user.process("jobs", "logs", "--follow", job.id) as follow:
        assert follow.stdout.readline() == "one\n"
        api.append_log(job, "two\n", "three\n")
        assert [follow.stdout.readline() for _ in range(2)] == ["two\n", "three\n"]
        api.append_log(job, "four")
        api.record(job, JobState.SUCCEEDED, exit_code=0, finished_at=api.clock.now())
        assert follow.wait(30) == 0
        assert follow.stdout.read() == "four"


def test_ctrl_c_ends_the_command_but_not_the_job(user, api):
    """The command ends without a traceback, and the job keeps running."""
    job = api.running()
    api.append_log(job, "one\n")
    with user.process("jobs", "logs", "-f", job.id) as follow:
        assert follow.stdout.readline() == "one\n"
        follow.send_signal(signal.SIGINT)
        assert follow.wait(30) == 0
        assert "Traceback" not in follow.stderr.read()
    assert user.json("jobs", "show", job.id)["state"] == "running"


# --- cancel, executions, doctor -------------------------------------------------------------------


def test_a_job_is_cancelled(user, api):
    """A queued job is cancelled at once. A running job is asked to stop. A final job cannot be cancelled."""
    queued, running = api.queued(automation="a", queue="later"), api.running(automation="b")

    assert user.text("jobs", "cancel", queued.id) == f"{queued.id} is cancelled\n"
    assert user.text("jobs", "cancel", running.id) == f"{running.id} is running; a stop was requested\n"
    assert "cancelled" in user.run("jobs", "cancel", queued.id, exit_code=1).stderr


def test_an_execution_shows_the_job_that_its_step_waits_for(user, api):
    """`executions show` prints the state of the job, and why it waits."""
    api.add_worker()
    job = api.queued()

    shown = user.text("executions", "show", job.execution_id)
    assert f"  waits for job {job.id} (queued: next in queue default; 0 of 4 slots are taken)" in shown

    api.claim()
    shown = user.text("executions", "show", job.execution_id)
    assert f"  waits for job {job.id} (starting on machine-1)" in shown


def test_in_a_job_the_commands_act_as_the_job(api, deps, web):
    """With the token of a job, the history names the job and not the user of its container."""
    job = api.running()
    user = CliUser(str(web.base_url), job_token.make(deps.installation.key, job.id))

    user.text("registry", "artifacts", "log", "demo/churn", "--digest", "sha256:0")
    user.text("registry", "link", "demo/churn:v0", "model/churn", "--alias", "evaluated")

    assert {entry["actor"] for entry in user.json("registry", "history", "model/churn")} == {"promote/evaluate"}
    assert "a job may" in user.run("executions", "list", exit_code=1).stderr


def test_doctor_reports_jobs_that_no_worker_can_start(user, api, tmp_path):
    """It lists the backends that workers reach, and the queues whose jobs wait for a worker or a backend."""
    api.add_worker()
    api.queued()
    api.queued(automation="a", queue="gpu-a100")
    api.queued(automation="b", queue="gpu-a100")
    api.queued(automation="c", backend="cluster")

    printed = user.run("doctor", "--data", str(tmp_path), "--automations", str(tmp_path), exit_code=1).stdout

    assert "backend: docker is reachable from machine-1" in printed
    assert "takes events, default" in printed
    assert "queue gpu-a100: 2 jobs wait in it, but no worker takes it" in printed
    assert "upshot worker --queues gpu-a100" in printed
    assert "queue default: 1 job waits in it for backend cluster, but none of its workers can reach that" in printed
    assert printed.count("fail  queue") == 2


def test_doctor_reports_queues_that_no_worker_takes(user, api, tmp_path):
    """A declared queue without a worker is a warning. It is a failure if no worker answers events."""
    data, automations = tmp_path / "data", tmp_path / "none"
    data.mkdir()
    (data / "jobs.yaml").write_text("queues: {default: {}, spare: {}}\n")
    api.add_worker(queues=("default",))
    words = ("doctor", "--data", str(data), "--automations", str(automations))

    printed = user.run(*words, exit_code=1).stdout

    assert "warn  queue spare: no worker takes it" in printed
    assert "queue default" not in printed
    assert "fail  worker: all workers take only jobs; events are not answered" in printed
    assert "no answer from Redis" not in printed

    api.add_worker(queues=("events", "default", "spare"), stream_read_at=SystemClock().now())
    assert "  queue " not in user.run(*words).stdout
