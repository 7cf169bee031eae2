"""Roles: what each role may do with each route of the application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.web.access_api import SERVER_TOKEN, bearer, make_token, with_token
from tests.web.conftest import API, CHURN, Serve, ok_json, problem
from upshot.domain.access import includes
from upshot.domain.event import Role
from upshot.web.app import create_app
from upshot.web.permissions import RULES, Reach
from upshot.web.routing import CheckedRoute

READS = frozenset({"GET", "HEAD"})
#: Changes that a viewer may make, because they change nothing that others see.
READS_BY_POST = {f"POST {API}/blobs/read", f"POST {API}/sign-in-codes", "POST /sign-out"}
NOT_FOR_MEMBERS = {
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


@pytest.fixture
def admin(serve: Serve) -> Iterator[httpx.Client]:
    """Return a client with the server's token."""
    with serve(token=SERVER_TOKEN) as client:
        client.headers.update(bearer(SERVER_TOKEN))
        yield client


@pytest.fixture
def routes(deps) -> list[tuple[str, str, Any]]:
    """Return method, template of the path and route of everything that the application serves."""
    return [
        (method, route.path_format, route)
        for route in create_app(deps).routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    ]


def test_every_route_has_a_rule(deps, routes):
    """Who adds a route decides who may use it, in `upshot.web.permissions`."""
    others = [route for route in create_app(deps).routes if not isinstance(route, APIRoute)]

    assert {getattr(route, "path", None) for route in others} == {f"{API}/openapi.json"}, "a route that checks no role"
    assert {f"{method} {path}" for method, path, _ in routes} | {f"GET {API}/openapi.json"} == set(RULES)


def test_every_route_that_needs_a_role_checks_it(routes):
    """A route of another class would be open to everybody."""
    unchecked = {f"{method} {path}" for method, path, route in routes if not isinstance(route, CheckedRoute)}

    assert all(RULES[route].role is None for route in unchecked)


@pytest.mark.parametrize("role", Role)
def test_each_role_may_use_its_routes_and_no_others(admin, routes, role):
    """What a role may not do is 403 and says who may; everything else gets past the check."""
    with with_token(admin, make_token(admin, "somebody", role)) as client:
        for method, path, route in routes:
            if not isinstance(route, CheckedRoute):
                continue
            least = RULES[f"{method} {path}"].role
            response = client.request(method, re.sub(r"{\w+}", "x", path))
            if least is None or includes(role, least):
                assert response.status_code not in {401, 403}, (method, path, response.text)
            else:
                detail = problem(response, 403, "forbidden")["detail"]
                assert f"somebody is a {role}" in detail
                assert "may do this" in detail


def test_viewers_change_nothing_and_members_do_not_administrate():
    """The rules agree with the definition of the roles."""
    for route, rule in RULES.items():
        method = route.partition(" ")[0]
        if rule.role is None:
            continue
        if method not in READS and route not in READS_BY_POST:
            assert not includes(Role.VIEWER, rule.role), route
        assert includes(Role.MEMBER, rule.role) == (route not in NOT_FOR_MEMBERS), route


@pytest.mark.parametrize("path", ["files", "files/{path}", "diff"], ids=["list of files", "file", "comparison"])
def test_a_restricted_viewer_sees_no_files(path):
    """Neither bytes nor names of files."""
    rule = RULES[f"GET {API}/projects/{{project}}/artifacts/{{artifact}}/versions/{{version}}/{path}"]
    assert rule.role is not None
    assert not includes(Role.RESTRICTED_VIEWER, rule.role)


def test_nobody_gets_in_without_a_token(admin, routes):
    """Every route that needs a role is 401 without a token."""
    with httpx.Client(base_url=admin.base_url, timeout=20, trust_env=False) as client:
        for method, path, _ in routes:
            if RULES[f"{method} {path}"].role is not None and path.startswith(API):
                problem(client.request(method, re.sub(r"{\w+}", "x", path)), 401, "unauthorized")


# --- protected aliases ----------------------------------------------------------------------------


@pytest.fixture
def churn(admin: httpx.Client) -> httpx.Client:
    """Return the admin, with `model/churn:v0`, whose protected alias is `production`."""
    artifact = {"name": "churn", "artifact_type": "model", "digest": "sha256:0"}
    ok_json(admin.post(f"{API}/projects/demo/artifacts", json=artifact))
    ok_json(admin.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v0", "aliases": ["production"]}))
    ok_json(admin.put(f"{API}/registries/model/protected-aliases", json={"patterns": ["prod*"]}))
    return admin


def test_a_protected_alias_is_moved_by_an_admin_only(churn):
    """A member may move other aliases, and the refused try is in the history with its reason."""
    with with_token(churn, make_token(churn, "bob", "member")) as bob:
        ok_json(bob.put(f"{CHURN}/aliases/candidate", json={"version": "v0"}))
        refused = problem(bob.delete(f"{CHURN}/aliases/production"), 403, "forbidden")
        problem(bob.put(f"{CHURN}/aliases/production-eu", json={"version": "v0"}), 403, "forbidden")
    with with_token(churn, make_token(churn, "ann", "admin")) as ann:
        ok_json(ann.put(f"{CHURN}/aliases/production-eu", json={"version": "v0"}))

    entries = ok_json(churn.get(f"{CHURN}/history"))["items"]
    assert [(entry["actor"], entry["action"]) for entry in entries[:4]] == [
        ("ann", "add-alias"),
        ("bob", "refused"),
        ("bob", "refused"),
        ("bob", "add-alias"),
    ]
    assert entries[2]["after"] == {
        "request": f"DELETE {API}/registries/{{registry}}/collections/{{collection}}/aliases/{{alias}}",
        "role": "member",
        "reason": refused["detail"],
    }
    assert entries[2]["subject"] == "model/churn/production"


def test_a_refused_try_is_logged_and_stored(churn, monkeypatch):
    """A read is logged only. A caller who tries again and again does not fill the history."""
    lines: list[dict[str, Any]] = []
    log = SimpleNamespace(warning=lambda event, **values: lines.append({"event": event, **values}))
    monkeypatch.setattr("upshot.web.refusals.log", log)
    monkeypatch.setattr("upshot.web.refusals.stopwatch", lambda: 0.0)
    with with_token(churn, make_token(churn, "eve", "viewer")) as eve:
        problem(eve.get(f"{API}/tokens"), 403, "forbidden")
        for _ in range(65):
            problem(eve.delete(CHURN), 403, "forbidden")

    entries = [entry for entry in ok_json(churn.get(f"{API}/history?limit=200"))["items"] if entry["actor"] == "eve"]
    assert len(entries) == 60
    assert {(entry["action"], entry["subject"], entry["after"]["role"]) for entry in entries} == {
        ("refused", "model/churn", "viewer")
    }
    assert len(lines) == 66
    assert lines[0] == {
        "event": "access.refused",
        "actor": "eve",
        "role": "viewer",
        "request": f"GET {API}/tokens",
        "reason": "only an admin may do this; eve is a viewer",
    }


# --- a token for one registry ---------------------------------------------------------------------


@pytest.fixture
def two_registries(churn: httpx.Client) -> httpx.Client:
    """Return the admin, with another registry and project whose run used the first one's artifact."""
    run = f"{API}/projects/secret/runs/r1"
    ok_json(churn.put(run, json={"job_type": "training"}))
    ok_json(churn.post(f"{run}/inputs", json={"artifact": "demo/churn:v0"}))
    artifact = {"name": "hidden", "artifact_type": "model", "digest": "sha256:1", "run_id": "r1"}
    ok_json(churn.post(f"{API}/projects/secret/artifacts", json=artifact))
    versions = f"{API}/registries/other/collections/c/versions"
    ok_json(churn.post(versions, json={"artifact": "secret/hidden:v0"}))
    ok_json(churn.post(versions, json={"artifact": "demo/churn:v0"}))
    return churn


@pytest.mark.parametrize("role", Role)
def test_a_token_for_one_registry_sees_nothing_of_others(two_registries, routes, role):
    """No answer has a name of another registry or of a project that is not linked into its own."""
    names = {"registry": "model", "collection": "churn", "project": "demo", "artifact": "churn", "version": "v0"}
    other = {"registry": "other", "collection": "c", "project": "secret", "artifact": "hidden", "run_id": "r1"}
    text = make_token(two_registries, "team", role, registry="model")
    with with_token(two_registries, text) as team:
        for method, path, _ in routes:
            if method != "GET" or RULES[f"GET {path}"].role is None:
                continue
            for values in (names, {**names, **other}):
                filled = path
                for name in re.findall(r"{(\w+)}", path):
                    filled = filled.replace(f"{{{name}}}", values.get(name, "x"))
                response = team.get(
                    filled,
                    params={"reference": "demo/churn:v0"} if path.endswith("lineage") else {},
                )
                if values is names or "{" not in path:
                    assert "secret" not in response.text, (path, response.text)
                    assert "other" not in response.text or "needs" in response.text, (path, response.text)
                elif {"{registry}", "{project}"} & set(re.findall(r"{\w+}", path)):
                    assert response.status_code == 403, (path, response.text)


def test_a_token_for_one_registry_reaches_its_registry_and_linked_projects(two_registries):
    """Lists have its own things, and what is not linked says how it can be."""
    with with_token(two_registries, make_token(two_registries, "team", "member", registry="model")) as team:
        assert [item["name"] for item in ok_json(team.get(f"{API}/registries"))["items"]] == ["model"]
        assert [item["name"] for item in ok_json(team.get(f"{API}/projects"))["items"]] == ["demo"]
        ok_json(team.get(CHURN))
        ok_json(team.put(f"{CHURN}/aliases/candidate", json={"version": "v0"}))
        artifact = {"name": "churn", "artifact_type": "model", "digest": "sha256:2"}
        ok_json(team.post(f"{API}/projects/demo/artifacts", json=artifact))
        ok_json(team.post(f"{CHURN}/versions", json={"artifact": "demo/churn:v1"}))
        lineage = ok_json(team.get(f"{API}/lineage", params={"reference": "model/churn:v0"}))
        assert [node["reference"] for node in lineage["nodes"]] == ["demo/churn:v0"]
        assert [link["registry"] for link in lineage["nodes"][0]["links"]] == ["model"]
        assert ok_json(team.get(f"{API}/projects/demo/artifacts/churn/versions/v0/runs"))["used_by"] == []
        assert ok_json(team.get(f"{API}/projects/model/artifacts/churn/versions/v0"))["project"] == "demo"

        for method, path, body in (
            ("POST", f"{CHURN}/versions", {"artifact": "secret/hidden:v0"}),
            ("POST", f"{CHURN}/versions", {"artifact": "other/c:v0"}),
            ("GET", f"{API}/lineage?reference=secret/hidden:v0", None),
            ("GET", f"{API}/projects/demo/artifacts/churn/versions/v0/diff?with=secret/hidden:v0", None),
            ("POST", f"{API}/projects/secret/artifacts", artifact),
            ("POST", f"{API}/projects/brand-new/artifacts", artifact),
        ):
            data = problem(team.request(method, path, json=body), 403, "forbidden")
            assert "linked into it" in data["detail"], path


def test_a_token_for_a_registry_does_not_open_the_project_of_that_name(two_registries):
    """A registry that does not exist has no links, so nothing is linked into it."""
    with with_token(two_registries, make_token(two_registries, "team", "admin", registry="secret")) as team:
        problem(team.get(f"{API}/projects/secret/artifacts/hidden"), 403, "forbidden")
        assert ok_json(team.get(f"{API}/projects"))["items"] == []


def test_only_some_routes_are_open_to_a_token_for_one_registry():
    """Executions, events and jobs have no registry, so such a token does not see them."""
    closed = {route for route, rule in RULES.items() if rule.reach is Reach.NONE and rule.role is not None}
    for path in ("events", "executions", "jobs", "automations", "workers", "destinations", "history", "tokens"):
        assert f"GET {API}/{path}" in closed
