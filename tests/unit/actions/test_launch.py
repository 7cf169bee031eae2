"""`launch`: the job that a step asks for, what speaks against it, and what its end is for the step."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.actions.action_calls import CUSTOM_EVENT, NOW, RecordingRegistry, ScriptedEgress, make_call
from upshot.actions.launch import Launch
from upshot.actions.protocol import ActionContext, Deferred, Outcome
from upshot.domain.automation import RetryPolicy
from upshot.domain.job import FailureKind, ImagePullCredentials, Job, JobRetryPolicy, JobSpec, JobState, MemoryGrowth
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import JobFailed, Refused, TemplateInvalid, Unavailable, Unreachable
from upshot.schema.queues import PROCESS, BackendSettings, JobOptions, JobsConfig, MountRule, QueueConfig, QueueLimits

MARKS = SecretPlaceholders("NonceNonce12345678")
TOKEN = MARKS.mark("TOKEN")
OPEN = JobsConfig()
STRICT = JobsConfig(
    backends={"docker": BackendSettings("docker"), "local": BackendSettings(PROCESS)},
    queues={
        "default": QueueConfig(
            "default",
            defaults=JobOptions(memory_bytes=2**30),
            priority=3,
            ceilings=QueueLimits(memory_bytes=4 * 2**30, images=("ghcr.io/acme/*",), mounts=(MountRule("/data"),)),
            source="jobs.yaml:7",
        ),
        "scripts": QueueConfig("scripts", backend="local"),
    },
    source="jobs.yaml",
)


class Desk:
    """Jobs that can be looked at, as `JobDesk` has them."""

    def __init__(self, *jobs: Job, error: Exception | None = None) -> None:
        self._jobs = {job.id: job for job in jobs}
        self._error = error

    def find(self, job_id: str) -> Job | None:
        if self._error:
            raise self._error
        return self._jobs.get(job_id)


def perform(with_, *, book=OPEN, desk=None, **changes):
    """One turn of the step."""
    tools = ActionContext(
        egress=ScriptedEgress(),
        registry=RecordingRegistry(),
        github_api_url="https://api.github.com",
        slack_api_url="https://slack.com/api",
        jobs=desk,
    )
    return asyncio.run(Launch(book).perform(make_call(with_, **{"marks": MARKS, **changes}), tools))


def asked(with_, **changes) -> Job:
    """The job that the first turn asks for."""
    held = perform(with_, **changes)
    assert isinstance(held, Deferred)
    assert held.job is not None
    return held.job


def findings(with_, book=OPEN):
    return dict(Launch(book).check(with_))


# --- the job that is asked for --------------------------------------------------------------------


def test_the_first_turn_asks_for_a_job_and_lets_the_step_wait():
    """The job knows where it comes from, what it runs, and the secrets that are to be filled in."""
    with_ = {
        "image": "busybox",
        "command": ["sh", "-c", f"curl -H 'Authorization: {TOKEN}'"],
        "env": {"AGAIN": TOKEN},
        "secret-files": {"key": MARKS.mark("KEY")},
        "registry-auth": {"username": "me", "password": MARKS.mark("PULL")},
        "concurrency": 2,
        "memory-growth": {"factor": 3.0},
        "save-metrics": True,
    }

    held = perform(with_, step="evaluate")

    assert held.job == Job(
        id=held.job.id,
        name="evaluate",
        automation="promote",
        execution_id="exe_1",
        step_id="evaluate",
        event_id="evt_1",
        delivery_id="dlv_1",
        queue="default",
        backend="docker",
        spec=JobSpec(
            image="busybox",
            command=("sh", "-c", f"curl -H 'Authorization: {TOKEN}'"),
            env={"AGAIN": TOKEN},
            files={"key": MARKS.mark("KEY")},
            registry_auth=ImagePullCredentials("me", MARKS.mark("PULL")),
        ),
        created_at=NOW,
        concurrency=2,
        retry=JobRetryPolicy(max_attempts=3, memory_growth=MemoryGrowth(3.0)),
        save_metrics=True,
        version_reference="model/churn:v3",
        secrets=("TOKEN", "KEY", "PULL"),
        nonce=MARKS.nonce,
        due_at=NOW,
    )
    assert held.reason == f"waits for job {held.job.id}, in queue default"


def test_the_same_attempt_asks_for_the_same_job_and_the_next_for_another():
    """So that a turn that is repeated after a crash doubles nothing, and a retry is not the old job."""
    first, again, next_one = (asked({"image": "busybox"}, attempt=attempt).id for attempt in (1, 1, 2))

    assert first == again != next_one


def test_the_queue_fills_in_what_the_step_leaves_open():
    """Defaults, priority and backend come from the operator's rules."""
    job = asked({"image": "ghcr.io/acme/a"}, book=STRICT)

    assert (job.spec.memory_bytes, job.priority, job.backend) == (2**30, 3, "docker")
    assert asked({"image": "ghcr.io/acme/a", "priority": 0}, book=STRICT).priority == 0
    assert asked({"command": ["ls"], "queue": "scripts"}, book=STRICT).backend == "local"


@pytest.mark.parametrize(
    ("retry", "tries"),
    [
        pytest.param(RetryPolicy(), JobRetryPolicy(3, 1.0, 3600.0), id="nothing said"),
        pytest.param(RetryPolicy(first_seconds=5.0), JobRetryPolicy(3, 5.0, 3600.0), id="only the pause"),
        pytest.param(RetryPolicy(1), JobRetryPolicy(1, 1.0, 3600.0), id="once"),
        pytest.param(RetryPolicy(8, 2.0, 60.0), JobRetryPolicy(8, 2.0, 60.0), id="all said"),
    ],
)
def test_a_job_is_tried_three_times_unless_the_step_says_otherwise(retry, tries):
    """Fifteen containers, as a step that says nothing tries requests, nobody wants."""
    assert asked({"image": "busybox"}, retry=retry).retry == tries


def test_an_event_without_a_version_launches_jobs_too():
    """A custom event is about none."""
    assert asked({"image": "busybox"}, event=CUSTOM_EVENT).version_reference is None


@pytest.mark.parametrize(
    ("with_", "says"),
    [
        pytest.param({"image": "evil.example.com/x"}, "image: evil.example.com/x is not allowed", id="image"),
        pytest.param({"image": "ghcr.io/acme/a", "privileged": True}, "privileged: ", id="privileged"),
        pytest.param({"image": "ghcr.io/acme/a", "resources": {"memory": "8GiB"}}, "8GiB is more than 4GiB", id="much"),
        pytest.param({"image": "ghcr.io/acme/a", "queue": "gpu"}, "jobs.yaml declares no queue 'gpu'", id="queue"),
        pytest.param({"image": "ghcr.io/acme/a", "backend": "k8s"}, "declares no backend 'k8s'", id="backend"),
        pytest.param({"image": "ghcr.io/acme/a", "backend": "local"}, "its jobs run on docker", id="another backend"),
        pytest.param({}, "image: is missing; backend 'docker' runs containers", id="no image"),
        pytest.param({"queue": "scripts"}, "command: is missing", id="no command"),
        pytest.param(
            {"queue": "scripts", "command": ["ls"], "image": "a"},
            "in no container; leave it out",
            id="image, no container",
        ),
        pytest.param(
            {"image": "ghcr.io/acme/a", "mounts": [{"source": "/", "target": "/host"}]}, "root there", id="the machine"
        ),
    ],
)
def test_what_the_queue_forbids_is_refused_before_anything_runs(with_, says):
    """What templates gave is held against the same rules; the receipt shows what was asked for."""
    with pytest.raises(Refused) as raised:
        perform(with_, book=STRICT)

    assert says in str(raised.value)
    assert raised.value.request == with_


def test_all_objections_are_said_at_once_and_no_mark_is_shown():
    """One round is enough to put it right; a secret is shown as the template that it came from."""
    with pytest.raises(Refused) as raised:
        perform({"image": "x", "env": {"T": TOKEN}, "network": "host", "timeout": "2d"}, book=STRICT)

    assert all(place in str(raised.value) for place in ("image: ", "network: ", "timeout: "))
    assert raised.value.request["env"] == {"T": "{{ secrets.TOKEN }}"}


def test_a_secret_where_none_is_filled_in_is_found():
    """An image's name with a mark in it would be looked for as it is."""
    with pytest.raises(TemplateInvalid, match=r"with\.labels: a job's secrets are filled in when it starts"):
        perform({"image": "busybox", "labels": {"a": TOKEN}})


def test_a_rendered_value_that_cannot_be_used_is_named():
    """The record's rules hold for what templates gave."""
    with pytest.raises(TemplateInvalid, match=r"with\.timeout: 'soon' is not a duration"):
        perform({"image": "busybox", "timeout": "soon"})


# --- found when the file is loaded ----------------------------------------------------------------


def test_what_is_forbidden_whatever_the_event_is_found_at_load():
    """With the place in the file, as far as values stand there."""
    found = findings(
        {
            "image": "busybox",
            "network": "host",
            "mounts": [
                {"source": "{{ version.name }}", "target": "/a"},
                {"source": "/etc", "target": "{{ version.name }}"},
                {"source": "/data/x", "target": "/b", "read-only": "{{= vars.x }}"},
            ],
            "resources": {"memory": "8GiB", "cpus": "{{ vars.cpus }}"},
        },
        STRICT,
    )

    assert set(found) == {"image", "network", "mounts.1", "resources.memory"}


@pytest.mark.parametrize(
    ("with_", "places"),
    [
        pytest.param({"image": "a b", "network": "host", "timeout": 5}, {"network"}, id="other keys are wrong"),
        pytest.param({"image": "a", "network": "host", "queue": "a b"}, set(), id="whose rules hold is not known"),
        pytest.param({"image": "a", "network": "host", "imag": "a"}, {"network"}, id="a key that there is not"),
        pytest.param(
            {"image": "a", "resources": {"memory": "2GiB"}, "memory-growth": {"up-to": "1GiB"}},
            set(),
            id="keys that contradict each other",
        ),
    ],
)
def test_one_mistake_hides_no_other(with_, places):
    """What is wrong in itself is found by the record; the rest is held against the queue all the same."""
    assert set(findings(with_)) == places


@pytest.mark.parametrize(
    "with_",
    [
        pytest.param({"image": "{{ version.metadata.image }}"}, id="image"),
        pytest.param({"image": "busybox", "queue": "{{ vars.queue }}"}, id="queue, which says what is allowed"),
        pytest.param({"image": "ghcr.io/acme/a", "backend": "{{ vars.b }}"}, id="backend"),
        pytest.param({"image": "ghcr.io/acme/a", "resources": "{{= vars.resources }}"}, id="a whole block"),
        pytest.param({"image": "ghcr.io/acme/a", "mounts": ["{{= vars.mount }}"]}, id="a whole mount"),
        pytest.param({"image": "ghcr.io/acme/a", "privileged": "{{= vars.p }}"}, id="a flag"),
        pytest.param({"image": "ghcr.io/acme/a"}, id="nothing that is forbidden"),
    ],
)
def test_what_is_not_known_yet_is_not_objected_to(with_):
    """A template may give what is allowed."""
    assert findings(with_, STRICT) == {}


@pytest.mark.parametrize(
    ("with_", "place", "says"),
    [
        pytest.param({"image": "busybox", "queue": "defualt"}, "queue", "did you mean 'default'?", id="queue"),
        pytest.param({"image": "busybox", "backend": "dokcer"}, "backend", "did you mean 'docker'?", id="backend"),
        pytest.param({"command": ["ls"]}, "image", "is missing", id="no image"),
        pytest.param({"image": "a", "labels": {"x": "{{ secrets.A }}"}}, "labels", "only under command", id="label"),
        pytest.param({"image": "a:{{ secrets.A }}"}, "image", "only under command", id="secret in the image"),
        pytest.param(
            {"image": "a", "registry-auth": {"username": "me", "password": "hunter2"}},
            "registry-auth.password",
            "a secret must not stand in the file",
            id="password",
        ),
        pytest.param(
            {"image": "a", "secret-files": {"token": "hunter2"}},
            "secret-files.token",
            "write {{ secrets.TOKEN }} here",
            id="secret file",
        ),
    ],
)
def test_other_mistakes_are_found_at_load(with_, place, says):
    """Queues and backends that there are not, and secrets where they cannot or must not stand."""
    assert says in findings(with_)[place]


def test_kubernetes_settings_are_for_kubernetes():
    """What another engine would ignore is not what its author meant."""
    assert "uses docker" in findings({"image": "a", "kubernetes": {"node-selector": {}}})["kubernetes"]


# --- its end --------------------------------------------------------------------------------------

JOB = Job(
    id="job_1",
    name="evaluate",
    automation="promote",
    execution_id="exe_1",
    step_id="evaluate",
    event_id="evt_1",
    delivery_id="dlv_1",
    queue="default",
    backend="docker",
    spec=JobSpec(
        image="busybox",
        env={"T": TOKEN},
        memory_bytes=2**30,
        timeout_seconds=90.0,
        registry_auth=ImagePullCredentials("me", "plain"),
    ),
    created_at=NOW,
    nonce=MARKS.nonce,
    state=JobState.SUCCEEDED,
    attempt=2,
    machine="m1",
    engine_id="e1",
    image_digest="sha256:abc",
    started_at=NOW,
    finished_at=NOW + timedelta(seconds=12.5),
    exit_code=0,
    outputs={"accuracy": 0.9},
    log_tail="done\n",
)


def test_a_job_that_succeeded_gives_its_outputs_and_a_receipt():
    """The receipt has what ran, with secrets as their templates, and what came of it."""
    outcome = perform({}, job="job_1", desk=Desk(JOB))

    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"accuracy": 0.9}
    assert outcome.request["image"] == "busybox"
    assert outcome.request["env"] == {"T": "{{ secrets.TOKEN }}"}
    assert outcome.request["resources"] == {"memory": "1GiB", "pids": 1024}
    assert outcome.request["timeout"] == "90s"
    assert outcome.request["registry-auth"] == {"username": "me", "password": "***"}
    assert outcome.response == {
        "job": "job_1",
        "state": "succeeded",
        "cause": None,
        "reason": None,
        "exit_code": 0,
        "image_digest": "sha256:abc",
        "machine": "m1",
        "engine": "e1",
        "try": 2,
        "started_at": "2026-01-01T12:00:00.000000Z",
        "finished_at": "2026-01-01T12:00:12.500000Z",
        "took": 12.5,
        "log_tail": "done\n",
    }


@pytest.mark.parametrize(
    ("end", "says"),
    [
        pytest.param(
            {"state": JobState.FAILED, "failure": FailureKind.EXITED, "reason": "it ended with exit code 3"},
            "job job_1 failed (exited), at try 2 of 3: it ended with exit code 3; its last line: done",
            id="failed",
        ),
        pytest.param(
            {
                "state": JobState.CANCELLED,
                "failure": FailureKind.CANCELLED,
                "reason": "cancelled by ada",
                "attempt": 1,
                "log_tail": "",
            },
            "job job_1 was cancelled: cancelled by ada",
            id="cancelled",
        ),
    ],
)
def test_a_job_that_did_not_succeed_fails_the_step_with_its_cause(end, says):
    """The reason says how it ended and what it said last; the receipt has the rest."""
    with pytest.raises(JobFailed) as raised:
        perform({}, job="job_1", desk=Desk(replace(JOB, outputs=None, **end)))

    assert str(raised.value) == says
    assert raised.value.response["state"] == end["state"].value
    assert raised.value.request["image"] == "busybox"


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.STOPPING])
def test_a_step_that_is_woken_early_goes_on_waiting(state):
    """It keeps the job that it has."""
    held = perform({}, job="job_1", desk=Desk(replace(JOB, state=state)))

    assert held == Deferred("waits for job job_1, in queue default")


def test_a_job_that_is_gone_fails_the_step():
    """Removed by hand, or with an older backup: nobody can say how it ended."""
    with pytest.raises(JobFailed, match="job job_1 is not in the database any more"):
        perform({}, job="job_1", desk=Desk())


def test_a_database_that_is_away_is_asked_again():
    """Its silence says nothing about the job."""
    with pytest.raises(Unreachable, match="does not answer"):
        perform({}, job="job_1", desk=Desk(error=Unavailable("the database does not answer")))
