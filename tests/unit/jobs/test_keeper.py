"""The keeper of jobs: whatever happens to workers and engines, each job runs once and is answered for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from tests.unit.jobs.office import INSTALLATION, Office, play
from upshot.adapters.memory.backend import MemoryBackend, ScriptedExit
from upshot.backends.protocol import StartRefused
from upshot.domain import job_token
from upshot.domain.event import EventKind
from upshot.domain.job import FailureKind, JobRetryPolicy, JobSpec, JobState, MemoryGrowth
from upshot.domain.secret_placeholders import SecretPlaceholders
from upshot.errors import Conflict
from upshot.execution.transitions import cancel_by_person
from upshot.schema.queues import JobsConfig

MARKS = SecretPlaceholders("Nx0123456789abcdef")


# --- one job ---------------------------------------------------------------------------------------


def test_a_job_runs_gives_its_outputs_and_wakes_its_execution(book: JobsConfig) -> None:
    """From the queue to the end: outputs and log are kept, both events told, the container is gone."""

    async def story(office: Office) -> None:
        office.engine.plan = lambda order: ScriptedExit(outputs=b'{"accuracy": 0.9}', log=b"epoch 1\nepoch 2\n")
        office.open()

        job = await office.until_state(office.queue(), JobState.SUCCEEDED)

        assert job.outputs == {"accuracy": 0.9}
        assert (job.exit_code, job.attempt) == (0, 1)
        assert office.log(job) == job.log_tail == "epoch 1\nepoch 2\n"
        assert [event.kind for event in office.told(job)] == [EventKind.JOB_STARTED, EventKind.JOB_SUCCEEDED]
        assert office.execution(job).due_at == office.clock.now()
        await office.until(lambda: job.execution_id in office.notifier.notified and not office.engine.jobs)

    play(story, book=book)


def test_the_events_of_a_job_say_which_and_carry_the_version(book: JobsConfig) -> None:
    """An automation on `job-succeeded` reads the job, its outputs, and what the first event was about."""

    async def story(office: Office) -> None:
        office.engine.plan = lambda order: ScriptedExit(outputs=b'{"accuracy": 0.9}')
        office.open()
        job = await office.until_state(office.queue(), JobState.SUCCEEDED)

        event = office.told(job)[-1]

        assert event.data["job"]["outputs"] == {"accuracy": 0.9}
        assert event.data["collection"]["name"] == "fraud"
        assert event.data["queue"] == "default"
        assert event.actor.as_dict() == {"name": "evaluate-candidate/evaluate", "kind": "job"}
        assert [cause.execution_id for cause in event.chain] == [job.execution_id]

    play(story, book=book)


@pytest.mark.parametrize(
    ("end", "cause", "words"),
    [
        pytest.param(ScriptedExit(3), FailureKind.EXITED, "exit code 3", id="exit code"),
        pytest.param(
            ScriptedExit(137, failure=FailureKind.OUT_OF_MEMORY), FailureKind.OUT_OF_MEMORY, "memory", id="memory"
        ),
        pytest.param(ScriptedExit(0, outputs=b"{no"), FailureKind.OUTPUT_INVALID, "not JSON", id="no JSON"),
        pytest.param(ScriptedExit(0, outputs=b"[1]"), FailureKind.OUTPUT_INVALID, "holds a list", id="no object"),
        pytest.param(ScriptedExit(0, unreadable="is a link"), FailureKind.OUTPUT_INVALID, "is a link", id="a link"),
        pytest.param(
            ScriptedExit(0, outputs=b'"' + b"x" * 2_000_000 + b'"'), FailureKind.OUTPUT_INVALID, "bytes", id="too large"
        ),
    ],
)
def test_a_job_that_fails_says_how(book: JobsConfig, end: ScriptedExit, cause: FailureKind, words: str) -> None:
    """The cause for programs, the reason for people, the log for both; the execution is woken all the same."""

    async def story(office: Office) -> None:
        office.engine.plan = lambda order: replace(end, log=b"what went wrong\n")
        office.open()

        job = await office.until_state(office.queue(), JobState.FAILED)

        assert job.failure is cause
        assert words in (job.reason or "")
        assert job.log_tail == "what went wrong\n"
        assert [event.kind for event in office.told(job)] == [EventKind.JOB_STARTED, EventKind.JOB_FAILED]
        assert office.execution(job).due_at is not None

    play(story, book=book)


def test_a_job_that_cannot_be_started_fails_with_the_reason(book: JobsConfig) -> None:
    """No container, no start, one event."""

    async def story(office: Office) -> None:
        office.engine.refuse(StartRefused(FailureKind.IMAGE_MISSING, "image nope:1 is not there"))
        office.open()

        job = await office.until_state(office.queue(), JobState.FAILED)

        assert (job.failure, job.reason) == (FailureKind.IMAGE_MISSING, "image nope:1 is not there")
        assert [event.kind for event in office.told(job)] == [EventKind.JOB_FAILED]

    play(story, book=book)


def test_a_job_gets_its_secrets_its_token_and_its_event(book: JobsConfig) -> None:
    """Filled in where it starts; what is kept of the job holds none of them, whatever it prints."""

    async def story(office: Office) -> None:
        spec = JobSpec(image="i", env={"TOKEN": f"Bearer {MARKS.mark('HF_TOKEN')}"}, files={"key": MARKS.mark("KEY")})
        token = []

        def leak(order):
            token.append(order.env["UPSHOT_TOKEN"])
            said = f"{order.env['TOKEN']} {order.spec.files['key']} {order.env['UPSHOT_TOKEN']}"
            return ScriptedExit(outputs=json.dumps({"said": said}).encode(), log=f"{said}\n".encode())

        office.engine.plan = leak
        office.open()
        queued = office.queue(spec, nonce=MARKS.nonce, secrets=("HF_TOKEN", "KEY"))
        job = await office.until_state(queued, JobState.SUCCEEDED)

        order = office.engine.begun[0]
        assert order.env["TOKEN"] == "Bearer hf-secret"
        assert order.spec.files == {"key": "key-secret"}
        assert json.loads(order.event)["id"] == job.event_id
        assert token == [job_token.make(INSTALLATION.key, job.id)]
        assert job.outputs == {"said": "Bearer *** *** ***"}
        assert office.log(job) == job.log_tail == "Bearer *** *** ***\n"
        assert "hf-secret" not in repr(job)

    play(story, book=book, secrets={"HF_TOKEN": "hf-secret", "KEY": "key-secret"})


def test_a_secret_that_is_not_there_fails_the_job_before_it_starts(book: JobsConfig) -> None:
    """And says which, and what to do."""

    async def story(office: Office) -> None:
        spec = JobSpec(image="i", env={"TOKEN": MARKS.mark("HF_TOKEN")})
        office.open()

        job = await office.until_state(office.queue(spec, nonce=MARKS.nonce, secrets=("HF_TOKEN",)), JobState.FAILED)

        assert job.failure is FailureKind.REFUSED
        assert "UPSHOT_SECRET_HF_TOKEN" in (job.reason or "")
        assert office.engine.begun == []

    play(story, book=book)


def test_metrics_go_to_the_version_if_asked(book: JobsConfig) -> None:
    """Under the job's name, as the job, so that a gate or the next automation can read them."""

    async def story(office: Office) -> None:
        office.engine.plan = lambda order: ScriptedExit(outputs=b'{"metrics": {"accuracy": 0.9}}')
        office.open()

        job = await office.until_state(office.queue(save_metrics=True), JobState.SUCCEEDED)

        assert job.reason is None

        version = office.registry.version("model", "fraud", "v0")
        assert version.artifact.metadata == {"number": 1, "evaluate": {"accuracy": 0.9}}
        last = office.registry.history("model", "fraud", cursor=None, limit=1).items[0]
        assert last.actor == "evaluate-candidate/evaluate"

    play(story, book=book)


# --- time ------------------------------------------------------------------------------------------


def test_a_job_that_runs_for_too_long_is_stopped(book: JobsConfig) -> None:
    """Signal and grace; then it has timed out, whatever its exit code."""

    async def story(office: Office) -> None:
        office.open()
        queued = office.queue(JobSpec(image="i", timeout_seconds=60))
        await office.until_state(queued, JobState.RUNNING)

        office.clock.advance(61)
        job = await office.until_state(queued, JobState.FAILED)

        assert job.failure is FailureKind.TIMED_OUT

    play(story, book=book)


def test_a_job_that_ignores_the_signal_is_killed_when_its_grace_is_over(book: JobsConfig) -> None:
    """It is STOPPING meanwhile."""

    async def story(office: Office) -> None:
        office.engine.ignores_stop = True
        office.open()
        queued = office.queue(JobSpec(image="i", timeout_seconds=60, grace_seconds=10))
        await office.until_state(queued, JobState.RUNNING)
        office.clock.advance(61)
        await office.until_state(queued, JobState.STOPPING)

        office.clock.advance(11)
        job = await office.until_state(queued, JobState.FAILED)

        assert (job.failure, job.exit_code) == (FailureKind.TIMED_OUT, 137)

    play(story, book=book)


def test_a_time_out_holds_though_nobody_watched(book: JobsConfig) -> None:
    """A job that ended well, but too late while every worker was down, has timed out."""

    async def story(office: Office) -> None:
        keeper = office.open()
        queued = office.queue(JobSpec(image="i", timeout_seconds=60))
        await office.until_state(queued, JobState.RUNNING)
        await office.kill(keeper)
        office.clock.advance(100)
        office.engine.finish(queued.container, 0, outputs=b"{}")

        office.open("w2")
        job = await office.until_state(queued, JobState.FAILED)

        assert job.failure is FailureKind.TIMED_OUT

    play(story, book=book)


# --- cancelled -------------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(book: JobsConfig) -> None:
    """No worker is needed; its execution is woken."""

    async def story(office: Office) -> None:
        queued = office.queue()

        job = office.jobs.request_stop(queued.id, "ann", office.clock.now())

        assert (job.state, job.failure) == (JobState.CANCELLED, FailureKind.CANCELLED)
        assert office.execution(job).due_at is not None
        office.open()
        await office.quiet()
        assert office.engine.begun == []

    play(story, book=book)


def test_a_starting_job_is_cancelled_while_its_image_is_pulled(book: JobsConfig) -> None:
    """Nobody waits for the end of the pull."""

    async def story(office: Office) -> None:
        pulling = asyncio.Event()

        async def pull():
            pulling.set()
            await asyncio.sleep(60)

        office.engine.at_each_step = pull
        office.open()
        queued = office.queue()
        await pulling.wait()

        office.jobs.request_stop(queued.id, "ann", office.clock.now())
        job = await office.until_state(queued, JobState.CANCELLED)

        assert job.reason == "cancelled by ann"
        assert office.engine.begun == []

    play(story, book=book)


@pytest.mark.parametrize("held_back", [None, "no machine has a GPU free"], ids=["running", "pending"])
def test_a_job_on_an_engine_is_stopped(book: JobsConfig, held_back: str | None) -> None:
    """Its container is told to end; the job is cancelled, by whom is kept, and nobody is told of a failure."""

    async def story(office: Office) -> None:
        office.engine.holds_back = held_back
        office.open()
        queued = office.queue()
        await office.until(lambda: queued.container in office.engine.jobs and office.job(queued).handle)

        office.jobs.request_stop(queued.id, "ann", office.clock.now())
        job = await office.until_state(queued, JobState.CANCELLED)

        assert job.reason == "cancelled by ann"
        assert EventKind.JOB_FAILED not in [event.kind for event in office.told(job)]
        await office.until(lambda: not office.engine.jobs)

    play(story, book=book)


def test_a_stopping_job_takes_another_wish_and_an_ended_one_none(book: JobsConfig) -> None:
    """Asking twice changes nothing; asking too late is a conflict that says so."""

    async def story(office: Office) -> None:
        office.engine.ignores_stop = True
        office.open()
        queued = office.queue()
        await office.until_state(queued, JobState.RUNNING)
        office.jobs.request_stop(queued.id, "ann", office.clock.now())
        await office.until_state(queued, JobState.STOPPING)

        office.jobs.request_stop(queued.id, "bob", office.clock.now())
        office.clock.advance(60)
        job = await office.until_state(queued, JobState.CANCELLED)

        assert job.reason == "cancelled by ann"
        with pytest.raises(Conflict, match="cancelled"):
            office.jobs.request_stop(queued.id, "bob", office.clock.now())

    play(story, book=book)


def test_the_end_of_an_execution_ends_its_job(book: JobsConfig) -> None:
    """Whoever cancels the execution need not know of the job."""

    async def story(office: Office) -> None:
        office.open()
        queued = office.queue()
        await office.until_state(queued, JobState.RUNNING)

        office.executions.amend(queued.execution_id, lambda before: cancel_by_person(before, office.clock.now(), "ann"))
        job = await office.until_state(queued, JobState.CANCELLED)

        assert "end of its execution" in (job.reason or "")

    play(story, book=book)


# --- workers and engines that go away --------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3], ids=["before it is made", "before it begins", "before the answer"])
def test_a_worker_killed_while_it_starts_a_job_neither_loses_nor_doubles_it(book: JobsConfig, step: int) -> None:
    """The next worker finds what is there, by its name."""

    async def story(office: Office) -> None:
        steps, reached = 0, asyncio.Event()

        async def die():
            nonlocal steps
            steps += 1
            if steps == step:
                reached.set()
                await asyncio.sleep(3600)

        office.engine.at_each_step = die
        keeper = office.open()
        queued = office.queue()
        await reached.wait()
        await office.kill(keeper)
        office.engine.at_each_step = None
        office.clock.advance(31)

        office.open("w2")
        await office.until_state(queued, JobState.RUNNING)
        office.engine.finish(queued.container, 0)
        job = await office.until_state(queued, JobState.SUCCEEDED)

        assert job.attempt == 1
        assert [order.name for order in office.engine.begun] == [queued.container]

    play(story, book=book)


def test_the_next_worker_follows_what_runs_and_doubles_nothing_of_its_log(book: JobsConfig) -> None:
    """A restart is not noticed by the job."""

    async def story(office: Office) -> None:
        keeper = office.open()
        queued = office.queue()
        await office.until_state(queued, JobState.RUNNING)
        office.engine.say(queued.container, b"first\n")
        await office.until(lambda: office.log(queued) == "first\n")
        await office.kill(keeper)
        office.engine.say(queued.container, b"second\n")
        office.clock.advance(31)

        office.open("w2")
        await office.until(lambda: office.log(queued) == "first\nsecond\n")
        office.engine.finish(queued.container, 0)
        job = await office.until_state(queued, JobState.SUCCEEDED)

        assert job.log_tail == "first\nsecond\n"
        assert len(office.engine.begun) == 1

    play(story, book=book)


def test_a_worker_that_stops_hands_its_jobs_over_at_once(book: JobsConfig) -> None:
    """Nobody waits for a lease to run out, and the job runs on."""

    async def story(office: Office) -> None:
        first = office.open()
        queued = office.queue()
        await office.until_state(queued, JobState.RUNNING)
        await office.pause(first)
        await first.stop()

        office.open("w2")
        office.clock.advance(1)
        await office.until(lambda: office.job(queued).lease_owner == "w2")

        assert office.engine.running == (queued.container,)

    play(story, book=book)


def test_a_worker_that_was_taken_for_dead_lets_go(book: JobsConfig) -> None:
    """It finds its lease in other hands when it renews, and follows the job no further."""

    async def story(office: Office) -> None:
        first = office.open()
        queued = office.queue()
        await office.until_state(queued, JobState.RUNNING)
        await office.pause(first)
        office.clock.advance(31)
        office.open("w2")
        await office.until(lambda: office.job(queued).lease_owner == "w2")

        await first.renew()
        await office.until(lambda: not first.in_progress)

        assert office.job(queued).state is JobState.RUNNING

    play(story, book=book)


def test_an_engine_that_is_away_for_a_while_delays_and_loses_nothing(book: JobsConfig) -> None:
    """The job waits for it, says why, and starts once."""

    async def story(office: Office) -> None:
        office.open()
        await office.until(lambda: True)
        running, office.engine.away = office.queue(), False
        await office.until_state(running, JobState.RUNNING)

        office.engine.away = True
        await office.quiet()
        office.engine.away = False
        office.engine.finish(running.container, 0)

        await office.until_state(running, JobState.SUCCEEDED)
        assert len(office.engine.begun) == 1

    play(story, book=book)


def test_jobs_that_its_engine_took_down_are_tried_again(book: JobsConfig) -> None:
    """An engine that was stopped and started in the middle: the second try is another container."""

    async def story(office: Office) -> None:
        office.open()
        queued = office.queue()
        await office.until_state(queued, JobState.RUNNING)

        office.engine.away = True
        await office.quiet()
        office.engine.finish(queued.container, 137)
        office.engine.away = False
        again = await office.until_state(queued, JobState.QUEUED)
        office.clock.advance(5)
        await office.until_state(queued, JobState.RUNNING)
        office.engine.finish(again.container, 0)
        job = await office.until_state(queued, JobState.SUCCEEDED)

        assert job.attempt == 2
        assert [order.name for order in office.engine.begun] == [queued.container, again.container]
        assert "--- try 2 ---" in office.log(job)

    play(story, book=book)


def test_an_engine_that_is_gone_for_too_long_has_lost_its_jobs(book: JobsConfig) -> None:
    """With no try left the job fails, with that reason; when the engine is back, what it left is removed."""

    async def story(office: Office) -> None:
        office.open(lost_after=timedelta(seconds=60))
        queued = office.queue(retry=JobRetryPolicy(max_attempts=1))
        await office.until_state(queued, JobState.RUNNING)

        office.engine.away = True
        await office.quiet()
        office.clock.advance(61)
        job = await office.until_state(queued, JobState.FAILED)

        assert job.failure is FailureKind.ENGINE_LOST
        assert "not reached for 6" in (job.reason or "")
        office.engine.away = False
        await office.until(lambda: not office.engine.jobs)

    play(story, book=book)


def test_a_job_whose_machine_is_gone_is_tried_on_another(book: JobsConfig) -> None:
    """Any worker notices that nobody reaches its engine."""

    async def story(office: Office) -> None:
        keeper = office.open()
        queued = office.queue()
        await office.until_state(queued, JobState.RUNNING)
        await office.kill(keeper)

        other = MemoryBackend(office.clock, "memory:other")
        office.open("w2", engines={"docker": other}, machine="m2")
        office.clock.advance(601)
        await office.until(lambda: office.job(queued).state is JobState.QUEUED)
        office.clock.advance(5)
        job = await office.until_state(queued, JobState.RUNNING)

        assert (job.machine, job.attempt) == ("m2", 2)

    play(story, book=book)


def test_a_container_that_somebody_removed_ends_its_try(book: JobsConfig) -> None:
    """The job does not wait for ever for what is gone."""

    async def story(office: Office) -> None:
        office.open()
        queued = office.queue(retry=JobRetryPolicy(max_attempts=1))
        await office.until_state(queued, JobState.RUNNING)

        office.engine.lose(queued.container)
        job = await office.until_state(queued, JobState.FAILED)

        assert job.failure is FailureKind.ENGINE_LOST
        assert "gone" in (job.reason or "")

    play(story, book=book)


@pytest.mark.parametrize("removes", [True, False], ids=["removed", "left alone"])
def test_a_container_that_no_job_knows_is_removed_if_so_set(book: JobsConfig, *, removes: bool) -> None:
    """Only after a minute, for its job may be about to be known."""

    async def story(office: Office) -> None:
        queued = office.queue()
        elsewhere = office.open()
        await office.until_state(queued, JobState.RUNNING)
        await office.kill(elsewhere)
        office.jobs._jobs.pop(queued.id)  # a database that was restored from before

        office.open("w2", removes_orphans=removes)
        await office.quiet()
        assert office.engine.jobs
        office.clock.advance(61)
        if removes:
            await office.until(lambda: not office.engine.jobs)
        else:
            await office.quiet()
            assert office.engine.jobs

    play(story, book=book)


# --- memory, and places ----------------------------------------------------------------------------


def test_out_of_memory_is_tried_again_with_more_if_asked(book: JobsConfig) -> None:
    """Twice as much, as often as tries are left."""

    async def story(office: Office) -> None:
        office.engine.plan = lambda order: ScriptedExit(137, failure=FailureKind.OUT_OF_MEMORY)
        office.open()
        spec = JobSpec(image="i", memory_bytes=2**20)
        queued = office.queue(
            spec, retry=JobRetryPolicy(max_attempts=3, first_seconds=1, memory_growth=MemoryGrowth(factor=2))
        )

        for _ in range(2):
            await office.until(lambda: office.job(queued).state is JobState.QUEUED and office.job(queued).attempt > 1)
            office.clock.advance(10)
            tried = len(office.engine.begun)
            await office.until(partial(_has_begun, office, tried + 1))
        job = await office.until_state(queued, JobState.FAILED)

        assert job.failure is FailureKind.OUT_OF_MEMORY
        assert [order.spec.memory_bytes for order in office.engine.begun] == [2**20, 2**21, 2**22]

    play(story, book=book)


def _has_begun(office: Office, number: int) -> bool:
    return len(office.engine.begun) >= number


def test_a_hundred_jobs_keep_to_a_limit_of_four(limited_to_four: JobsConfig) -> None:
    """All of them run, never more than four at a time, though two workers take them."""

    async def story(office: Office) -> None:
        jobs = [office.queue() for _ in range(100)]
        office.open("w1", machine="m1")
        office.open("w2", machine="m2")
        most, ended = 0, 0
        while ended < len(jobs):
            await office.until(lambda: office.engine.running)
            running = office.engine.running
            most = max(most, len(running))
            office.engine.finish(running[0], 0)
            ended += 1
        await office.until(lambda: all(office.job(job).state is JobState.SUCCEEDED for job in jobs))

        assert most == 4
        assert len(office.engine.begun) == 100

    play(story, book=limited_to_four)


def test_higher_priorities_go_first(limited_to_four: JobsConfig) -> None:
    """Among those that wait; then the older."""

    async def story(office: Office) -> None:
        low = [office.queue() for _ in range(4)]
        high = [office.queue(priority=5) for _ in range(4)]
        office.open()
        await office.until(lambda: len(office.engine.running) == 4)

        assert set(office.engine.running) == {job.container for job in high}
        assert all(office.job(job).state is JobState.QUEUED for job in low)

    play(story, book=limited_to_four)


def test_a_worker_takes_only_its_queues(book: JobsConfig) -> None:
    """`upshot worker --queues gpu` leaves the others alone."""

    async def story(office: Office) -> None:
        office.open(queues=frozenset({"gpu"}))
        queued = office.queue()
        await office.quiet()

        assert office.job(queued).state is JobState.QUEUED

    play(story, book=book)
