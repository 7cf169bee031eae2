"""What a job may do with its token, in whose name, and how long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.web.conftest import API, CHURN, Serve, made, problem
from tests.web.jobs_api import Shop
from upshot.automations.matcher import MatchResult
from upshot.domain import job_token
from upshot.domain.event import Event
from upshot.domain.job import Job, JobState
from upshot.errors import Unavailable
from upshot.web.app import _ROUTERS
from upshot.web.idempotency import MAX_KEY_CHARS

SERVER_TOKEN = "s3cret-token"
EVENTS = f"{API}/events"
LINK = {"artifact": "demo/churn:v0", "aliases": ["candidate"]}


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture(params=[None, SERVER_TOKEN], ids=["server without a token", "server with a token"])
def open_web(request, serve: Serve) -> Iterator[httpx.Client]:
    """A client that may do anything, of either kind of server; others of the same server are made from it."""
    with serve(token=request.param) as client:
        if request.param:
            client.headers["Authorization"] = f"Bearer {request.param}"
        yield client


@pytest.fixture
def shop(open_web, stores, clock) -> Shop:
    return Shop(open_web, stores, clock)


@pytest.fixture
def job(shop) -> Job:
    """A job that runs, of the automation that answers when `production` is given away."""
    made(shop.web.post(f"{API}/projects/demo/artifacts", json={"name": "churn", "type": "model", "digest": "sha256:0"}))
    made(shop.web.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": ["production"]}))
    (event,) = made(shop.web.get(EVENTS, params={"kind": "alias-added", "limit": 1}))["items"]
    running: Job = shop.running(event_id=event["id"], version_reference="model/churn:v0")
    return running


@pytest.fixture
def token(house, job) -> str:
    return job_token.make(house.installation.key, job.id)


@pytest.fixture
def inside(open_web, token) -> Iterator[httpx.Client]:
    """What a program in the job's container asks with."""
    with httpx.Client(base_url=open_web.base_url, headers=bearing(token), timeout=20, trust_env=False) as client:
        yield client


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def api_routes() -> list[Any]:
    """All that the document lists; APIRoute, whose methods are never None."""
    return [
        route
        for router in _ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path.startswith(API) and route.include_in_schema
    ]


# --- as itself ------------------------------------------------------------------------------------


def test_a_job_changes_the_registry_as_itself(open_web, inside, job):
    """History and events name it, and its events carry what led to them."""
    made(inside.put(f"{CHURN}/aliases/evaluated", json={"version": "v0"}))

    entry = made(open_web.get(f"{CHURN}/history"))["items"][0]
    assert (entry["actor"], entry["action"]) == ("promote/evaluate", "add-alias")
    event = made(open_web.get(EVENTS, params={"kind": "alias-added"}))["items"][0]
    assert event["actor"] == {"name": "promote/evaluate", "kind": "job"}
    assert event["chain"] == [
        {"automation": "promote", "execution": job.execution, "event": job.event, "version": "model/churn:v0"}
    ]


CHANGES = [
    ("POST", f"{API}/registries/model/collections", {"name": "new", "artifact_type": "model"}),
    ("PATCH", CHURN, {"description": "x"}),
    ("PUT", f"{CHURN}/tags/t", None),
    ("DELETE", f"{CHURN}/tags/old", None),
    ("POST", f"{API}/registries/model/collections/other/versions", {"artifact": "demo/churn:v0"}),
    ("PATCH", f"{CHURN}/versions/v0", {"metadata": {"accuracy": 1}}),
    ("PUT", f"{CHURN}/versions/v0/tags/t", None),
    ("DELETE", f"{CHURN}/versions/v0/tags/seen", None),
    ("PUT", f"{CHURN}/aliases/a", {"version": "v0"}),
    ("DELETE", f"{CHURN}/aliases/production", None),
    ("DELETE", f"{CHURN}/versions/v0", None),
    ("DELETE", CHURN, None),
    ("POST", f"{API}/projects/demo/artifacts", {"name": "x", "type": "model", "digest": "sha256:1"}),
    ("PATCH", f"{API}/projects/demo/artifacts/churn/versions/v0", {"metadata": {"accuracy": 1}}),
    ("PUT", f"{API}/projects/demo/artifacts/churn/versions/v0/tags/t", None),
    ("DELETE", f"{API}/projects/demo/artifacts/churn/versions/v0/tags/seen", None),
    ("PUT", f"{API}/projects/demo/artifacts/churn/aliases/a", {"version": "v0"}),
    ("DELETE", f"{API}/projects/demo/artifacts/churn/aliases/latest", None),
    ("DELETE", f"{API}/projects/demo/artifacts/churn/versions/v0", None),
    ("POST", EVENTS, {"name": "n"}),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=[f"{c[0]} {c[1].removeprefix(API)}" for c in CHANGES])
@pytest.mark.parametrize("open_web", [None], indirect=True, ids=[""])
def test_every_change_carries_the_chain(open_web, inside, job, method, path, body):
    """There is no verb by which a job could hide what led to it."""
    made(open_web.put(f"{CHURN}/tags/old"))
    made(open_web.put(f"{CHURN}/versions/v0/tags/seen"))
    newest = made(open_web.get(EVENTS))["items"][0]["id"]

    answer = inside.request(method, path, json=body)

    assert answer.is_success, answer.text
    events = made(open_web.get(EVENTS, params={"after": newest}))["items"]
    assert events
    for event in events:
        assert event["actor"] == {"name": "promote/evaluate", "kind": "job"}
        assert [link["execution"] for link in event["chain"]] == [job.execution]


def test_the_changes_above_are_all_there_are():
    """A route that comes to be must be tried as well."""
    tried = {
        (method, route.path)
        for method, path, _ in CHANGES
        for route in api_routes()
        if method in route.methods and route.path_regex.match(path)
    }
    for_admins = ("PUT", f"{API}/registries/{{registry}}/protected-aliases")

    assert tried | {for_admins} == {
        (method, route.path)
        for route in api_routes()
        if route.path.startswith((f"{API}/registries", f"{API}/projects", EVENTS))
        for method in route.methods - {"GET"}
    }


def test_a_job_does_not_set_its_own_automation_off_again(house, open_web, inside, job):
    """Giving `production` again to the version that it is about would go round for ever; it is stopped, visibly."""
    made(inside.delete(f"{CHURN}/aliases/production"))
    made(inside.put(f"{CHURN}/aliases/production", json={"version": "v0"}))
    event = Event.from_dict(made(open_web.get(EVENTS, params={"kind": "alias-added"}))["items"][0])

    (match,) = house.automations.current.matcher.match(event)

    assert match.verdict is MatchResult.LOOP


def test_what_led_to_its_event_led_to_the_job(house, shop, open_web, inside, job):
    """A chain grows with every job, oldest first."""
    event = made(inside.post(EVENTS, json={"name": "evaluated"}))["id"]
    second = shop.running(event_id=event, automation="notify")
    token = job_token.make(house.installation.key, second.id)

    told = made(open_web.post(EVENTS, json={"name": "notified"}, headers=bearing(token)))

    assert [link["execution"] for link in told["chain"]] == [job.execution, second.execution]


def test_a_job_is_nobody_else(inside, open_web, job):
    """It cannot name whom it acts for, not even when it only looks."""
    for method, path in (("PUT", f"{CHURN}/aliases/a"), ("GET", CHURN)):
        form = problem(
            inside.request(method, path, json={"version": "v0"}, headers={"X-Upshot-Actor": "ada"}), 403, "forbidden"
        )
        assert "acts as itself" in form["detail"]
    assert made(open_web.get(CHURN))["aliases"] == {"latest": "v0", "production": "v0"}


def test_a_job_is_no_admin(inside, open_web, job):
    """Protected aliases stay where they are, and protected."""
    made(open_web.put(f"{API}/registries/model/protected-aliases", json={"patterns": ["prod*"]}))

    for method, path, body in (
        ("PUT", f"{CHURN}/aliases/production", {"version": "v0"}),
        ("DELETE", f"{CHURN}/aliases/production", None),
        ("DELETE", CHURN, None),
        ("PUT", f"{API}/registries/model/protected-aliases", {"patterns": []}),
    ):
        form = problem(inside.request(method, path, json=body), 403, "forbidden")
        assert "promote/evaluate is a member" in form["detail"]


# --- its scope ------------------------------------------------------------------------------------

OPEN_TO_JOBS = {
    *(f"{method} {API}/{path}" for method, path in (("POST", "events"), ("GET", "events/{event}"), ("GET", "history"))),
    *(f"GET {API}/jobs/{{job}}{rest}" for rest in ("", "/log", "/log.txt")),
}


@pytest.mark.parametrize(
    ("method", "path"), [(method, route.path) for route in api_routes() for method in sorted(route.methods)]
)
@pytest.mark.parametrize("open_web", [SERVER_TOKEN], indirect=True, ids=[""])
def test_a_job_asks_within_its_scope(inside, job, method, path):
    """Registry, projects, its own event and itself are open to it; of all the rest it hears 403."""
    is_open = f"{method} {path}" in OPEN_TO_JOBS or path.startswith((f"{API}/registries", f"{API}/projects"))
    own = {"event": job.event, "job": job.id, "registry": "model", "project": "demo"}

    answer = inside.request(method, re.sub(r"{(\w+)}", lambda name: own.get(name[1], "x"), path))

    if is_open:
        assert answer.status_code not in {401, 403}, answer.text
    else:
        assert "a job may" in problem(answer, 403, "forbidden")["detail"]


def test_a_job_looks_at_itself_alone(shop, inside, job):
    """Neither other jobs nor other events are its business, nor is stopping itself, nor what is not there."""
    other = shop.running(automation="other")
    assert made(inside.get(f"{API}/jobs/{job.id}"))["id"] == job.id
    assert made(inside.get(f"{API}/events/{job.event}"))["id"] == job.event

    for method, path in (
        ("GET", f"{API}/jobs/{other.id}"),
        ("GET", f"{API}/jobs/{other.id}/log"),
        ("GET", f"{API}/jobs/{job.id}0"),
        ("GET", f"{API}/jobs"),
        ("POST", f"{API}/jobs/{job.id}/cancel"),
        ("GET", f"{API}/events/{other.event}"),
        ("GET", f"{API}/executions/{job.execution}"),
        ("POST", f"{API}/executions/{job.execution}/cancel"),
        ("GET", "/metrics"),
        ("GET", f"{API}/nowhere"),
        ("GET", f"{API}/registriesx"),
        ("GET", f"{API}/registries/../jobs"),
        ("HEAD", CHURN),
    ):
        answer = inside.request(method, path)
        assert answer.status_code == 403, (method, path, answer.text)


def test_what_is_open_to_all_is_open_to_jobs(inside):
    """Health and the document."""
    for path in ("/healthz", "/readyz", f"{API}/openapi.json"):
        assert inside.get(path).status_code == 200


# --- when it is good ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", JobState)
def test_a_token_is_good_while_its_job_is_active(shop, inside, job, state):
    """Neither before it starts, nor between two tries, nor after its end."""
    changes: dict[str, Any] = {"due_at": shop.clock.now()} if state is JobState.QUEUED else {}
    if state.is_final:
        changes = {"finished_at": shop.clock.now()}
    shop.move(job, state, **changes)

    answer = inside.get(CHURN)

    if state.is_active:
        made(answer)
    else:
        form = problem(answer, 401, "unauthorized")
        assert f"job {job.id} is {state.value}" in form["detail"]
        assert "invalid_token" in answer.headers["www-authenticate"]


def test_a_token_of_no_job_is_refused(open_web, house, job):
    """Not even one that was made with the right key opens anything for a job that is not there."""
    token = job_token.make(house.installation.key, "job_0000000000000000000000000a")

    problem(open_web.get(CHURN, headers=bearing(token)), 401, "unauthorized")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda token: token[:-1], id="shorter"),
        pytest.param(lambda token: token + "0", id="longer"),
        pytest.param(lambda token: token[:-64] + "0" * 64, id="a guess"),
        pytest.param(lambda token: token.replace("job_0", "job_1"), id="another job's"),
        pytest.param(lambda token: job_token.make(bytes(32), token[4:-65]), id="another installation's"),
        pytest.param(lambda token: "upj_", id="the beginning alone"),
    ],
)
def test_a_wrong_token_of_a_job_is_refused(open_web, token, spoil):
    """Also by a server that asks for no token at all: whoever says to be a job must be it."""
    for method, path in (("GET", CHURN), ("POST", EVENTS), ("GET", "/metrics"), ("GET", f"{API}/nowhere")):
        answer = open_web.request(method, path, headers=bearing(spoil(token)))
        problem(answer, 401, "unauthorized")
        assert "invalid_token" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("open_web", [None], indirect=True, ids=[""])
def test_a_job_may_know_the_server_by_another_name(inside, job):
    """A container reaches a server on loopback by a name that the server does not know; its token says enough."""
    made(inside.get(CHURN, headers={"Host": "host.docker.internal:8080"}))
    del inside.headers["Authorization"]
    problem(inside.get(CHURN, headers={"Host": "host.docker.internal:8080"}), 403, "forbidden")


def test_the_servers_own_token_may_look_like_a_jobs(serve):
    """Whatever an operator has chosen is the server's."""
    with serve(token="upj_of_my_own") as client:
        made(client.get(EVENTS, headers=bearing("upj_of_my_own")))


# --- once, and quickly ----------------------------------------------------------------------------


def test_keys_of_jobs_meet_nobody_elses(shop, house, open_web, token, job):
    """The same key of a person, of a job and of another job names three requests; each is done once."""
    other = job_token.make(house.installation.key, shop.running(automation="other").id)
    key = {"Idempotency-Key": "k" * MAX_KEY_CHARS}

    ids = []
    for headers in ({}, bearing(token), bearing(other)):
        first, again = [
            made(open_web.post(EVENTS, json={"name": "done"}, headers={**headers, **key})) for _ in range(2)
        ]
        assert first["id"] == again["id"]
        ids.append(first["id"])

    assert len(set(ids)) == 3
    assert len(made(open_web.get(EVENTS, params={"name": "done"}))["items"]) == 3


def test_a_kept_key_of_a_job_fits_where_keys_are_kept(open_web, inside, stores, job, monkeypatch):
    """However long it came, it is kept as a word that the table has room for, and told apart from any that came."""
    kept = []
    reserve = stores.idempotency.reserve

    def noting(key: str, *rest: Any, **more: Any) -> Any:
        kept.append(key)
        return reserve(key, *rest, **more)

    monkeypatch.setattr(stores.idempotency, "reserve", noting)

    made(inside.post(EVENTS, json={"name": "done"}, headers={"Idempotency-Key": "k" * MAX_KEY_CHARS}))

    assert len(kept[0]) <= MAX_KEY_CHARS
    assert not kept[0].isprintable()


class Away:
    """Jobs in a database that does not answer."""

    def find(self, job_id: str) -> Job | None:
        raise Unavailable("away")


def test_others_are_not_slower_for_jobs_tokens(serve, house):
    """Who bears the server's token, or none where none is needed, has no job looked for."""
    for token in (None, SERVER_TOKEN):
        headers = bearing(token) if token else {}
        with serve(token=token, jobs=Away()) as client:
            made(client.get(EVENTS, headers=headers))
            made(client.post(EVENTS, json={"name": "n"}, headers=headers))


def test_a_job_is_told_when_the_database_is_away(serve, house):
    """It may try again: 503, as for everybody."""
    token = job_token.make(house.installation.key, "job_1")
    with serve(jobs=Away()) as client:
        answer = client.get(EVENTS, headers=bearing(token))

    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"]


# --- not to be seen -------------------------------------------------------------------------------


def test_tokens_and_keys_are_in_no_answer(house, shop, open_web, inside, token, job):
    """Neither of the job that asks, nor for those who look at jobs."""
    shop.say(job, "hello\n")
    key = house.installation.key
    for client in (open_web, inside):
        for path in (
            *(f"{API}/jobs/{job.id}{rest}" for rest in ("", "/log", "/log.txt")),
            *(f"{API}/jobs", f"{API}/executions/{job.execution}", f"{API}/events/{job.event}", f"{API}/workers"),
            *(f"{API}/openapi.json", "/metrics", "/readyz", f"{API}/nowhere"),
        ):
            text = client.get(path).text
            for secret in (token, token[-64:], key.hex()):
                assert secret not in text, path
