"""Authentication: who may call the server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from starlette.datastructures import Headers

from tests.web.conftest import API, ok_json, problem
from upshot.errors import ConfigError
from upshot.settings import Settings
from upshot.web.app import create_app
from upshot.web.auth import TokenAuth, check_exposure
from upshot.web.problems import Problem

TOKEN = "s3cret-token-of-this-server"
EVENTS = f"{API}/events"


def test_the_right_token_gives_access(serve):
    """The scheme `Bearer` may be written in any case."""
    with serve(token=TOKEN) as client:
        for scheme in ("Bearer", "bearer"):
            ok_json(client.get(EVENTS, headers={"Authorization": f"{scheme} {TOKEN}"}))


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("Bearer", id="only the scheme"),
        pytest.param("Bearer wrong", id="wrong"),
        pytest.param(f"Bearer {TOKEN}x", id="longer"),
        pytest.param(f"Bearer {TOKEN[:-1]}", id="shorter"),
        pytest.param(f"Basic {TOKEN}", id="another scheme"),
        pytest.param(TOKEN, id="no scheme"),
        pytest.param("Bearer é".encode(), id="not ASCII"),
    ],
)
def test_a_request_without_the_right_token_is_401(serve, authorization):
    """The token is checked before anything else, on known and unknown routes."""
    headers = {} if authorization is None else {"Authorization": authorization}
    with serve(token=TOKEN) as client:
        for method, path in (("GET", EVENTS), ("POST", EVENTS), ("GET", f"{API}/nowhere"), ("DELETE", f"{API}/a%2Fb")):
            response = client.request(method, path, headers=headers)
            problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_health_and_the_document_need_no_token(serve):
    """Probes send no token, and neither does a browser that shows the documentation."""
    with serve(token=TOKEN) as client:
        for path in ("/healthz", "/readyz", f"{API}/openapi.json", f"{API}/docs"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("0.0.0.0", 401)], ids=["loopback", "beyond"])
def test_metrics_need_no_token_on_loopback(serve, host, status):
    """A server that listens beyond loopback requires the token for metrics."""
    with serve(token=TOKEN, host=host) as client:
        assert client.get("/metrics").status_code == status
        assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(("local_address", "is_open"), [("127.0.0.1", True), ("::1", True), ("172.17.0.1", False)])
def test_containers_need_the_token_for_metrics(local_address, is_open):
    """A server that listens on loopback and for containers tells the two apart."""
    auth = TokenAuth(Settings(host="127.0.0.1", token=TOKEN), bytes(32))

    if is_open:
        auth.check("GET", "/metrics", Headers({"host": "localhost"}), local_address)
    else:
        with pytest.raises(Problem, match="no token"):
            auth.check("GET", "/metrics", Headers({"host": "localhost"}), local_address)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "upshot.internal"])
@pytest.mark.parametrize("token", [None, ""], ids=["none", "empty"])
def test_a_server_beyond_loopback_needs_a_token(deps, host, token):
    """The settings are refused, and no application is created."""
    settings = Settings(host=host, token=token)

    with pytest.raises(ConfigError, match="UPSHOT_TOKEN"):
        check_exposure(settings)
    with pytest.raises(ConfigError, match="UPSHOT_TOKEN"):
        create_app(replace(deps, settings=settings))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_server_on_loopback_needs_no_token(host):
    """Only this machine can reach it."""
    check_exposure(Settings(host=host))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[", "169.254.1.1"]
)
def test_a_server_without_a_token_refuses_another_host(web, host):
    """A name that an attacker points to loopback gets nothing (DNS rebinding)."""
    problem(web.get(EVENTS, headers={"Host": host}), 403, "forbidden")
    problem(web.post(EVENTS, json={"name": "x"}, headers={"Host": host}), 403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"])
def test_a_server_without_a_token_accepts_names_of_this_machine(web, host):
    """The port does not matter, because a tunnel may change it."""
    ok_json(web.get(EVENTS, headers={"Host": host}))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "https://[", ""])
def test_a_server_without_a_token_refuses_pages_of_other_origins(web, origin):
    """A browser sends the origin of the page, and another port is another origin."""
    problem(web.post(EVENTS, json={"name": "x"}, headers={"Origin": origin}), 403, "forbidden")


def test_a_server_without_a_token_accepts_its_own_pages(web):
    """Their origin is the host of the request."""
    headers = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}

    assert web.post(EVENTS, json={"name": "x"}, headers=headers).status_code == 201


def test_the_host_of_the_public_url_is_accepted(serve):
    """A proxy on this machine may pass requests on under the public name."""
    with serve(public_url="https://Upshot.example/x") as client:
        ok_json(client.get(EVENTS, headers={"Host": "upshot.example"}))


OPEN_PATHS = ("/metrics", f"{API}/openapi.json", f"{API}/docs", "/nowhere")


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_an_answer_that_needs_no_token_needs_a_name_of_this_server(serve, path):
    """A name that an attacker points to the server reads nothing (DNS rebinding), even if a token is set."""
    with serve(token=TOKEN) as client:
        problem(client.get(path, headers={"Host": "evil.example"}), 403, "forbidden")
        assert client.get(path).status_code != 403
        assert client.get(path, headers={"Host": "evil.example", "Authorization": f"Bearer {TOKEN}"}).status_code != 403


@pytest.mark.parametrize("token", [None, TOKEN], ids=["without a token", "with a token"])
def test_probes_may_use_any_host(serve, token):
    """A load balancer asks for an address, and Kubernetes for the address of the pod."""
    with serve(token=token) as client:
        for path in ("/healthz", "/readyz"):
            assert client.get(path, headers={"Host": "10.2.3.4:8080"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("upshot.example", True),
        ("UPSHOT.example.:443", True),
        ("jobs.internal:9000", True),
        ("other.internal", True),
        ("a.b.example.org", True),
        ("127.9.9.9", True),
        ("[fd00::1]:8080", True),
        ("example.org", False),
        ("evilexample.org", False),
        ("upshot.example.evil.org", False),
        ("evil.org#upshot.example", False),
        ("upshot.example@evil.org", False),
        ("evil.org@upshot.example", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_the_settings_name_the_hosts_of_the_server(serve, host, is_allowed):
    """They are the hosts of the public URL, the jobs URL and `UPSHOT_ALLOWED_HOSTS`, and loopback."""
    settings = {
        "token": TOKEN,
        "host": "0.0.0.0",
        "public_url": "https://upshot.example",
        "jobs_url": "http://jobs.internal:9000",
        "allowed_hosts": "other.internal, *.example.org,[fd00::1]",
    }
    with serve(**settings) as client:
        assert client.get(f"{API}/openapi.json", headers={"Host": host}).is_success == is_allowed


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_a_request_has_one_host(hosts):
    """A request with two hosts is refused, because a proxy may read one and the server the other."""
    auth = TokenAuth(Settings(host="127.0.0.1", token=TOKEN), bytes(32))
    headers = Headers(raw=[(b"host", host.encode()) for host in hosts])

    with pytest.raises(Problem, match=r"header\.host"):
        auth.check("GET", "/metrics", headers, "127.0.0.1")


@pytest.mark.parametrize("token", [None, TOKEN], ids=["without a token", "with a token"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
    ids=["new browser", "forged origin", "old browser", "no origin"],
)
def test_pages_of_other_sites_change_nothing(serve, token, headers):
    """A proxy in front of the server may add the token, so it proves nothing about the page."""
    with serve(token=token) as client:
        headers = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        for method, path in (("POST", EVENTS), ("POST", f"{API}/executions/exe_1/cancel"), ("DELETE", f"{API}/x")):
            problem(client.request(method, path, headers=headers), 403, "forbidden")


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_own_pages_and_programs_may_change_things(serve, site):
    """The browser's headers identify requests of the server's own pages and addresses that a person typed."""
    with serve(token=TOKEN) as client:
        headers = {"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": site}
        assert client.post(EVENTS, json={"name": "x"}, headers=headers).status_code == 201


def test_a_page_of_another_site_may_link_to_the_documentation(serve):
    """Following a link changes nothing."""
    with serve(token=TOKEN) as client:
        assert client.get(f"{API}/docs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_browsers_do_not_guess_the_type_of_an_answer(serve):
    """Every answer says `nosniff`, errors included."""
    with serve(token=TOKEN) as client:
        for path in ("/healthz", EVENTS, "/nowhere", f"{API}/docs", "/metrics"):
            assert client.get(path).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_an_html_form_can_send_is_refused(web, media_type):
    """A page can send these types to another origin without a preflight, so they never count as JSON."""
    headers = {"Content-Type": media_type} if media_type else {}
    response = web.post(EVENTS, content=b'{"name": "x"}', headers=headers)

    problem(response, 415, "unsupported-media-type")
