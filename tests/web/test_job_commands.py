"""The commands for jobs, against the API over a database in which jobs stand as workers would have left them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.web.conftest import Stores
from tests.web.jobs_api import Shop
from upshot.cli import main
from upshot.cli.jobs import _last_lines
from upshot.client.output import Output
from upshot.clock import SystemClock
from upshot.domain import job_token
from upshot.domain.job import FailureKind, JobState


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


@pytest.fixture
def shop(web, stores, clock) -> Shop:
    return Shop(web, stores, clock)


@dataclass(frozen=True)
class Line:
    """The command line of a user whose server is somewhere else."""

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

    def say(self, *words: str) -> str:
        return self.run(*words).stdout

    def data(self, *words: str) -> Any:
        return json.loads(self.say(*words, "--json"))


@pytest.fixture
def line(web) -> Line:
    return Line(str(web.base_url))


# --- list and show --------------------------------------------------------------------------------


def test_jobs_are_listed(line, shop, clock):
    """Newest first, with state and queue; only those that were asked for."""
    running = shop.running()
    clock.advance(seconds=1)
    queued = shop.job(automation="train", queue="gpu")

    listed = line.say("jobs", "list").splitlines()

    assert listed[1].startswith(queued.id)
    assert "train/evaluate" in listed[1]
    assert "running" in listed[2]
    assert "machine-1" in listed[2]
    for words in (("--state", "running"), ("--queue", "default"), ("--automation", "promote")):
        assert [one["id"] for one in line.data("jobs", "list", *words)] == [running.id]
    assert [one["id"] for one in line.data("jobs", "list", "--execution", queued.execution)] == [queued.id]
    assert "no such jobs" in line.say("jobs", "list", "--state", "failed")
    line.run("jobs", "list", "--state", "jogging", exit_code=2)


def test_a_queued_job_shows_why_it_waits(line, shop):
    """Its place, in words, and what it will run, secrets as the templates that name them."""
    job = shop.job(queue="gpu-a100")
    spec = replace(job.spec, memory_bytes=64 * 2**20, command=("sh", "-c", "echo hi"), args=("a\n'b'\n",))
    job = shop.job(automation="a", queue="gpu-a100", spec=spec)
    shop.worker()

    shown = line.say("jobs", "show", job.id)

    assert "no worker takes queue gpu-a100" in shown
    assert "command: sh -c 'echo hi'" in shown
    assert "  args:\n  a\n  'b'\n" in shown
    assert "memory: 64MiB" in shown
    assert "timeout: 1h" in shown
    assert "{{ secrets.API_KEY }}" in shown
    assert job.nonce not in shown
    assert "privileged" not in shown


def test_an_ended_job_shows_how_and_what_it_gave(line, shop):
    """Cause, reason, exit code, outputs, the end of its log."""
    job = shop.move(
        shop.running(),
        JobState.FAILED,
        failure=FailureKind.EXITED,
        reason="it ended with exit code 3",
        exit_code=3,
        outputs={"accuracy": 0.5},
        log_tail="loading\n\x1b[2Jboom\n",
        finished_at=shop.clock.now(),
    )

    shown = line.say("jobs", "show", job.id)

    for words in ("failed", "exited", "it ended with exit code 3", '"accuracy": 0.5', "sha256:1", "machine-1"):
        assert words in shown
    assert "\\x1b[2Jboom" in shown  # what it said does not command the terminal


def test_a_job_that_is_not_there_is_told(line):
    """Exit code 1, and where to look."""
    for words in (("show",), ("logs",), ("logs", "--follow"), ("cancel",)):
        assert "job_0" in line.run("jobs", words[0], "job_0", *words[1:], exit_code=1).stderr


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_is_printed_as_it_is(line, shop):
    """All of it, over as many questions as it takes, or its last lines."""
    job = shop.running()
    shop.say(job, *(f"{number}\n" for number in range(45)), "no end")

    whole = "".join(f"{number}\n" for number in range(45)) + "no end"
    assert line.say("jobs", "logs", job.id) == whole
    assert line.say("jobs", "logs", job.id, "--tail", "2") == "44\nno end"
    assert line.say("jobs", "logs", job.id, "--tail", "0") == ""
    assert line.say("jobs", "logs", job.id, "--tail", "1000") == whole
    pieces = [json.loads(text) for text in line.say("jobs", "logs", job.id, "--json").splitlines()]
    assert pieces[44:] == [{"number": 45, "text": "44\n"}, {"number": 46, "text": "no end"}]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, ""), (1, "d"), (2, "c\nd"), (3, "b\r.\nc\nd"), (4, "a\nb\r.\nc\nd"), (9, "a\nb\r.\nc\nd")],
)
def test_the_last_lines_are_counted_over_pieces(count, expected):
    """A progress bar is one line, however often it is drawn."""
    pieces = [{"number": n, "text": text} for n, text in enumerate(("a\n", "", "b\r.\nc\n", "d"))]

    assert "".join(piece["text"] for piece in _last_lines(deque(pieces), count)) == expected


@pytest.mark.parametrize(
    ("is_terminal", "expected"),
    [(False, "\t1 %\r\x1b[31m99 %\r\ndone\n"), (True, "\t1 %\n\\x1b[31m99 %\ndone\n")],
    ids=["file", "terminal"],
)
def test_what_a_job_said_does_not_command_a_terminal(monkeypatch, capsys, is_terminal, expected):
    """A person sees every step of a progress bar, and the codes themselves; a file gets what was said."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    Output(as_json=False).passage("\t1 %\r\x1b[31m99 %\r\ndone\n")

    assert capsys.readouterr().out == expected


def test_a_log_is_followed_until_the_job_ends(line, shop):
    """Each line once, in order, though they come while it is printed; then the command ends."""
    job = shop.running()
    shop.say(job, "one\n")
    command = [sys.executable, "-m", "upshot", "jobs", "logs", "--follow", job.id]
    follow = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=line.environment)
    assert follow.stdout is not None
    try:
        assert follow.stdout.readline() == "one\n"
        shop.say(job, "two\n", "three\n")
        assert [follow.stdout.readline() for _ in range(2)] == ["two\n", "three\n"]
        shop.say(job, "four")
        shop.move(job, JobState.SUCCEEDED, exit_code=0, finished_at=shop.clock.now())
        assert follow.wait(30) == 0
        assert follow.stdout.read() == "four"
    finally:
        follow.kill()
        follow.communicate()


def test_ctrl_c_leaves_a_log(line, shop):
    """Quietly; the job goes on."""
    job = shop.running()
    shop.say(job, "one\n")
    command = [sys.executable, "-m", "upshot", "jobs", "logs", "-f", job.id]
    pipe = subprocess.PIPE
    follow = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=line.environment)
    assert follow.stdout is not None
    try:
        assert follow.stdout.readline() == "one\n"
        follow.send_signal(signal.SIGINT)
        assert follow.wait(30) == 0
        assert "Traceback" not in follow.stderr.read()
    finally:
        follow.kill()
        follow.communicate()
    assert line.data("jobs", "show", job.id)["state"] == "running"


# --- cancel, and what waits -----------------------------------------------------------------------


def test_a_job_is_cancelled(line, shop):
    """A queued one is over at once; one that runs was asked; one that is over is a mistake."""
    queued, running = shop.job(automation="a", queue="later"), shop.running(automation="b")

    assert line.say("jobs", "cancel", queued.id) == f"{queued.id} is cancelled\n"
    assert line.say("jobs", "cancel", running.id) == f"{running.id} is running, and was asked to stop\n"
    assert "cancelled" in line.run("jobs", "cancel", queued.id, exit_code=1).stderr


def test_an_execution_shows_the_job_that_its_step_waits_for(line, shop):
    """Where that stands, and why."""
    shop.worker()
    job = shop.job()

    shown = line.say("executions", "show", job.execution)
    assert f"  waits for job {job.id} (queued: next in queue default; 0 of 4 places are taken)" in shown

    shop.claim()
    assert f"  waits for job {job.id} (starting on machine-1)" in line.say("executions", "show", job.execution)


def test_in_a_job_the_commands_act_as_the_job(shop, house, web):
    """The token in its environment is enough: the history names the job, and not the user of its container."""
    job = shop.running()
    line = Line(str(web.base_url), job_token.make(house.installation.key, job.id))

    line.say("registry", "artifacts", "log", "demo/churn", "--digest", "sha256:0")
    line.say("registry", "link", "demo/churn:v0", "model/churn", "--alias", "evaluated")

    assert {entry["actor"] for entry in line.data("registry", "history", "model/churn")} == {"promote/evaluate"}
    assert "a job may" in line.run("executions", "list", exit_code=1).stderr


def test_doctor_names_what_no_worker_will_take(line, shop, tmp_path):
    """Engines that are reached, and by queue how many jobs wait for a worker or an engine that is not there."""
    shop.worker()
    shop.job()
    shop.job(automation="a", queue="gpu-a100")
    shop.job(automation="b", queue="gpu-a100")
    shop.job(automation="c", backend="cluster")

    seen = line.run("doctor", "--data", str(tmp_path), "--automations", str(tmp_path), exit_code=1).stdout

    assert "backend: docker is reached from machine-1" in seen
    assert "takes events, default" in seen
    assert "queue gpu-a100: no worker takes it, and 2 jobs wait in it" in seen
    assert "upshot worker --queues gpu-a100" in seen
    assert "queue default: no worker that takes it reaches backend cluster, and 1 job waits in it" in seen
    assert seen.count("fail  queue") == 2


def test_doctor_names_queues_that_no_worker_takes(line, shop, tmp_path):
    """Declared ones are worth a warning; that nobody answers events is worse."""
    data, automations = tmp_path / "data", tmp_path / "none"
    data.mkdir()
    (data / "jobs.yaml").write_text("queues: {default: {}, spare: {}}\n")
    shop.worker(queues=("default",))
    words = ("doctor", "--data", str(data), "--automations", str(automations))

    seen = line.run(*words, exit_code=1).stdout

    assert "warn  queue spare: no worker takes it" in seen
    assert "queue default" not in seen
    assert "fail  worker: all that are alive take jobs alone; events wait" in seen
    assert "Redis does not answer" not in seen

    shop.worker(queues=("events", "default", "spare"), stream_read_at=SystemClock().now())
    assert "  queue " not in line.run(*words).stdout
