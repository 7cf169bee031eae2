"""Job tokens: what a job may do, under which name, and for how long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.web.conftest import API, CHURN, Serve, UnavailableStore, ok_json, problem
from tests.web.jobs_api import JobsApiHarness
from upshot.automations.matcher import MatchResult
from upshot.domain import job_token
from upshot.domain.job import Job, JobState
from upshot.ids import JobId
from upshot.resources.event import event_from_json
from upshot.web.app import ROUTERS
from upshot.web.idempotency import MAX_KEY_CHARS

SERVER_TOKEN = "s3cret-token"
EVENTS = f"{API}/events"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture(params=[None, SERVER_TOKEN], ids=["server without a token", "server with a token"])
def admin(request, serve: Serve) -> Iterator[httpx.Client]:
    """Return a client that may do anything, of a server without a token and of one with a token."""
    with serve(token=request.param) as client:
        if request.param:
            client.headers["Authorization"] = f"Bearer {request.param}"
        yield client


@pytest.fixture
def jobs(admin, stores, clock) -> JobsApiHarness:
    return JobsApiHarness(admin, stores, clock)


@pytest.fixture
def job(jobs) -> Job:
    """Return a running job of the automation that answers when a version gets `production`."""
    artifact = {"name": "churn", "artifact_type": "model", "digest": "sha256:0"}
    ok_json(jobs.web.post(f"{API}/projects/demo/artifacts", json=artifact))
    ok_json(jobs.web.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": ["production"]}))
    (event,) = ok_json(jobs.web.get(EVENTS, params={"kind": "alias-added", "limit": 1}))["items"]
    running: Job = jobs.running(event_id=event["id"], version_reference="model/churn:v0")
    return running


@pytest.fixture
def token(deps, job) -> str:
    return job_token.make(deps.installation.key, job.id)


@pytest.fixture
def job_client(admin, token) -> Iterator[httpx.Client]:
    """Return the client of a program in the job's container."""
    with httpx.Client(base_url=admin.base_url, headers=bearer(token), timeout=20, trust_env=False) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def api_routes() -> list[Any]:
    """Return all documented routes of the API."""
    return [
        route
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and route.path.startswith(API) and route.include_in_schema
    ]


# --- acting as itself -----------------------------------------------------------------------------


def test_a_job_changes_the_registry_as_itself(admin, job_client, job):
    """History and events name the job, and its events carry the chain that led to it."""
    ok_json(job_client.put(f"{CHURN}/aliases/evaluated", json={"version": "v0"}))

    entry = ok_json(admin.get(f"{CHURN}/history"))["items"][0]
    assert (entry["actor"], entry["action"]) == ("promote/evaluate", "add-alias")
    event = ok_json(admin.get(EVENTS, params={"kind": "alias-added"}))["items"][0]
    assert event["actor"] == {"name": "promote/evaluate", "kind": "job"}
    assert event["chain"] == [
        {
            "automation": "promote",
            "execution_id": job.execution_id,
            "event_id": job.event_id,
            "version": "model/churn:v0",
        }
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
    ("PUT", f"{CHURN}/versions/v0/stage", {"stage": "staging"}),
    ("PUT", f"{CHURN}/aliases/a", {"version": "v0"}),
    ("DELETE", f"{CHURN}/aliases/production", None),
    ("DELETE", f"{CHURN}/versions/v0", None),
    ("POST", f"{API}/projects/demo/artifacts", {"name": "x", "artifact_type": "model", "digest": "sha256:1"}),
    ("PATCH", f"{API}/projects/demo/artifacts/churn/versions/v0", {"metadata": {"accuracy": 1}}),
    ("PUT", f"{API}/projects/demo/artifacts/churn/versions/v0/tags/t", None),
    ("DELETE", f"{API}/projects/demo/artifacts/churn/versions/v0/tags/seen", None),
    ("PUT", f"{API}/projects/demo/artifacts/churn/aliases/a", {"version": "v0"}),
    ("DELETE", f"{API}/projects/demo/artifacts/churn/aliases/latest", None),
    ("POST", EVENTS, {"name": "n"}),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=[f"{c[0]} {c[1].removeprefix(API)}" for c in CHANGES])
@pytest.mark.parametrize("admin", [None], indirect=True, ids=[""])
def test_every_change_of_a_job_carries_the_chain(admin, job_client, job, method, path, body):
    """A job cannot make a change that hides what led to it."""
    ok_json(admin.put(f"{CHURN}/tags/old"))
    ok_json(admin.put(f"{CHURN}/versions/v0/tags/seen"))
    newest = ok_json(admin.get(EVENTS))["items"][0]["id"]

    response = job_client.request(method, path, json=body)

    assert response.is_success, response.text
    events = ok_json(admin.get(EVENTS, params={"after": newest}))["items"]
    assert events
    for event in events:
        assert event["actor"] == {"name": "promote/evaluate", "kind": "job"}
        assert [cause["execution_id"] for cause in event["chain"]] == [job.execution_id]


def test_the_list_of_changes_is_complete():
    """A new route that changes something must be added to `CHANGES`."""
    tested = {
        (method, route.path)
        for method, path, _ in CHANGES
        for route in api_routes()
        if method in route.methods and route.path_regex.match(path)
    }
    only_for_admins = {
        ("PUT", f"{API}/registries/{{registry}}/protected-aliases"),
        ("PATCH", f"{API}/projects/{{project}}"),
        ("POST", f"{API}/projects/{{project}}/pending-versions"),  # makes no event; its commit does
        ("PATCH", f"{API}/projects/{{project}}/artifacts/{{artifact}}"),
        ("DELETE", f"{API}/projects/{{project}}/artifacts/{{artifact}}/versions/{{version}}"),
        ("DELETE", f"{API}/registries/{{registry}}/collections/{{collection}}"),
    }
    run = f"{API}/projects/{{project}}/runs/{{run_id}}"
    posts = ("finish", "files", "heartbeat", "inputs", "log", "stop")
    without_events = {
        ("PUT", run),
        ("DELETE", run),  # only for admins
        *((method, f"{run}/tags/{{tag}}") for method in ("PUT", "DELETE")),
        *(("POST", f"{run}/{part}") for part in posts),
    }

    assert tested | only_for_admins | without_events == {
        (method, route.path)
        for route in api_routes()
        if route.path.startswith((f"{API}/registries", f"{API}/projects", EVENTS))
        for method in route.methods - {"GET"}
    }


def test_a_job_records_a_run_with_inputs_and_outputs(job_client):
    """A program in the container may use the SDK, and read the lineage."""
    run = f"{API}/projects/demo/runs/job00001"
    ok_json(job_client.put(run, json={"job_type": "evaluation"}))
    ok_json(job_client.post(f"{run}/inputs", json={"artifact": "model/churn:production"}))
    body = {"name": "small", "artifact_type": "model", "digest": "sha256:1", "run_id": "job00001"}
    ok_json(job_client.post(f"{API}/projects/demo/artifacts", json=body))
    ok_json(job_client.post(f"{run}/finish", json={"exit_code": 0}))
    found = ok_json(job_client.get(f"{API}/lineage", params={"reference": "demo/small"}))
    assert {node["reference"] for node in found["nodes"]} == {"demo/small:v0", "demo/job00001", "demo/churn:v0"}


def test_a_job_does_not_trigger_its_own_automation(deps, admin, job_client, job):
    """A job that gives `production` to its own version again would cause an endless loop, so the matcher refuses it."""
    ok_json(job_client.delete(f"{CHURN}/aliases/production"))
    ok_json(job_client.put(f"{CHURN}/aliases/production", json={"version": "v0"}))
    event = event_from_json(ok_json(admin.get(EVENTS, params={"kind": "alias-added"}))["items"][0])

    (match,) = deps.automations.current.matcher.match(event)

    assert match.result is MatchResult.LOOP


def test_the_chain_of_its_event_is_part_of_a_jobs_chain(deps, jobs, admin, job_client, job):
    """The chain grows with every job, oldest execution first."""
    event_id = ok_json(job_client.post(EVENTS, json={"name": "evaluated"}))["id"]
    second = jobs.running(event_id=event_id, automation="notify")
    token = job_token.make(deps.installation.key, second.id)

    event = ok_json(admin.post(EVENTS, json={"name": "notified"}, headers=bearer(token)))

    assert [cause["execution_id"] for cause in event["chain"]] == [job.execution_id, second.execution_id]


def test_a_job_cannot_act_for_somebody_else(job_client, admin, job):
    """The header that names an actor is refused, on reading too."""
    for method, path in (("PUT", f"{CHURN}/aliases/a"), ("GET", CHURN)):
        response = job_client.request(method, path, json={"version": "v0"}, headers={"X-Upshot-Actor": "ada"})
        assert "acts as itself" in problem(response, 403, "forbidden")["detail"]
    assert ok_json(admin.get(CHURN))["aliases"] == {"latest": "v0", "production": "v0"}


def test_a_job_is_not_an_admin(job_client, admin, job):
    """A job can neither move protected aliases nor change which aliases are protected."""
    ok_json(admin.put(f"{API}/registries/model/protected-aliases", json={"patterns": ["prod*"]}))

    for method, path, body in (
        ("PUT", f"{CHURN}/aliases/production", {"version": "v0"}),
        ("DELETE", f"{CHURN}/aliases/production", None),
        ("DELETE", CHURN, None),
        ("PUT", f"{API}/registries/model/protected-aliases", {"patterns": []}),
    ):
        data = problem(job_client.request(method, path, json=body), 403, "forbidden")
        assert "promote/evaluate is a member" in data["detail"]


# --- its scope ------------------------------------------------------------------------------------

OPEN_PATHS = tuple(
    f"{API}/{name}" for name in ("registries", "projects", "pending-versions", "blobs", "blob-uploads", "comments")
)
OPEN_TO_JOBS = {
    f"POST {API}/events",
    f"GET {API}/events/{{event_id}}",
    f"GET {API}/history",
    f"GET {API}/lineage",
    f"GET {API}/history/export",
    f"GET {API}/jobs/{{job_id}}",
    f"GET {API}/jobs/{{job_id}}/log",
    f"GET {API}/jobs/{{job_id}}/log.txt",
}


ONLY_FOR_ADMINS = {
    f"PUT {API}/registries/{{registry}}/protected-aliases",
    f"DELETE {API}/registries/{{registry}}/collections/{{collection}}",
    f"PATCH {API}/projects/{{project}}",
    f"PATCH {API}/projects/{{project}}/artifacts/{{artifact}}",
    f"DELETE {API}/projects/{{project}}/artifacts/{{artifact}}/versions/{{version}}",
    f"DELETE {API}/projects/{{project}}/runs/{{run_id}}",
    f"POST {API}/destinations/{{destination_id}}/release",
    f"GET {API}/tokens",
    f"POST {API}/tokens",
    f"DELETE {API}/tokens/{{token}}",
}


@pytest.mark.parametrize(
    ("method", "path"), [(method, route.path) for route in api_routes() for method in sorted(route.methods)]
)
@pytest.mark.parametrize("admin", [SERVER_TOKEN], indirect=True, ids=[""])
def test_a_job_has_access_within_its_scope(job_client, job, method, path):
    """A job may use the registry, projects, its own event and itself, as a member. Everything else is 403."""
    is_for_admins = f"{method} {path}" in ONLY_FOR_ADMINS
    is_open = not is_for_admins and (f"{method} {path}" in OPEN_TO_JOBS or path.startswith(OPEN_PATHS))
    own = {"event_id": job.event_id, "job_id": job.id, "registry": "model", "project": "demo"}

    response = job_client.request(method, re.sub(r"{(\w+)}", lambda name: own.get(name[1], "x"), path))

    if is_open:
        assert response.status_code not in {401, 403}, response.text
    else:
        reason = "only an admin may" if is_for_admins else "a job may"
        assert reason in problem(response, 403, "forbidden")["detail"]


def test_a_job_sees_only_itself_and_its_own_event(jobs, job_client, job):
    """Other jobs and other events are 403, known or unknown, and so is stopping itself."""
    other = jobs.running(automation="other")
    assert ok_json(job_client.get(f"{API}/jobs/{job.id}"))["id"] == job.id
    assert ok_json(job_client.get(f"{API}/events/{job.event_id}"))["id"] == job.event_id

    for method, path in (
        ("GET", f"{API}/jobs/{other.id}"),
        ("GET", f"{API}/jobs/{other.id}/log"),
        ("GET", f"{API}/jobs/{job.id}0"),
        ("GET", f"{API}/jobs"),
        ("POST", f"{API}/jobs/{job.id}/cancel"),
        ("GET", f"{API}/events/{other.event_id}"),
        ("GET", f"{API}/executions/{job.execution_id}"),
        ("POST", f"{API}/executions/{job.execution_id}/cancel"),
        ("GET", "/metrics"),
        ("GET", f"{API}/registries/../jobs"),
    ):
        response = job_client.request(method, path)
        assert response.status_code == 403, (method, path, response.text)
    assert job_client.get(f"{API}/nowhere").status_code == 404
    assert job_client.head(CHURN).status_code == 405


def test_public_paths_are_open_to_jobs(job_client):
    """Health and the OpenAPI document need no scope."""
    for path in ("/healthz", "/readyz", f"{API}/openapi.json"):
        assert job_client.get(path).status_code == 200


# --- when it is valid -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", JobState)
def test_a_token_is_valid_while_its_job_is_active(jobs, job_client, job, state):
    """It is invalid before the job starts, between two attempts, and after the end."""
    changes: dict[str, Any] = {"due_at": jobs.clock.now()} if state is JobState.QUEUED else {}
    if state.is_final:
        changes = {"finished_at": jobs.clock.now()}
    jobs.record(job, state, **changes)

    response = job_client.get(CHURN)

    if state.is_active:
        ok_json(response)
    else:
        data = problem(response, 401, "unauthorized")
        assert f"job {job.id} is {state.value}" in data["detail"]
        assert "invalid_token" in response.headers["www-authenticate"]


def test_a_token_of_an_unknown_job_is_refused(admin, deps, job):
    """A token that the right key signed is invalid if its job does not exist."""
    token = job_token.make(deps.installation.key, JobId("job_0000000000000000000000000a"))

    problem(admin.get(CHURN, headers=bearer(token)), 401, "unauthorized")


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda token: token[:-1], id="shorter"),
        pytest.param(lambda token: token + "0", id="longer"),
        pytest.param(lambda token: token[:-64] + "0" * 64, id="a guess"),
        pytest.param(lambda token: token.replace("job_0", "job_1"), id="another job's"),
        pytest.param(lambda token: job_token.make(bytes(32), token[4:-65]), id="another installation's"),
        pytest.param(lambda token: "upj_", id="only the prefix"),
    ],
)
def test_an_invalid_job_token_is_refused(admin, token, spoil):
    """A server without a token refuses it too: a caller that claims to be a job must prove it."""
    for method, path in (("GET", CHURN), ("POST", EVENTS), ("GET", "/metrics"), ("GET", f"{API}/nowhere")):
        response = admin.request(method, path, headers=bearer(spoil(token)))
        problem(response, 401, "unauthorized")
        assert "invalid_token" in response.headers["www-authenticate"]


@pytest.mark.parametrize("admin", [None], indirect=True, ids=[""])
def test_a_job_may_reach_the_server_under_any_name(job_client, job):
    """A container reaches a server on loopback under a name that the server does not know; the token is enough."""
    ok_json(job_client.get(CHURN, headers={"Host": "host.docker.internal:8080"}))
    del job_client.headers["Authorization"]
    problem(job_client.get(CHURN, headers={"Host": "host.docker.internal:8080"}), 403, "forbidden")


def test_the_servers_token_may_look_like_a_job_token(serve):
    """The operator's own token always works."""
    with serve(token="upj_of_my_own") as client:
        ok_json(client.get(EVENTS, headers=bearer("upj_of_my_own")))


# --- idempotency and the database -----------------------------------------------------------------


def test_idempotency_keys_of_jobs_are_separate(jobs, deps, admin, token, job):
    """The same key of a person, of a job and of another job names three requests, and each is made once."""
    other = job_token.make(deps.installation.key, jobs.running(automation="other").id)
    key = {"Idempotency-Key": "k" * MAX_KEY_CHARS}

    event_ids = []
    for headers in ({}, bearer(token), bearer(other)):
        first, again = [
            ok_json(admin.post(EVENTS, json={"name": "done"}, headers={**headers, **key})) for _ in range(2)
        ]
        assert first["id"] == again["id"]
        event_ids.append(first["id"])

    assert len(set(event_ids)) == 3
    assert len(ok_json(admin.get(EVENTS, params={"name": "done"}))["items"]) == 3


def test_the_stored_key_of_a_job_fits_into_the_store(job_client, stores, job, monkeypatch):
    """The longest key of a job is stored in the length that the table allows, and contains a line break."""
    stored = []
    reserve = stores.idempotency.reserve

    def record_and_reserve(key: str, *args: Any, **kwargs: Any) -> Any:
        stored.append(key)
        return reserve(key, *args, **kwargs)

    monkeypatch.setattr(stores.idempotency, "reserve", record_and_reserve)

    ok_json(job_client.post(EVENTS, json={"name": "done"}, headers={"Idempotency-Key": "k" * MAX_KEY_CHARS}))

    assert len(stored[0]) <= MAX_KEY_CHARS
    assert not stored[0].isprintable()


def test_requests_without_a_job_token_look_up_no_job(serve):
    """Job tokens cost other requests no query."""
    for token in (None, SERVER_TOKEN):
        headers = bearer(token) if token else {}
        with serve(token=token, jobs=UnavailableStore()) as client:
            ok_json(client.get(EVENTS, headers=headers))
            ok_json(client.post(EVENTS, json={"name": "n"}, headers=headers))


def test_a_job_gets_503_if_the_database_does_not_answer(serve, deps):
    """The job may try again, as any other client."""
    token = job_token.make(deps.installation.key, JobId("job_1"))
    with serve(jobs=UnavailableStore()) as client:
        response = client.get(EVENTS, headers=bearer(token))

    problem(response, 503, "unavailable")
    assert response.headers["retry-after"]


# --- secrecy --------------------------------------------------------------------------------------


def test_no_response_contains_a_token_or_the_key(deps, jobs, admin, job_client, token, job):
    """Neither the job itself nor an admin sees them."""
    jobs.append_log(job, "hello\n")
    key = deps.installation.key
    for client in (admin, job_client):
        for path in (
            f"{API}/jobs/{job.id}",
            f"{API}/jobs/{job.id}/log",
            f"{API}/jobs/{job.id}/log.txt",
            f"{API}/jobs",
            f"{API}/executions/{job.execution_id}",
            f"{API}/events/{job.event_id}",
            f"{API}/workers",
            f"{API}/openapi.json",
            f"{API}/nowhere",
            "/metrics",
            "/readyz",
        ):
            text = client.get(path).text
            for secret in (token, token[-64:], key.hex()):
                assert secret not in text, path
