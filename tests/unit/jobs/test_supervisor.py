"""The job supervisor: whatever happens to workers and engines, each job runs once, and its end is reported."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.jobs.supervisor_harness import INSTALLATION, SupervisorHarness
from upshot.adapters.memory.backend import MemoryBackend, ScriptedExit
from upshot.backends.protocol import StartRefused
from upshot.domain import job_token
from upshot.domain.event import Actor, ActorKind, EventKind
from upshot.domain.job import FailureKind, JobRetryPolicy, JobSpec, JobState, MemoryGrowth
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import Conflict
from upshot.execution.transitions import cancel_by_user

PLACEHOLDERS = SecretPlaceholders("Nx0123456789abcdef")


# --- one job ---------------------------------------------------------------------------------------


async def test_a_job_runs_and_wakes_its_execution(harness: SupervisorHarness) -> None:
    """Outputs and log are stored, both events are published, and the container is removed."""
    harness.engine.plan = lambda request: ScriptedExit(outputs=b'{"accuracy": 0.9}', log=b"epoch 1\nepoch 2\n")
    harness.start()

    job = await harness.until_state(harness.queue(), JobState.SUCCEEDED)

    assert job.outputs == {"accuracy": 0.9}
    assert (job.exit_code, job.attempt) == (0, 1)
    assert harness.log(job) == job.log_tail == "epoch 1\nepoch 2\n"
    assert [event.kind for event in harness.job_events(job)] == [EventKind.JOB_STARTED, EventKind.JOB_SUCCEEDED]
    assert harness.execution(job).due_at == harness.clock.now()
    await harness.until(lambda: job.execution_id in harness.notifier.notified and not harness.engine.containers)


async def test_job_events_contain_the_job_and_the_version(harness: SupervisorHarness) -> None:
    """An automation on `job-succeeded` can read the job, its outputs, and the version of the original event."""
    harness.engine.plan = lambda request: ScriptedExit(outputs=b'{"accuracy": 0.9}')
    harness.start()
    job = await harness.until_state(harness.queue(), JobState.SUCCEEDED)

    event = harness.job_events(job)[-1]

    assert event.data["job"]["outputs"] == {"accuracy": 0.9}
    assert event.data["collection"]["name"] == "fraud"
    assert event.data["queue"] == "default"
    assert event.actor == Actor("evaluate-candidate/evaluate", ActorKind.JOB)
    assert [cause.execution_id for cause in event.chain] == [job.execution_id]


@pytest.mark.parametrize(
    ("scripted_exit", "failure", "words"),
    [
        pytest.param(ScriptedExit(3), FailureKind.EXITED, "exit code 3", id="exit code"),
        pytest.param(
            ScriptedExit(137, failure=FailureKind.OUT_OF_MEMORY), FailureKind.OUT_OF_MEMORY, "memory", id="memory"
        ),
        pytest.param(ScriptedExit(0, outputs=b"{no"), FailureKind.OUTPUT_INVALID, "not valid JSON", id="not JSON"),
        pytest.param(ScriptedExit(0, outputs=b"[1]"), FailureKind.OUTPUT_INVALID, "holds a list", id="not an object"),
        pytest.param(ScriptedExit(0, unreadable="is a link"), FailureKind.OUTPUT_INVALID, "is a link", id="a link"),
        pytest.param(
            ScriptedExit(0, outputs=b'"' + b"x" * 2_000_000 + b'"'), FailureKind.OUTPUT_INVALID, "bytes", id="too large"
        ),
    ],
)
async def test_a_failed_job_has_a_failure_and_a_reason(
    harness: SupervisorHarness, scripted_exit: ScriptedExit, failure: FailureKind, words: str
) -> None:
    """Programs read the failure, people read the reason and the log. The execution is woken."""
    harness.engine.plan = lambda request: replace(scripted_exit, log=b"the error\n")
    harness.start()

    job = await harness.until_state(harness.queue(), JobState.FAILED)

    assert job.failure is failure
    assert words in (job.reason or "")
    assert job.log_tail == "the error\n"
    assert [event.kind for event in harness.job_events(job)] == [EventKind.JOB_STARTED, EventKind.JOB_FAILED]
    assert harness.execution(job).due_at is not None


async def test_a_job_that_cannot_be_started_fails_with_the_reason(harness: SupervisorHarness) -> None:
    """There is no container and no `job-started`, only `job-failed`."""
    harness.engine.refuse(StartRefused(FailureKind.IMAGE_MISSING, "image nope:1 is not there"))
    harness.start()

    job = await harness.until_state(harness.queue(), JobState.FAILED)

    assert (job.failure, job.reason) == (FailureKind.IMAGE_MISSING, "image nope:1 is not there")
    assert [event.kind for event in harness.job_events(job)] == [EventKind.JOB_FAILED]


async def test_a_job_receives_its_secrets_its_token_and_its_event(harness: SupervisorHarness) -> None:
    """They are filled in when the container starts, and masked in everything that is stored about the job."""
    spec = JobSpec(
        image="i",
        env={"TOKEN": f"Bearer {PLACEHOLDERS.placeholder('HF_TOKEN')}"},
        secret_files={"key": PLACEHOLDERS.placeholder("KEY")},
    )

    def leak(request):
        text = f"{request.env['TOKEN']} {request.spec.secret_files['key']} {request.env['UPSHOT_TOKEN']}"
        return ScriptedExit(outputs=json.dumps({"text": text}).encode(), log=f"{text}\n".encode())

    harness.engine.plan = leak
    harness.start()
    queued = harness.queue(spec, nonce=PLACEHOLDERS.nonce, secrets=("HF_TOKEN", "KEY"))
    job = await harness.until_state(queued, JobState.SUCCEEDED)

    request = harness.engine.started[0]
    assert request.env["TOKEN"] == "Bearer hf-secret"
    assert request.spec.secret_files == {"key": "key-secret"}
    assert json.loads(request.event)["id"] == job.event_id
    assert request.env["UPSHOT_TOKEN"] == job_token.make(INSTALLATION.key, job.id)
    assert job.outputs == {"text": "Bearer *** *** ***"}
    assert harness.log(job) == job.log_tail == "Bearer *** *** ***\n"
    assert "hf-secret" not in repr(job)


async def test_a_missing_secret_fails_the_job_before_it_starts(harness: SupervisorHarness) -> None:
    """The reason names the secret and the environment variable to set."""
    spec = JobSpec(image="i", env={"TOKEN": PLACEHOLDERS.placeholder("OTHER")})
    harness.start()

    job = await harness.until_state(harness.queue(spec, nonce=PLACEHOLDERS.nonce, secrets=("OTHER",)), JobState.FAILED)

    assert job.failure is FailureKind.REFUSED
    assert "UPSHOT_SECRET_OTHER" in (job.reason or "")
    assert harness.engine.started == []


async def test_metrics_are_saved_in_the_version_on_request(harness: SupervisorHarness) -> None:
    """They are saved under the job's name, with the job as the actor, for later steps and other automations."""
    harness.engine.plan = lambda request: ScriptedExit(outputs=b'{"metrics": {"accuracy": 0.9}}')
    harness.start()

    job = await harness.until_state(harness.queue(save_metrics=True), JobState.SUCCEEDED)

    assert job.reason is None

    version = harness.registry.version("model", "fraud", "v0")
    assert version.artifact_version.metadata == {"number": 1, "evaluate": {"accuracy": 0.9}}
    last = harness.registry.history("model", "fraud", cursor=None, limit=1).items[0]
    assert last.actor == "evaluate-candidate/evaluate"


# --- time ------------------------------------------------------------------------------------------


async def test_a_job_is_stopped_at_its_timeout(harness: SupervisorHarness) -> None:
    """It gets the signal and the grace period, and has timed out whatever its exit code is."""
    harness.start()
    queued = harness.queue(JobSpec(image="i", timeout_seconds=60))
    await harness.until_state(queued, JobState.RUNNING)

    harness.clock.advance(61)
    job = await harness.until_state(queued, JobState.FAILED)

    assert job.failure is FailureKind.TIMED_OUT


async def test_a_job_that_ignores_the_signal_is_killed_after_the_grace_period(harness: SupervisorHarness) -> None:
    """Until then it is STOPPING."""
    harness.engine.ignores_stop = True
    harness.start()
    queued = harness.queue(JobSpec(image="i", timeout_seconds=60, grace_seconds=10))
    await harness.until_state(queued, JobState.RUNNING)
    harness.clock.advance(61)
    await harness.until_state(queued, JobState.STOPPING)

    harness.clock.advance(11)
    job = await harness.until_state(queued, JobState.FAILED)

    assert (job.failure, job.exit_code) == (FailureKind.TIMED_OUT, 137)


async def test_a_timeout_applies_even_without_a_worker(harness: SupervisorHarness) -> None:
    """A job that exits with 0, but too late and while every worker is down, has timed out."""
    supervisor = harness.start()
    queued = harness.queue(JobSpec(image="i", timeout_seconds=60))
    await harness.until_state(queued, JobState.RUNNING)
    await harness.kill(supervisor)
    harness.clock.advance(100)
    harness.engine.finish(queued.container_name, 0, outputs=b"{}")

    harness.start("w2")
    job = await harness.until_state(queued, JobState.FAILED)

    assert job.failure is FailureKind.TIMED_OUT


# --- cancelled -------------------------------------------------------------------------------------


async def test_a_queued_job_is_cancelled_at_once(harness: SupervisorHarness) -> None:
    """This does not need a worker. The execution of the job is woken."""
    queued = harness.queue()

    job = harness.jobs.request_stop(queued.id, "ann", harness.clock.now())

    assert (job.state, job.failure) == (JobState.CANCELLED, FailureKind.CANCELLED)
    assert harness.execution(job).due_at is not None
    harness.start()
    await harness.settle()
    assert harness.engine.started == []


async def test_a_starting_job_is_cancelled_while_its_image_is_pulled(harness: SupervisorHarness) -> None:
    """The worker does not wait until the pull has finished."""
    pulling = asyncio.Event()

    async def pull():
        pulling.set()
        await asyncio.sleep(60)

    harness.engine.at_each_step = pull
    harness.start()
    queued = harness.queue()
    await pulling.wait()

    harness.jobs.request_stop(queued.id, "ann", harness.clock.now())
    job = await harness.until_state(queued, JobState.CANCELLED)

    assert job.reason == "cancelled by ann"
    assert harness.engine.started == []


@pytest.mark.parametrize("pending_reason", [None, "no machine has a GPU free"], ids=["running", "pending"])
async def test_a_stop_request_stops_the_container(harness: SupervisorHarness, pending_reason: str | None) -> None:
    """The job is cancelled, its reason names the requester, and there is no `job-failed`."""
    harness.engine.pending_reason = pending_reason
    harness.start()
    queued = harness.queue()
    await harness.until(lambda: queued.container_name in harness.engine.containers and harness.job(queued).handle)

    harness.jobs.request_stop(queued.id, "ann", harness.clock.now())
    job = await harness.until_state(queued, JobState.CANCELLED)

    assert job.reason == "cancelled by ann"
    assert EventKind.JOB_FAILED not in [event.kind for event in harness.job_events(job)]
    await harness.until(lambda: not harness.engine.containers)


async def test_a_second_stop_request_changes_nothing(harness: SupervisorHarness) -> None:
    """The first requester counts. After the end, a request is a conflict."""
    harness.engine.ignores_stop = True
    harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)
    harness.jobs.request_stop(queued.id, "ann", harness.clock.now())
    await harness.until_state(queued, JobState.STOPPING)

    harness.jobs.request_stop(queued.id, "bob", harness.clock.now())
    harness.clock.advance(60)
    job = await harness.until_state(queued, JobState.CANCELLED)

    assert job.reason == "cancelled by ann"
    with pytest.raises(Conflict, match="cancelled"):
        harness.jobs.request_stop(queued.id, "bob", harness.clock.now())


async def test_the_end_of_an_execution_cancels_its_job(harness: SupervisorHarness) -> None:
    """A user who cancels the execution does not have to cancel the job as well."""
    harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)

    harness.executions.amend(queued.execution_id, lambda before: cancel_by_user(before, harness.clock.now(), "ann"))
    job = await harness.until_state(queued, JobState.CANCELLED)

    assert "end of its execution" in (job.reason or "")


# --- workers and engines that fail -----------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3], ids=["before it is created", "before it is started", "before the answer"])
async def test_a_worker_killed_while_it_starts_a_job_neither_loses_nor_repeats_it(
    harness: SupervisorHarness, step: int
) -> None:
    """The next worker finds the container by its name."""
    steps, reached = 0, asyncio.Event()

    async def block():
        nonlocal steps
        steps += 1
        if steps == step:
            reached.set()
            await asyncio.sleep(3600)

    harness.engine.at_each_step = block
    supervisor = harness.start()
    queued = harness.queue()
    await reached.wait()
    await harness.kill(supervisor)
    harness.engine.at_each_step = None
    harness.clock.advance(31)

    harness.start("w2")
    await harness.until_state(queued, JobState.RUNNING)
    harness.engine.finish(queued.container_name, 0)
    job = await harness.until_state(queued, JobState.SUCCEEDED)

    assert job.attempt == 1
    assert [request.name for request in harness.engine.started] == [queued.container_name]


async def test_the_next_worker_adopts_a_running_job_and_continues_its_log(harness: SupervisorHarness) -> None:
    """The job runs on, and no line of its log is stored twice."""
    supervisor = harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)
    harness.engine.write_log(queued.container_name, b"first\n")
    await harness.until(lambda: harness.log(queued) == "first\n")
    await harness.kill(supervisor)
    harness.engine.write_log(queued.container_name, b"second\n")
    harness.clock.advance(31)

    harness.start("w2")
    await harness.until(lambda: harness.log(queued) == "first\nsecond\n")
    harness.engine.finish(queued.container_name, 0)
    job = await harness.until_state(queued, JobState.SUCCEEDED)

    assert job.log_tail == "first\nsecond\n"
    assert len(harness.engine.started) == 1


async def test_a_worker_that_stops_releases_its_jobs_at_once(harness: SupervisorHarness) -> None:
    """Another worker adopts them without waiting for the leases to run out, and the jobs run on."""
    first = harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)
    await harness.pause(first)
    await first.stop()

    harness.start("w2")
    harness.clock.advance(1)
    await harness.until(lambda: harness.job(queued).lease_owner_id == "w2")

    assert harness.engine.running == (queued.container_name,)


async def test_a_worker_stops_supervising_a_job_whose_lease_it_lost(harness: SupervisorHarness) -> None:
    """It finds out when it renews its leases."""
    first = harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)
    await harness.pause(first)
    harness.clock.advance(31)
    harness.start("w2")
    await harness.until(lambda: harness.job(queued).lease_owner_id == "w2")

    await first.renew()
    await harness.until(lambda: not first.in_progress)

    assert harness.job(queued).state is JobState.RUNNING


async def test_a_short_outage_of_the_engine_only_delays_a_job(harness: SupervisorHarness) -> None:
    """The container is started once, and the job succeeds after the outage."""
    harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)

    harness.engine.away = True
    await harness.settle()
    harness.engine.away = False
    harness.engine.finish(queued.container_name, 0)

    await harness.until_state(queued, JobState.SUCCEEDED)
    assert len(harness.engine.started) == 1


async def test_a_job_that_its_engine_took_down_is_attempted_again(harness: SupervisorHarness) -> None:
    """After a restart of the engine, the second attempt is another container."""
    harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)

    harness.engine.away = True
    await harness.settle()
    harness.engine.finish(queued.container_name, 137)
    harness.engine.away = False
    again = await harness.until_state(queued, JobState.QUEUED)
    harness.clock.advance(5)
    await harness.until_state(queued, JobState.RUNNING)
    harness.engine.finish(again.container_name, 0)
    job = await harness.until_state(queued, JobState.SUCCEEDED)

    assert job.attempt == 2
    assert [request.name for request in harness.engine.started] == [queued.container_name, again.container_name]
    assert "--- attempt 2 ---" in harness.log(job)


async def test_a_long_outage_of_the_engine_loses_its_jobs(harness: SupervisorHarness) -> None:
    """Without another attempt the job fails with that reason. When the engine is back, the container is removed."""
    harness.start(lost_after=timedelta(seconds=60))
    queued = harness.queue(retry=JobRetryPolicy(max_attempts=1))
    await harness.until_state(queued, JobState.RUNNING)

    harness.engine.away = True
    await harness.settle()
    harness.clock.advance(61)
    job = await harness.until_state(queued, JobState.FAILED)

    assert job.failure is FailureKind.ENGINE_LOST
    assert "unreachable for 6" in (job.reason or "")
    harness.engine.away = False
    await harness.until(lambda: not harness.engine.containers)


async def test_a_job_whose_machine_is_gone_is_attempted_on_another_machine(harness: SupervisorHarness) -> None:
    """Any worker notices that no worker reaches the engine."""
    supervisor = harness.start()
    queued = harness.queue()
    await harness.until_state(queued, JobState.RUNNING)
    await harness.kill(supervisor)

    other = MemoryBackend(harness.clock, "memory:other")
    harness.start("w2", engines={"docker": other}, machine="m2")
    harness.clock.advance(601)
    await harness.until(lambda: harness.job(queued).state is JobState.QUEUED)
    harness.clock.advance(5)
    job = await harness.until_state(queued, JobState.RUNNING)

    assert (job.machine, job.attempt) == ("m2", 2)


async def test_removing_a_container_by_hand_ends_its_attempt(harness: SupervisorHarness) -> None:
    """The job does not wait for a container that is gone."""
    harness.start()
    queued = harness.queue(retry=JobRetryPolicy(max_attempts=1))
    await harness.until_state(queued, JobState.RUNNING)

    harness.engine.lose(queued.container_name)
    job = await harness.until_state(queued, JobState.FAILED)

    assert job.failure is FailureKind.ENGINE_LOST
    assert "gone" in (job.reason or "")


@pytest.mark.parametrize("removes", [True, False], ids=["removed", "left alone"])
async def test_orphaned_containers_are_removed_if_the_operator_wants_it(
    harness: SupervisorHarness, removes: bool
) -> None:
    """They are removed only after a minute, because their job may be about to be stored."""
    queued = harness.queue()
    first = harness.start()
    await harness.until_state(queued, JobState.RUNNING)
    await harness.kill(first)
    harness.jobs._jobs.pop(queued.id)  # as after restoring an older backup of the database

    harness.start("w2", removes_orphans=removes)
    await harness.settle()
    assert harness.engine.containers
    harness.clock.advance(61)
    if removes:
        await harness.until(lambda: not harness.engine.containers)
    else:
        await harness.settle()
        assert harness.engine.containers


# --- memory and limits -----------------------------------------------------------------------------


async def test_out_of_memory_is_retried_with_more_memory_on_request(harness: SupervisorHarness) -> None:
    """Each attempt gets twice as much memory, until no attempt is left."""
    harness.engine.plan = lambda request: ScriptedExit(137, failure=FailureKind.OUT_OF_MEMORY)
    harness.start()
    spec = JobSpec(image="i", memory_bytes=2**20)
    queued = harness.queue(
        spec, retry=JobRetryPolicy(max_attempts=3, first_seconds=1, memory_growth=MemoryGrowth(factor=2))
    )

    await harness.until(lambda: harness.job(queued).attempt == 2)
    harness.clock.advance(10)
    await harness.until(lambda: harness.job(queued).attempt == 3)
    harness.clock.advance(10)
    job = await harness.until_state(queued, JobState.FAILED)

    assert job.failure is FailureKind.OUT_OF_MEMORY
    assert [request.spec.memory_bytes for request in harness.engine.started] == [2**20, 2**21, 2**22]


async def test_a_hundred_jobs_respect_a_limit_of_four(limited_harness: SupervisorHarness) -> None:
    """All of them run, and never more than four at a time, although two workers claim them."""
    jobs = [limited_harness.queue() for _ in range(100)]
    limited_harness.start("w1", machine="m1")
    limited_harness.start("w2", machine="m2")
    most = 0
    for _ in jobs:
        await limited_harness.until(lambda: limited_harness.engine.running)
        running = limited_harness.engine.running
        most = max(most, len(running))
        limited_harness.engine.finish(running[0], 0)
    await limited_harness.until(lambda: all(limited_harness.job(job).state is JobState.SUCCEEDED for job in jobs))

    assert most == 4
    assert len(limited_harness.engine.started) == 100


async def test_higher_priorities_start_first(limited_harness: SupervisorHarness) -> None:
    """Among queued jobs, a higher priority starts before an older job."""
    low = [limited_harness.queue() for _ in range(4)]
    high = [limited_harness.queue(priority=5) for _ in range(4)]
    limited_harness.start()
    await limited_harness.until(lambda: len(limited_harness.engine.running) == 4)

    assert set(limited_harness.engine.running) == {job.container_name for job in high}
    assert all(limited_harness.job(job).state is JobState.QUEUED for job in low)


async def test_a_worker_takes_only_its_queues(harness: SupervisorHarness) -> None:
    """`upshot worker --queues gpu` does not claim the jobs of other queues."""
    harness.start(queues=frozenset({"gpu"}))
    queued = harness.queue()
    await harness.settle()

    assert harness.job(queued).state is JobState.QUEUED
