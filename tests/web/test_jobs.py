"""Jobs over HTTP: listed, shown with why they wait, their logs read, cancelled."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from tests.web.conftest import API, ok_json, problem
from tests.web.jobs_api import NONCE, JobsApiHarness
from upshot.domain.job import DEFAULT_QUEUE, FailureKind, ImagePullCredentials, JobSpec, JobState
from upshot.ports.jobs import ConcurrencyLimits, QueuePosition
from upshot.web.wait_reason import explain_wait

JOBS = f"{API}/jobs"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def jobs(web, stores, clock) -> JobsApiHarness:
    return JobsApiHarness(web, stores, clock)


def show(web, job) -> Any:
    return ok_json(web.get(f"{JOBS}/{job.id}"))


# --- lists and details ----------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_and_can_be_filtered(web, jobs, clock):
    """Filters are state, queue, automation and execution."""
    first = jobs.running()
    clock.advance(seconds=1)
    second = jobs.queued(queue="gpu", automation="train")

    def found(**query: str) -> list[str]:
        return [job["id"] for job in ok_json(web.get(JOBS, params=query))["items"]]

    assert found() == [second.id, first.id]
    assert found(state="running") == found(queue="default") == found(automation="promote") == [first.id]
    assert found(execution_id=second.execution_id) == found(state="queued") == [second.id]
    assert found(state="failed") == found(queue="other") == []


def test_jobs_are_listed_in_pages(web, jobs, clock):
    """A walk by cursor returns each job once."""
    job_ids = []
    for _ in range(5):
        clock.advance(seconds=1)
        job_ids.append(jobs.queued().id)

    listed, query = [], {"limit": 2}
    while True:
        page = ok_json(web.get(JOBS, params=query))
        listed += [job["id"] for job in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]

    assert listed == job_ids[::-1]


@pytest.mark.parametrize(
    ("query", "location"),
    [("state=jogging", "query.state"), ("limit=0", "query.limit"), ("queu=x", "query")],
)
def test_a_wrong_query_is_refused(web, query, location):
    """The response says where the mistake is."""
    data = problem(web.get(f"{JOBS}?{query}"), 422, "invalid-input")

    assert data["detail"].startswith(location)


def test_a_job_shows_its_details(web, jobs):
    """The details say what the job runs, where it runs, how it ended, and its outputs."""
    running = jobs.running(version_reference="model/churn:v3", priority=2, concurrency=1)
    failed = jobs.record(
        running,
        JobState.FAILED,
        failure=FailureKind.OUT_OF_MEMORY,
        reason="it ran out of memory of 64 MiB",
        exit_code=137,
        outputs={"metrics": {"accuracy": 0.9}},
        log_tail="Killed\n",
        finished_at=jobs.clock.now() + timedelta(seconds=3),
    )

    shown = show(web, failed)

    expected = {
        "id": failed.id,
        "automation": "promote",
        "execution_id": failed.execution_id,
        "step_id": "evaluate",
        "event_id": failed.event_id,
        "version": "model/churn:v3",
        "image": "acme/evaluate:1",
        "priority": 2,
        "concurrency": 1,
        "state": "failed",
        "failure": "out-of-memory",
        "reason": "it ran out of memory of 64 MiB",
        "attempt": 1,
        "machine": "machine-1",
        "engine_id": "engine-1",
        "handle": "c0ffee",
        "container": failed.container_name,
        "image_digest": "sha256:1",
        "exit_code": 137,
        "outputs": {"metrics": {"accuracy": 0.9}},
        "log_tail": "Killed\n",
        "started_at": "2026-01-01T12:00:00.000000Z",
        "finished_at": "2026-01-01T12:00:03.000000Z",
        "wait_reason": None,
        "queue_position": None,
    }
    assert {key: shown[key] for key in expected} == expected
    assert shown["spec"]["timeout_seconds"] == 3600
    assert shown["retry"] == {"max_attempts": 3, "first_seconds": 1, "cap_seconds": 3600, "memory_growth": None}


def test_a_job_shows_every_option(web, jobs):
    """The API follows the declaration of options, so that a new option appears by itself."""
    assert set(show(web, jobs.queued())["spec"]) == {field.name for field in fields(JobSpec)}


def test_secrets_are_shown_as_the_templates_that_name_them(web, jobs):
    """No response contains a placeholder, the nonce of placeholders, or a literal password."""
    job = jobs.queued()
    placeholder = job.spec.secret_files["key.pem"]
    jobs.claim()
    with_password = jobs.queued(
        automation="other", spec=JobSpec(image="x", registry_auth=ImagePullCredentials("robot", "typed-in"))
    )

    shown = show(web, job)
    assert shown["spec"]["env"] == {"API_KEY": "Bearer {{ secrets.API_KEY }}", "MODE": "fast"}
    assert shown["spec"]["secret_files"] == {"key.pem": "{{ secrets.KEY }}"}
    assert shown["spec"]["registry_auth"] == {"username": "robot", "password": "{{ secrets.PULL }}"}
    assert shown["secrets"] == ["API_KEY", "KEY", "PULL"]
    assert show(web, with_password)["spec"]["registry_auth"]["password"] == "***"

    (claimed,) = jobs.stores.jobs.get([job.id]).values()
    jobs.record(
        claimed,
        JobState.FAILED,
        reason=f"no {placeholder}",
        outputs={placeholder: [placeholder]},
        log_tail=placeholder,
    )
    for path in (JOBS, f"{JOBS}/{job.id}", f"{JOBS}/{job.id}/log", f"{JOBS}/{job.id}/log.txt"):
        text = web.get(path).text
        assert NONCE not in text
        assert "typed-in" not in text
    assert show(web, job)["reason"] == "no {{ secrets.KEY }}"


# --- why it waits ---------------------------------------------------------------------------------


def test_a_queued_job_shows_its_position_and_why_it_waits(web, jobs, clock):
    """The reason has the position in the queue and the number of taken slots."""
    jobs.add_worker()
    jobs.running()
    ahead = jobs.queued(automation="second")
    clock.advance(seconds=1)
    job = jobs.queued(automation="third")

    assert show(web, ahead)["wait_reason"] == "next in queue default; 1 of 4 slots are taken"
    shown = show(web, job)
    assert shown["wait_reason"] == "2nd in queue default; 1 of 4 slots are taken"
    assert shown["queue_position"] == {"ahead": 1, "active": 1}


WORKER: dict[str, Any] = {"machine": "m1", "queues": ("default",), "engines": {"docker": "e1"}}


@pytest.mark.parametrize(
    ("changes", "position", "limits", "workers", "wait_reason"),
    [
        pytest.param(
            {},
            QueuePosition(0, 0),
            ConcurrencyLimits(),
            [WORKER],
            "next in queue default; 0 of its jobs run",
            id="next",
        ),
        pytest.param(
            {},
            QueuePosition(2, 4),
            ConcurrencyLimits(4),
            [WORKER],
            "3rd in queue default; 4 of 4 slots are taken",
            id="queue full",
        ),
        pytest.param(
            {"concurrency": 1},
            QueuePosition(11, 1),
            ConcurrencyLimits(4),
            [WORKER],
            "12th in queue default; 1 of 4 slots are taken; at most 1 of this step at the same time",
            id="limit of its step",
        ),
        pytest.param(
            {},
            QueuePosition(1, 4),
            ConcurrencyLimits(10, 2),
            [WORKER, WORKER, {**WORKER, "machine": "m2"}, {**WORKER, "machine": "m3", "engines": {}}],
            "2nd in queue default; 4 of 4 slots are taken",
            id="machines full",
        ),
        pytest.param(
            {},
            QueuePosition(0, 0),
            ConcurrencyLimits(),
            [],
            "no worker is alive; start `upshot worker`",
            id="no worker",
        ),
        pytest.param(
            {"queue": "gpu-a100"},
            QueuePosition(0, 0),
            ConcurrencyLimits(),
            [WORKER],
            "no worker takes queue gpu-a100; start `upshot worker --queues gpu-a100`",
            id="no worker takes the queue",
        ),
        pytest.param(
            {"backend": "cluster"},
            QueuePosition(0, 0),
            ConcurrencyLimits(),
            [WORKER, {**WORKER, "machine": "m0"}],
            "no worker reaches backend cluster; check its engine, or the worker's log on m0, m1",
            id="no worker reaches the backend",
        ),
        pytest.param(
            {"backend": "cluster"},
            QueuePosition(0, 0),
            ConcurrencyLimits(),
            [WORKER, {"machine": "m2", "queues": (), "engines": {"cluster": "e2"}}],
            "no worker reaches backend cluster; check its engine, or the worker's log on m1",
            id="only a worker of other queues reaches it",
        ),
        pytest.param(
            {"attempt": 2, "due_in": 60, "reason": "attempt 1 of 3 failed: evicted"},
            QueuePosition(0, 0),
            ConcurrencyLimits(),
            [],
            "waits for its 2nd attempt until 2026-01-01T12:01:00.000000Z; attempt 1 of 3 failed: evicted",
            id="next attempt",
        ),
        pytest.param(
            {"due_in": 60, "reason": "its version is being copied"},
            QueuePosition(0, 0),
            ConcurrencyLimits(),
            [WORKER],
            "waits until 2026-01-01T12:01:00.000000Z; its version is being copied",
            id="a time",
        ),
    ],
)
def test_the_wait_reason_explains_what_a_job_waits_for(jobs, clock, changes, position, limits, workers, wait_reason):
    """A due time comes before a missing worker, and that before the queue. The job's own reason comes last."""
    due_in = changes.pop("due_in", 0)
    job = jobs.queued(due_at=clock.now() + timedelta(seconds=due_in), **changes)
    for number, worker in enumerate(workers):
        jobs.add_worker(id=f"w{number}", **worker)
    alive = jobs.stores.workers.list(seen_since=clock.now())

    assert explain_wait(job, position, limits=limits, workers=alive, now=clock.now()) == wait_reason


def test_only_a_queued_job_has_a_wait_reason(jobs, clock):
    """A running job waits for nothing."""
    assert explain_wait(jobs.running(), None, limits=ConcurrencyLimits(), workers=[], now=clock.now()) is None


def test_a_queue_that_is_no_longer_declared_has_no_limits(web, jobs):
    """A job that was queued earlier is still shown."""
    jobs.add_worker(queues=("old",))

    assert show(web, jobs.queued(queue="old"))["wait_reason"] == "next in queue old; 0 of its jobs run"


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_is_read_in_chunks_while_the_job_runs(web, jobs):
    """Each chunk comes once and in order. The log is done when the job has ended and no chunk is left."""
    job = jobs.running()
    log = f"{JOBS}/{job.id}/log"
    assert ok_json(web.get(log)) == {"items": [], "next": 0, "done": False}
    jobs.append_log(job, "one\n", "two\n", "three\n")

    first = ok_json(web.get(log, params={"limit": 2}))
    assert first == {
        "items": [{"number": 1, "text": "one\n"}, {"number": 2, "text": "two\n"}],
        "next": 2,
        "done": False,
    }
    second = ok_json(web.get(log, params={"after": 2}))
    assert second == {"items": [{"number": 3, "text": "three\n"}], "next": 3, "done": False}
    assert ok_json(web.get(log, params={"after": 3})) == {"items": [], "next": 3, "done": False}

    jobs.record(job, JobState.SUCCEEDED, exit_code=0, finished_at=jobs.clock.now())
    assert ok_json(web.get(log, params={"after": 2}))["done"]
    assert not ok_json(web.get(log, params={"limit": 2}))["done"]


def test_a_log_can_be_downloaded_as_text(web, jobs):
    """The text has everything that is kept; chunks beyond the limit are gone."""
    job = jobs.running()
    jobs.append_log(job, *(f"{number:03} é\n" for number in range(50)), keep_bytes=7 * 45)

    response = web.get(f"{JOBS}/{job.id}/log.txt")

    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "".join(f"{number:03} é\n" for number in range(5, 50))
    assert ok_json(web.get(f"{JOBS}/{job.id}/log"))["items"][0]["number"] == 6


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=201", "after=99999999999"])
def test_a_wrong_query_for_a_log_is_refused(web, jobs, query):
    """Numbers that no log can have are 422."""
    problem(web.get(f"{JOBS}/{jobs.queued().id}/log?{query}"), 422, "invalid-input")


# --- cancel ---------------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(web, deps, jobs):
    """The reason names the actor, and the execution that waits for the job is notified."""
    job = jobs.queued()

    shown = ok_json(web.post(f"{JOBS}/{job.id}/cancel", headers={"X-Upshot-Actor": "ada"}))

    assert (shown["state"], shown["failure"], shown["reason"]) == ("cancelled", "cancelled", "cancelled by ada")
    assert deps.notifier.notified == [job.execution_id]
    execution = ok_json(web.get(f"{API}/executions/{job.execution_id}"))
    assert execution["due_at"] is not None


def test_a_running_job_gets_a_stop_request(web, deps, jobs):
    """The job runs until its worker has stopped it, and the worker sees who requested the stop."""
    job = jobs.running()

    shown = ok_json(web.post(f"{JOBS}/{job.id}/cancel", headers={"X-Upshot-Actor": "ada"}))

    assert (shown["state"], shown["stop_requested_by"]) == ("running", "ada")
    assert jobs.stores.jobs.stop_requests([job.id]) == {job.id: "ada"}
    assert deps.notifier.notified == []


def test_a_finished_job_cannot_be_cancelled(web, jobs):
    """There is nothing to stop."""
    job = jobs.record(jobs.running(), JobState.SUCCEEDED, exit_code=0, finished_at=jobs.clock.now())

    assert job.id in problem(web.post(f"{JOBS}/{job.id}/cancel"), 409, "conflict")["detail"]


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "queued"])
def test_cancelling_an_execution_stops_its_job(web, jobs, is_running):
    """The job shows that the end of its execution requested the stop."""
    job = jobs.running() if is_running else jobs.queued()

    ok_json(web.post(f"{API}/executions/{job.execution_id}/cancel"))

    shown = show(web, job)
    assert shown["stop_requested_by"] == "the end of its execution"
    assert shown["stop_requested_at"]
    expected = None if is_running else "is about to be cancelled, by the end of its execution"
    assert shown["wait_reason"] == expected


@pytest.mark.parametrize("request_line", ["GET ", "GET log", "GET log.txt", "POST cancel"])
def test_an_unknown_job_is_not_found(web, request_line):
    """Every route of a job returns 404."""
    method, _, rest = request_line.partition(" ")

    problem(web.request(method, f"{JOBS}/job_0/{rest}".rstrip("/")), 404, "not-found")


def test_workers_show_their_queues_and_engines(web, jobs):
    """So a user can find out why a job waits."""
    jobs.add_worker()

    (worker,) = ok_json(web.get(f"{API}/workers"))["items"]

    assert worker["machine"] == "machine-1"
    assert worker["queues"] == ["events", DEFAULT_QUEUE]
    assert worker["engines"] == {"docker": "engine-1"}
