"""Who may come in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from starlette.datastructures import Headers

from tests.web.conftest import API, made, problem
from upshot.errors import ConfigError
from upshot.settings import Settings
from upshot.web.app import create_app
from upshot.web.auth import TokenAuth, check_exposure
from upshot.web.problems import Problem

TOKEN = "s3cret-token"
EVENTS = f"{API}/events"


def test_the_right_token_opens_the_api(serve):
    """As a Bearer, the scheme in any case."""
    with serve(token=TOKEN) as client:
        for scheme in ("Bearer", "bearer"):
            made(client.get(EVENTS, headers={"Authorization": f"{scheme} {TOKEN}"}))


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("Bearer", id="scheme alone"),
        pytest.param("Bearer wrong", id="wrong"),
        pytest.param(f"Bearer {TOKEN}x", id="longer"),
        pytest.param(f"Bearer {TOKEN[:-1]}", id="shorter"),
        pytest.param(f"Basic {TOKEN}", id="another scheme"),
        pytest.param(TOKEN, id="no scheme"),
        pytest.param("Bearer é".encode(), id="not ASCII"),
    ],
)
def test_without_the_right_token_there_is_401(serve, authorization):
    """On reading and changing, known and unknown routes alike, before anything else is looked at."""
    headers = {} if authorization is None else {"Authorization": authorization}
    with serve(token=TOKEN) as client:
        for method, path in (("GET", EVENTS), ("POST", EVENTS), ("GET", f"{API}/nowhere"), ("DELETE", f"{API}/a%2Fb")):
            response = client.request(method, path, headers=headers)
            problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_health_and_the_document_need_no_token(serve):
    """Probes bear none, nor does a browser that shows the documentation."""
    with serve(token=TOKEN) as client:
        for path in ("/healthz", "/readyz", f"{API}/openapi.json", f"{API}/docs"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("0.0.0.0", 401)], ids=["loopback", "beyond"])
def test_metrics_are_open_on_loopback_alone(serve, host, status):
    """Beyond, they need the token."""
    with serve(token=TOKEN, host=host) as client:
        assert client.get("/metrics").status_code == status
        assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(("reached_at", "is_open"), [("127.0.0.1", True), ("::1", True), ("172.17.0.1", False)])
def test_containers_of_this_machine_need_the_token_for_metrics(reached_at, is_open):
    """A server on loopback that listens for containers as well tells the two apart."""
    access = TokenAuth(Settings(host="127.0.0.1", token=TOKEN), bytes(32))

    def ask() -> None:
        access.check("/metrics", Headers({}), reached_at)

    if is_open:
        ask()
    else:
        with pytest.raises(Problem, match="no token"):
            ask()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "upshot.internal"])
@pytest.mark.parametrize("token", [None, ""], ids=["none", "empty"])
def test_beyond_loopback_a_token_is_needed(house, host, token):
    """The settings are refused, and no application can be made of them."""
    settings = Settings(host=host, token=token)

    with pytest.raises(ConfigError, match="UPSHOT_TOKEN"):
        check_exposure(settings)
    with pytest.raises(ConfigError, match="UPSHOT_TOKEN"):
        create_app(replace(house, settings=settings))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_no_token_is_needed(host):
    """Only this machine can reach it."""
    check_exposure(Settings(host=host))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[", "169.254.1.1"]
)
def test_without_a_token_a_foreign_host_is_refused(web, host):
    """A name that an attacker lets point to loopback gets nothing (DNS rebinding)."""
    problem(web.get(EVENTS, headers={"Host": host}), 403, "forbidden")
    problem(web.post(EVENTS, json={"name": "x"}, headers={"Host": host}), 403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"])
def test_without_a_token_names_of_this_machine_are_welcome(web, host):
    """With any port: a tunnel may change it."""
    made(web.get(EVENTS, headers={"Host": host}))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "https://[", ""])
def test_without_a_token_a_page_of_elsewhere_is_refused(web, origin):
    """A browser says where the page came from; another port is another origin."""
    problem(web.post(EVENTS, json={"name": "x"}, headers={"Origin": origin}), 403, "forbidden")


def test_without_a_token_our_own_page_may_ask(web):
    """The origin is the host that is asked."""
    headers = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}

    assert web.post(EVENTS, json={"name": "x"}, headers=headers).status_code == 201


def test_the_public_address_is_a_name_of_ours(serve):
    """A proxy on this machine may hand requests over under the public name."""
    with serve(public_url="https://Upshot.example/x") as client:
        made(client.get(EVENTS, headers={"Host": "upshot.example"}))


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_a_page_is_no_request(web, kind):
    """What a page can send without asking first is never JSON to us."""
    response = web.post(EVENTS, content=b'{"name": "x"}', headers={"Content-Type": kind} if kind else {})

    problem(response, 415, "unsupported-media-type")
