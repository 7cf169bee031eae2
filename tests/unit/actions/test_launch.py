"""`launch`: the job that a step launches, what forbids it, and what its end means for the step."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.job_records import make_job
from tests.unit.actions.action_calls import CUSTOM_EVENT, NOW, RecordingRegistry, ScriptedEgress, make_call
from upshot.actions.launch import Launch
from upshot.actions.protocol import ActionContext, Deferred, Outcome
from upshot.domain.automation import RetryPolicy
from upshot.domain.job import FailureKind, ImagePullCredentials, Job, JobRetryPolicy, JobSpec, JobState, MemoryGrowth
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import JobFailed, Refused, TemplateInvalid, Unavailable
from upshot.schema.queue_limits import MountRule, QueueLimits
from upshot.schema.queues import PROCESS, BackendSettings, JobsConfig, QueueConfig

PLACEHOLDERS = SecretPlaceholders("NonceNonce12345678")
TOKEN = PLACEHOLDERS.placeholder("TOKEN")
BUILT_IN = JobsConfig()
STRICT = JobsConfig(
    backends={"docker": BackendSettings("docker"), "local": BackendSettings(PROCESS)},
    queues={
        "default": QueueConfig(
            "default",
            defaults={"memory_bytes": 2**30},
            priority=3,
            limits=QueueLimits(
                {"memory_bytes": 4 * 2**30, "image": ("ghcr.io/acme/*",), "mounts": (MountRule("/data"),)}
            ),
            source="jobs.yaml:7",
        ),
        "scripts": QueueConfig("scripts", backend="local"),
    },
    source="jobs.yaml",
)


class StubJobs:
    """Finds jobs as `JobAdmin` does, or raises an error."""

    def __init__(self, *jobs: Job, error: Exception | None = None) -> None:
        self._jobs = {job.id: job for job in jobs}
        self._error = error

    def find(self, job_id):
        if self._error:
            raise self._error
        return self._jobs.get(job_id)


async def perform(with_, *, config=BUILT_IN, jobs=None, **changes):
    """Perform one attempt of the step."""
    context = ActionContext(
        egress=ScriptedEgress(),
        registry=RecordingRegistry(),
        github_api_url="https://api.github.com",
        slack_api_url="https://slack.com/api",
        jobs=jobs,
    )
    call = make_call(with_, **{"placeholders": PLACEHOLDERS, **changes})
    return await Launch(config).perform(call, context)


async def launch(with_, **changes) -> Job:
    """Return the job that the first attempt launches."""
    deferred = await perform(with_, **changes)
    assert isinstance(deferred, Deferred)
    assert deferred.job is not None
    return deferred.job


def problems(with_, config=BUILT_IN):
    """Return the problems that are found when the file is loaded, by path."""
    return dict(Launch(config).check(with_))


# --- the launched job -----------------------------------------------------------------------------


async def test_the_first_attempt_launches_a_job_and_defers_the_step():
    """The job has its origin, its spec, and the names of its secrets."""
    with_ = {
        "image": "busybox",
        "command": ["sh", "-c", f"curl -H 'Authorization: {TOKEN}'"],
        "env": {"AGAIN": TOKEN},
        "secret-files": {"key": PLACEHOLDERS.placeholder("KEY")},
        "registry-auth": {"username": "me", "password": PLACEHOLDERS.placeholder("PULL")},
        "concurrency": 2,
        "memory-growth": {"factor": 3.0},
        "save-metrics": True,
    }

    deferred = await perform(with_, step_id="evaluate")

    assert deferred.job == make_job(
        "job_1",
        NOW,
        id=deferred.job.id,
        spec=JobSpec(
            image="busybox",
            command=("sh", "-c", f"curl -H 'Authorization: {TOKEN}'"),
            env={"AGAIN": TOKEN},
            secret_files={"key": PLACEHOLDERS.placeholder("KEY")},
            registry_auth=ImagePullCredentials("me", PLACEHOLDERS.placeholder("PULL")),
        ),
        concurrency=2,
        retry=JobRetryPolicy(max_attempts=3, memory_growth=MemoryGrowth(3.0)),
        save_metrics=True,
        version_reference="model/churn:v3",
        secrets=("TOKEN", "KEY", "PULL"),
        nonce=PLACEHOLDERS.nonce,
    )
    assert deferred.reason == f"waits for job {deferred.job.id} in queue default"


async def test_the_same_attempt_launches_the_same_job():
    """An attempt that is repeated after a crash launches no second job, and the next attempt launches a new one."""
    first, repeated, following = [(await launch({"image": "busybox"}, attempt=attempt)).id for attempt in (1, 1, 2)]

    assert first == repeated != following


async def test_the_queue_completes_the_job():
    """Defaults, priority and backend come from the operator's configuration."""
    job = await launch({"image": "ghcr.io/acme/a"}, config=STRICT)
    without_priority = await launch({"image": "ghcr.io/acme/a", "priority": 0}, config=STRICT)
    script = await launch({"command": ["ls"], "queue": "scripts"}, config=STRICT)

    assert (job.spec.memory_bytes, job.priority, job.backend) == (2**30, 3, "docker")
    assert without_priority.priority == 0
    assert script.backend == "local"


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        pytest.param(RetryPolicy(), JobRetryPolicy(3, 1.0, 3600.0), id="default"),
        pytest.param(RetryPolicy(first_seconds=5.0), JobRetryPolicy(3, 5.0, 3600.0), id="only the wait"),
        pytest.param(RetryPolicy(1), JobRetryPolicy(1, 1.0, 3600.0), id="one attempt"),
        pytest.param(RetryPolicy(8, 2.0, 60.0), JobRetryPolicy(8, 2.0, 60.0), id="everything"),
    ],
)
async def test_a_job_has_three_attempts_by_default(retry, expected):
    """The default of a step, 15 attempts, is too many for containers."""
    assert (await launch({"image": "busybox"}, retry=retry)).retry == expected


async def test_an_event_without_a_version_can_launch_jobs():
    """A custom event is not about a version."""
    assert (await launch({"image": "busybox"}, event=CUSTOM_EVENT)).version_reference is None


@pytest.mark.parametrize(
    ("with_", "message"),
    [
        pytest.param({"image": "evil.example.com/x"}, "image: evil.example.com/x is not allowed", id="image"),
        pytest.param({"image": "ghcr.io/acme/a", "privileged": True}, "privileged: ", id="privileged"),
        pytest.param(
            {"image": "ghcr.io/acme/a", "resources": {"memory": "8GiB"}},
            "8GiB is more than the limit of 4GiB",
            id="memory",
        ),
        pytest.param({"image": "ghcr.io/acme/a", "queue": "gpu"}, "jobs.yaml declares no queue 'gpu'", id="queue"),
        pytest.param({"image": "ghcr.io/acme/a", "backend": "k8s"}, "declares no backend 'k8s'", id="backend"),
        pytest.param({"image": "ghcr.io/acme/a", "backend": "local"}, "its jobs run on docker", id="another backend"),
        pytest.param({}, "image: is missing; backend 'docker' runs containers", id="no image"),
        pytest.param({"queue": "scripts"}, "command: is missing", id="no command"),
        pytest.param(
            {"queue": "scripts", "command": ["ls"], "image": "a"},
            "without a container; leave it out",
            id="image without a container",
        ),
        pytest.param(
            {"image": "ghcr.io/acme/a", "mounts": [{"source": "/", "target": "/host"}]},
            "gives root on the machine",
            id="root of the machine",
        ),
    ],
)
async def test_a_rendered_job_that_the_queue_forbids_is_refused(with_, message):
    """The receipt shows what was asked for."""
    with pytest.raises(Refused) as raised:
        await perform(with_, config=STRICT)

    assert message in str(raised.value)
    assert raised.value.request == with_


async def test_all_violations_are_reported_at_once():
    """In the receipt, a secret is shown as the template that names it."""
    with pytest.raises(Refused) as raised:
        await perform({"image": "x", "env": {"T": TOKEN}, "network": "host", "timeout": "2d"}, config=STRICT)

    assert all(path in str(raised.value) for path in ("image: ", "network: ", "timeout: "))
    assert raised.value.request["env"] == {"T": "{{ secrets.TOKEN }}"}


async def test_a_secret_in_another_key_is_refused():
    """Its placeholder would not be replaced when the job starts."""
    with pytest.raises(TemplateInvalid, match=r"with\.labels: a job's secrets are filled in when it starts"):
        await perform({"image": "busybox", "labels": {"a": TOKEN}})


async def test_an_invalid_rendered_value_is_reported_with_its_path():
    """The rules of the schema apply to the results of templates."""
    with pytest.raises(TemplateInvalid, match=r"with\.timeout: the string 'soon' is not a duration"):
        await perform({"image": "busybox", "timeout": "soon"})


# --- when the file is loaded ----------------------------------------------------------------------


def test_violations_are_found_when_the_file_is_loaded():
    """A value that depends on a template is skipped."""
    found = problems(
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
    ("with_", "paths"),
    [
        pytest.param({"image": "a b", "network": "host", "timeout": 5}, {"network"}, id="invalid values"),
        pytest.param({"image": "a", "network": "host", "queue": "a b"}, set(), id="the queue is invalid"),
        pytest.param({"image": "a", "network": "host", "imag": "a"}, {"network"}, id="unknown key"),
        pytest.param(
            {"image": "a", "resources": {"memory": "2GiB"}, "memory-growth": {"up-to": "1GiB"}},
            set(),
            id="contradiction",
        ),
    ],
)
def test_an_invalid_value_does_not_hide_violations(with_, paths):
    """The schema reports invalid values. The other values are checked against the queue."""
    assert set(problems(with_)) == paths


@pytest.mark.parametrize(
    "with_",
    [
        pytest.param({"image": "{{ version.metadata.image }}"}, id="image"),
        pytest.param({"image": "busybox", "queue": "{{ vars.queue }}"}, id="queue"),
        pytest.param({"image": "ghcr.io/acme/a", "backend": "{{ vars.b }}"}, id="backend"),
        pytest.param({"image": "ghcr.io/acme/a", "resources": "{{= vars.resources }}"}, id="a whole mapping"),
        pytest.param({"image": "ghcr.io/acme/a", "mounts": ["{{= vars.mount }}"]}, id="a whole mount"),
        pytest.param({"image": "ghcr.io/acme/a", "privileged": "{{= vars.p }}"}, id="a flag"),
        pytest.param({"image": "ghcr.io/acme/a"}, id="no violation"),
    ],
)
def test_a_template_is_not_a_violation(with_):
    """Its result may be allowed."""
    assert problems(with_, STRICT) == {}


@pytest.mark.parametrize(
    ("with_", "path", "message"),
    [
        pytest.param({"image": "busybox", "queue": "defualt"}, "queue", "did you mean 'default'?", id="queue"),
        pytest.param({"image": "busybox", "backend": "dokcer"}, "backend", "did you mean 'docker'?", id="backend"),
        pytest.param({"command": ["ls"]}, "image", "is missing", id="no image"),
        pytest.param({"image": "a", "labels": {"x": "{{ secrets.A }}"}}, "labels", "only under command", id="label"),
        pytest.param({"image": "a:{{ secrets.A }}"}, "image", "only under command", id="secret in the image"),
        pytest.param(
            {"image": "a", "registry-auth": {"username": "me", "password": "hunter2"}},
            "registry-auth.password",
            "a secret must not be written into the file",
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
def test_other_mistakes_are_found_when_the_file_is_loaded(with_, path, message):
    """Unknown queues and backends are found, and secrets in the wrong place."""
    assert message in problems(with_)[path]


def test_kubernetes_settings_need_the_kubernetes_backend():
    """Another backend would ignore them."""
    assert "uses docker" in problems({"image": "a", "kubernetes": {"node-selector": {}}})["kubernetes"]


# --- the end of the job ---------------------------------------------------------------------------

JOB = make_job(
    "job_1",
    NOW,
    due_at=None,
    spec=JobSpec(
        image="busybox",
        env={"T": TOKEN},
        memory_bytes=2**30,
        timeout_seconds=90.0,
        registry_auth=ImagePullCredentials("me", "plain"),
    ),
    nonce=PLACEHOLDERS.nonce,
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


async def test_a_job_that_succeeded_gives_outputs_and_a_receipt():
    """The receipt says what ran, with secrets as templates, and how it ended."""
    outcome = await perform({}, job_id="job_1", jobs=StubJobs(JOB))

    assert isinstance(outcome, Outcome)
    assert outcome.outputs == {"accuracy": 0.9}
    assert outcome.request["image"] == "busybox"
    assert outcome.request["env"] == {"T": "{{ secrets.TOKEN }}"}
    assert outcome.request["resources"] == {"memory": "1GiB", "pids": 1024}
    assert outcome.request["timeout"] == "90s"
    assert outcome.request["registry-auth"] == {"username": "me", "password": "***"}
    assert outcome.response == {
        "job_id": "job_1",
        "state": "succeeded",
        "failure": None,
        "reason": None,
        "exit_code": 0,
        "image_digest": "sha256:abc",
        "machine": "m1",
        "engine_id": "e1",
        "attempt": 2,
        "started_at": "2026-01-01T12:00:00.000000Z",
        "finished_at": "2026-01-01T12:00:12.500000Z",
        "took_seconds": 12.5,
        "log_tail": "done\n",
    }


@pytest.mark.parametrize(
    ("end", "message"),
    [
        pytest.param(
            {"state": JobState.FAILED, "failure": FailureKind.EXITED, "reason": "it ended with exit code 3"},
            "job job_1 failed (exited) in attempt 2 of 3: it ended with exit code 3; the last line of its log: done",
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
async def test_a_job_that_did_not_succeed_fails_the_step(end, message):
    """The reason says how the job ended and quotes the last line of its log. The receipt has the rest."""
    with pytest.raises(JobFailed) as raised:
        await perform({}, job_id="job_1", jobs=StubJobs(replace(JOB, outputs=None, **end)))

    assert str(raised.value) == message
    assert raised.value.response["state"] == end["state"].value
    assert raised.value.request["image"] == "busybox"


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.STOPPING])
async def test_a_step_that_is_woken_early_keeps_waiting(state):
    """It keeps its job."""
    deferred = await perform({}, job_id="job_1", jobs=StubJobs(replace(JOB, state=state)))

    assert deferred == Deferred("waits for job job_1 in queue default")


async def test_a_missing_job_fails_the_step():
    """After restoring an older backup, for example, nobody knows how the job ended."""
    with pytest.raises(JobFailed, match="job job_1 is no longer in the database"):
        await perform({}, job_id="job_1", jobs=StubJobs())


async def test_an_unavailable_database_decides_nothing():
    """The step does not fail, because the job may have succeeded."""
    with pytest.raises(Unavailable, match="does not answer"):
        await perform({}, job_id="job_1", jobs=StubJobs(error=Unavailable("the database does not answer")))
