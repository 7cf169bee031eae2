"""Jobs over HTTP: listed, shown with why they wait, their logs read, stopped."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from tests.web.conftest import API, made, problem
from tests.web.jobs_api import NONCE, Shop
from tests.web.test_openapi import check
from upshot.domain.job import DEFAULT_QUEUE, FailureKind, ImagePullCredentials, JobSpec, JobState, Mount
from upshot.ports.jobs import ConcurrencyLimits, QueuePosition
from upshot.web.app import create_app
from upshot.web.schemas.jobs import JobSpecForm
from upshot.web.wait_reason import why_it_waits

JOBS = f"{API}/jobs"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def shop(web, stores, clock) -> Shop:
    return Shop(web, stores, clock)


def view(web, job) -> Any:
    return made(web.get(f"{JOBS}/{job.id}"))


# --- lists and views ------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_and_can_be_chosen(web, shop, clock):
    """By state, queue, automation and execution."""
    first = shop.running()
    clock.advance(seconds=1)
    second = shop.job(queue="gpu", automation="train")

    def found(**query: str) -> list[str]:
        return [item["id"] for item in made(web.get(JOBS, params=query))["items"]]

    assert found() == [second.id, first.id]
    assert found(state="running") == found(queue="default") == found(automation="promote") == [first.id]
    assert found(execution=second.execution) == found(state="queued") == [second.id]
    assert found(state="failed") == found(queue="other") == []


def test_jobs_come_in_pages(web, shop, clock):
    """Each job once, whatever the size of a page."""
    made_jobs = []
    for _ in range(5):
        clock.advance(seconds=1)
        made_jobs.append(shop.job().id)

    seen, query = [], {"limit": 2}
    while True:
        page = made(web.get(JOBS, params=query))
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]

    assert seen == made_jobs[::-1]


@pytest.mark.parametrize(
    ("query", "place"),
    [("state=jogging", "query.state"), ("limit=0", "query.limit"), ("queu=x", "query")],
)
def test_a_wrong_question_is_told(web, query, place):
    """Where it is wrong, and what would be right."""
    form = problem(web.get(f"{JOBS}?{query}"), 422, "invalid-input")

    assert form["detail"].startswith(place)


def test_a_job_shows_all_that_people_may_know(web, shop):
    """What it runs, where it is, how it ended and what it gave."""
    running = shop.running(version_reference="model/churn:v3", priority=2, concurrency=1)
    ended = shop.move(
        running,
        JobState.FAILED,
        failure=FailureKind.OUT_OF_MEMORY,
        reason="it ran out of memory of 64 MiB",
        exit_code=137,
        outputs={"metrics": {"accuracy": 0.9}},
        log_tail="Killed\n",
        finished_at=shop.clock.now() + timedelta(seconds=3),
    )

    form = view(web, ended)

    expected = {
        "id": ended.id,
        "automation": "promote",
        "execution": ended.execution,
        "step": "evaluate",
        "event": ended.event,
        "version": "model/churn:v3",
        "image": "acme/evaluate:1",
        "priority": 2,
        "concurrency": 1,
        "state": "failed",
        "cause": "out-of-memory",
        "reason": "it ran out of memory of 64 MiB",
        "attempt": 1,
        "machine": "machine-1",
        "engine": "engine-1",
        "handle": "c0ffee",
        "container": ended.container,
        "image_digest": "sha256:1",
        "exit_code": 137,
        "outputs": {"metrics": {"accuracy": 0.9}},
        "log_tail": "Killed\n",
        "started_at": "2026-01-01T12:00:00.000000Z",
        "finished_at": "2026-01-01T12:00:03.000000Z",
        "waits": None,
        "place": None,
    }
    assert {key: form[key] for key in expected} == expected
    assert form["spec"]["timeout_seconds"] == 3600
    assert form["tries"] == {"most": 3, "first_seconds": 1, "cap_seconds": 3600, "memory_growth": None}


def test_answers_about_jobs_have_the_documented_form(web, house, shop):
    """Lists, views, logs: each key that the document names, and no other."""
    document = create_app(house).openapi()
    mount = Mount("/data", "/data")
    job = shop.running(
        spec=JobSpec(image="x", mounts=(mount,), registry_auth=ImagePullCredentials("robot", "typed-in"))
    )
    shop.say(job, "hello\n")
    queued = shop.job(automation="other")

    for route, path in {
        "/jobs": JOBS,
        "/jobs/{job}": f"{JOBS}/{job.id}",
        "/jobs/{job}/log": f"{JOBS}/{job.id}/log",
    }.items():
        schema = document["paths"][API + route]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        check(made(web.get(path)), schema, document, path)
        if route == "/jobs/{job}":
            check(view(web, queued), schema, document, "a queued one")


def test_every_part_of_a_spec_is_shown():
    """A field that jobs come to have is not forgotten here."""
    assert set(JobSpecForm.__annotations__) == {field.name for field in fields(JobSpec)}


def test_secrets_are_shown_as_the_templates_that_name_them(web, shop):
    """Neither a mark nor what marks are made with is to be seen, wherever one got to; a typed-in password neither."""
    job = shop.job()
    mark = job.spec.files["key.pem"]
    shop.claim()
    literal = shop.job(
        automation="other", spec=JobSpec(image="x", registry_auth=ImagePullCredentials("robot", "typed-in"))
    )

    form = view(web, job)
    assert form["spec"]["env"] == {"API_KEY": "Bearer {{ secrets.API_KEY }}", "MODE": "fast"}
    assert form["spec"]["files"] == {"key.pem": "{{ secrets.KEY }}"}
    assert form["spec"]["registry_auth"] == {"username": "robot", "password": "{{ secrets.PULL }}"}
    assert form["secrets"] == ["API_KEY", "KEY", "PULL"]
    assert view(web, literal)["spec"]["registry_auth"]["password"] == "***"

    (taken,) = shop.stores.jobs.get([job.id]).values()
    shop.move(taken, JobState.FAILED, reason=f"no {mark}", outputs={mark: [mark]}, log_tail=mark)
    for path in (JOBS, f"{JOBS}/{job.id}", f"{JOBS}/{job.id}/log", f"{JOBS}/{job.id}/log.txt"):
        text = web.get(path).text
        assert NONCE not in text
        assert "typed-in" not in text
    assert view(web, job)["reason"] == "no {{ secrets.KEY }}"


# --- why it waits ---------------------------------------------------------------------------------


def test_a_job_that_waits_says_where_it_stands_and_why(web, shop, clock):
    """Its place in the queue, and how many places are taken."""
    shop.worker()
    shop.running()
    ahead = shop.job(automation="second")
    clock.advance(seconds=1)
    job = shop.job(automation="third")

    assert view(web, ahead)["waits"] == "next in queue default; 1 of 4 places are taken"
    form = view(web, job)
    assert form["waits"] == "2nd in queue default; 1 of 4 places are taken"
    assert form["place"] == {"ahead": 1, "active": 1}


WORKER: dict[str, Any] = {"machine": "m1", "queues": ("default",), "engines": {"docker": "e1"}}


@pytest.mark.parametrize(
    ("changes", "place", "limits", "workers", "words"),
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
            "3rd in queue default; 4 of 4 places are taken",
            id="queue full",
        ),
        pytest.param(
            *({"concurrency": 1}, QueuePosition(11, 1), ConcurrencyLimits(4), [WORKER]),
            "12th in queue default; 1 of 4 places are taken; at most 1 of this step at the same time",
            id="few of its step",
        ),
        pytest.param(
            *({}, QueuePosition(1, 4), ConcurrencyLimits(10, 2)),
            [WORKER, WORKER, {**WORKER, "machine": "m2"}, {**WORKER, "machine": "m3", "engines": {}}],
            "2nd in queue default; 4 of 4 places are taken",
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
            *({"queue": "gpu-a100"}, QueuePosition(0, 0), ConcurrencyLimits(), [WORKER]),
            "no worker takes queue gpu-a100; start `upshot worker --queues gpu-a100`",
            id="nobody takes the queue",
        ),
        pytest.param(
            *({"backend": "cluster"}, QueuePosition(0, 0), ConcurrencyLimits(), [WORKER, {**WORKER, "machine": "m0"}]),
            "no worker reaches backend cluster; look at its engine, or at the worker's log on m0, m1",
            id="nobody reaches the backend",
        ),
        pytest.param(
            *({"backend": "cluster"}, QueuePosition(0, 0), ConcurrencyLimits()),
            [WORKER, {"machine": "m2", "queues": (), "engines": {"cluster": "e2"}}],
            "no worker reaches backend cluster; look at its engine, or at the worker's log on m1",
            id="only a worker of other queues reaches it",
        ),
        pytest.param(
            {"attempt": 2, "due_in": 60, "reason": "try 1 of 3 ended: evicted"},
            *(QueuePosition(0, 0), ConcurrencyLimits(), []),
            "waits for its 2nd try until 2026-01-01T12:01:00.000000Z; try 1 of 3 ended: evicted",
            id="another try",
        ),
        pytest.param(
            {"due_in": 60, "reason": "its version is being copied"},
            *(QueuePosition(0, 0), ConcurrencyLimits(), [WORKER]),
            "waits until 2026-01-01T12:01:00.000000Z; its version is being copied",
            id="a time",
        ),
    ],
)
def test_why_it_waits_is_said_in_words(shop, clock, changes, place, limits, workers, words):
    """A time comes before a missing worker, that before the place; the keeper's own words come last."""
    due_in = changes.pop("due_in", 0)
    job = shop.job(due_at=clock.now() + timedelta(seconds=due_in), **changes)
    for number, worker in enumerate(workers):
        shop.worker(id=f"w{number}", **worker)
    alive = shop.stores.workers.list(seen_since=clock.now())

    assert why_it_waits(job, place, limits=limits, workers=alive, now=clock.now()) == words


def test_only_a_queued_job_waits(shop, clock):
    """One that runs has nothing to say."""
    assert why_it_waits(shop.running(), None, limits=ConcurrencyLimits(), workers=[], now=clock.now()) is None


def test_a_queue_that_is_not_declared_any_more_has_no_limits(web, shop):
    """A job that was queued before is shown all the same."""
    shop.worker(queues=("old",))

    assert view(web, shop.job(queue="old"))["waits"] == "next in queue old; 0 of its jobs run"


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_is_read_piece_by_piece_while_the_job_runs(web, shop):
    """Each piece once, in order; done when the job has ended and nothing is left."""
    job = shop.running()
    assert made(web.get(f"{JOBS}/{job.id}/log")) == {"items": [], "next": 0, "done": False}
    shop.say(job, "one\n", "two\n", "three\n")

    first = made(web.get(f"{JOBS}/{job.id}/log", params={"limit": 2}))
    assert first == {
        "items": [{"number": 1, "text": "one\n"}, {"number": 2, "text": "two\n"}],
        "next": 2,
        "done": False,
    }
    second = made(web.get(f"{JOBS}/{job.id}/log", params={"after": 2}))
    assert second == {"items": [{"number": 3, "text": "three\n"}], "next": 3, "done": False}
    assert made(web.get(f"{JOBS}/{job.id}/log", params={"after": 3})) == {"items": [], "next": 3, "done": False}

    shop.move(job, JobState.SUCCEEDED, exit_code=0, finished_at=shop.clock.now())
    assert made(web.get(f"{JOBS}/{job.id}/log", params={"after": 2}))["done"]
    assert not made(web.get(f"{JOBS}/{job.id}/log", params={"limit": 2}))["done"]


def test_a_log_is_had_as_text(web, shop):
    """All of it, whatever its length; what its limit removed is not there."""
    job = shop.running()
    shop.say(job, *(f"{number:03} é\n" for number in range(50)), keep_bytes=7 * 45)

    answer = web.get(f"{JOBS}/{job.id}/log.txt")

    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "".join(f"{number:03} é\n" for number in range(5, 50))
    assert made(web.get(f"{JOBS}/{job.id}/log"))["items"][0]["number"] == 6


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=201", "after=99999999999"])
def test_a_wrong_question_for_a_log_is_told(web, shop, query):
    """Numbers that no log has."""
    problem(web.get(f"{JOBS}/{shop.job().id}/log?{query}"), 422, "invalid-input")


# --- cancel ---------------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(web, house, shop):
    """It says by whom, and the execution that waits for it is called."""
    job = shop.job()

    form = made(web.post(f"{JOBS}/{job.id}/cancel", headers={"X-Upshot-Actor": "ada"}))

    assert (form["state"], form["cause"], form["reason"]) == ("cancelled", "cancelled", "cancelled by ada")
    assert house.notifier.notified == [job.execution]
    execution = made(web.get(f"{API}/executions/{job.execution}"))
    assert execution["due_at"] is not None


def test_a_running_job_is_asked_to_stop(web, house, shop):
    """Its worker sees who asked; until it has ended, it runs."""
    job = shop.running()

    form = made(web.post(f"{JOBS}/{job.id}/cancel", headers={"X-Upshot-Actor": "ada"}))

    assert (form["state"], form["stop_requested_by"]) == ("running", "ada")
    assert shop.stores.jobs.asked_to_stop([job.id]) == {job.id: "ada"}
    assert house.notifier.notified == []


def test_a_job_that_has_ended_cannot_be_cancelled(web, shop):
    """There is nothing to stop."""
    job = shop.move(shop.running(), JobState.SUCCEEDED, exit_code=0, finished_at=shop.clock.now())

    assert job.id in problem(web.post(f"{JOBS}/{job.id}/cancel"), 409, "conflict")["detail"]


@pytest.mark.parametrize("take", [True, False], ids=["running", "queued"])
def test_cancelling_an_execution_stops_its_job(web, shop, take):
    """The job shows that it is asked to stop, and by what."""
    job = shop.running() if take else shop.job()

    made(web.post(f"{API}/executions/{job.execution}/cancel"))

    form = view(web, job)
    assert form["stop_requested_by"] == "the end of its execution"
    assert form["stop_requested_at"]
    assert form["waits"] == (None if take else "is about to be cancelled, by the end of its execution")


@pytest.mark.parametrize("verb", ["GET ", "GET log", "GET log.txt", "POST cancel"])
def test_a_job_that_is_not_there_is_not_found(web, verb):
    """For every verb."""
    method, _, what = verb.partition(" ")

    problem(web.request(method, f"{JOBS}/job_0/{what}".rstrip("/")), 404, "not-found")


def test_workers_show_what_they_take_and_reach(web, shop):
    """Queues and engines, for whoever wonders why a job waits."""
    shop.worker()

    (worker,) = made(web.get(f"{API}/workers"))["items"]

    assert (worker["machine"], worker["queues"], worker["engines"]) == (
        "machine-1",
        ["events", DEFAULT_QUEUE],
        {"docker": "engine-1"},
    )
