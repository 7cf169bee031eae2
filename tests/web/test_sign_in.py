"""Sign in to the pages: with a token or a code, for a session that ends; and what protects forms."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.web.access_api import SERVER_TOKEN, TOKENS, bearer, make_token, with_token
from tests.web.conftest import API, Serve, UnavailableStore, ok_json, problem
from upshot.domain.access import CODE_SECONDS, SESSION_HOURS, digest_of
from upshot.web.failed_attempts import MAX_FAILURES
from upshot.web.pages.page_route import local_path
from upshot.web.pages.rendering import CONTENT_SECURITY_POLICY, static_content, static_url

CODES = f"{API}/sign-in-codes"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


@pytest.fixture
def admin(serve: Serve) -> Iterator[httpx.Client]:
    """Return a program with the server's token."""
    with serve(token=SERVER_TOKEN) as client:
        client.headers.update(bearer(SERVER_TOKEN))
        yield client


@pytest.fixture
def browser(admin: httpx.Client) -> Iterator[httpx.Client]:
    """Return a browser that has not signed in."""
    with httpx.Client(base_url=admin.base_url, timeout=20, trust_env=False) as client:
        yield client


def form_token(page: httpx.Response) -> str:
    found = re.search(r'name="form_token" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def sign_in(browser: httpx.Client, token: str, **fields: str) -> httpx.Response:
    """Load the sign-in page, and send its form."""
    page = browser.get("/sign-in", params={"next": fields["next"]} if "next" in fields else {})
    return browser.post("/sign-in", data={"form_token": form_token(page), "token": token, **fields})


def is_signed_in(browser: httpx.Client) -> bool:
    """Return whether the home page is shown."""
    response = browser.get("/")
    assert response.status_code in {200, 303}
    return response.status_code == 200


# --- in and out -----------------------------------------------------------------------------------


def test_who_has_not_signed_in_is_led_to_the_form_and_back(browser):
    """After signing in, the page that was asked for is shown."""
    response = browser.get("/", params={"a": "1 2"})
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in?next=/%3Fa%3D1%2B2")

    response = sign_in(browser, SERVER_TOKEN, next="/?a=1+2")

    assert (response.status_code, response.headers["location"]) == (303, "/?a=1+2")
    assert is_signed_in(browser)
    assert browser.get("/sign-in").headers["location"] == "/"


def test_the_session_is_a_cookie_that_scripts_cannot_read(admin, browser, stores, clock):
    """It is valid for 12 hours, and the database has only its hash. Under https it is not sent in the clear."""
    cookie = sign_in(browser, make_token(admin, "ann", "viewer")).headers["set-cookie"]

    assert {"HttpOnly", "SameSite=lax", "Path=/", f"Max-Age={SESSION_HOURS * 3600}"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert "ann" in browser.get("/").text
    text = re.match(r"upshot_session_\w+=([^;]+)", cookie)[1]
    assert stores.sessions.find(digest_of(text), clock.now()) is not None
    assert stores.sessions.find(text, clock.now()) is None


def test_under_https_cookies_are_secure(serve):
    """The public address decides, because the proxy in front speaks https."""
    with serve(token=SERVER_TOKEN, public_url="https://upshot.example") as client:
        assert "; Secure" in client.get("/sign-in").headers["set-cookie"]


def test_signing_out_ends_the_session(browser):
    """The cookie's text is then worth nothing."""
    sign_in(browser, SERVER_TOKEN)
    cookies = dict(browser.cookies)
    response = browser.post("/sign-out", data={"form_token": form_token(browser.get("/"))})
    assert response.headers["location"] == "/sign-in"
    assert not is_signed_in(browser)
    browser.cookies.update(cookies)
    assert not is_signed_in(browser)
    assert "Your session is over" in browser.get("/sign-in").text


@pytest.mark.parametrize("how", ["time", "revoked", "expired"])
def test_a_session_ends_with_its_time_or_its_token(admin, browser, clock, how):
    """The sign-in page says that the session is over."""
    options = {"expires_at": "2026-01-01T18:00:00Z"} if how == "expired" else {}
    sign_in(browser, make_token(admin, "ann", "member", **options))
    assert is_signed_in(browser)

    if how == "revoked":
        ok_json(admin.delete(f"{TOKENS}/ann"))
    else:
        clock.advance(SESSION_HOURS * 3600 if how == "time" else 6 * 3600)

    assert not is_signed_in(browser)
    assert "Your session is over" in browser.get("/sign-in").text


def test_a_new_server_token_ends_the_sessions_of_the_old_one(serve, browser):
    """A session that was opened with the token in the settings is bound to it."""
    sign_in(browser, SERVER_TOKEN)
    cookies = dict(browser.cookies)
    with serve(token="another-token-of-this-server-with-40-chars") as client:
        client.cookies.update(cookies)
        assert not is_signed_in(client)


def test_a_session_reads_the_api_and_changes_nothing(browser):
    """Pages read live data from the API. A change needs a token, or a form of a page."""
    sign_in(browser, SERVER_TOKEN)
    ok_json(browser.get(f"{API}/events"))
    problem(browser.post(f"{API}/events", json={"name": "n"}), 401, "unauthorized")


# --- wrong tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("", "Enter a token"),
        ("nonsense", "a token has 47 characters, this has 8"),
        (f"upt_{'x' * 43}", "No token like this is known"),
        ("upj_job_1_0", "token of a job"),
        ("<script>alert(1)</script>", "this has 25"),
    ],
)
def test_a_wrong_token_gets_an_error_at_its_field(browser, token, reason):
    """The error says what is wrong, and repeats nothing of what was entered."""
    response = sign_in(browser, token)
    assert response.status_code == 401
    assert reason in html.unescape(response.text)
    assert 'aria-invalid="true" aria-describedby="token-error"' in response.text
    assert token not in response.text or not token
    assert not is_signed_in(browser)


def test_a_token_that_ended_says_so(admin, browser):
    """It was revoked, or has expired."""
    text = make_token(admin, "ann", "member")
    ok_json(admin.delete(f"{TOKENS}/ann"))
    assert "The token ann was revoked" in sign_in(browser, text).text


def test_ten_wrong_tokens_have_to_wait(browser):
    """Then even the right one waits, and the page says how long."""
    for _ in range(MAX_FAILURES):
        assert sign_in(browser, "wrong").status_code == 401
    response = sign_in(browser, SERVER_TOKEN)
    assert response.status_code == 429
    assert 0 < int(response.headers["retry-after"]) <= 60
    assert "Try again in" in response.text


def test_a_server_that_cannot_reach_its_database_says_so(serve):
    """The page of the error is a page, too."""
    with serve(token=SERVER_TOKEN, sessions=UnavailableStore()) as client:
        response = sign_in(client, SERVER_TOKEN)
        assert response.status_code == 503
        assert "the database does not answer" in response.text
        assert response.headers["content-type"].startswith("text/html")


# --- codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["admin", "restricted-viewer"])
def test_a_code_signs_in_once_as_who_made_it(admin, browser, role):
    """The link opens the pages with the role of the token."""
    with with_token(admin, make_token(admin, "ann", role)) as ann:
        made = ok_json(ann.post(CODES))
    assert made["url"].startswith("https://upshot.example.com/sign-in?code=")
    path = made["url"].removeprefix("https://upshot.example.com")

    response = browser.get(path)

    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert f'<span class="strong soft">ann</span> · {role}' in browser.get("/").text
    assert browser.get(path).headers["location"] == "/"
    browser.cookies.clear()
    again = browser.get(path)
    assert again.status_code == 401
    assert "has been used, or is older than 60 seconds" in again.text


def test_a_code_is_valid_for_a_minute(admin, browser, clock):
    """A late link shows the form, and where to get a fresh one."""
    path = ok_json(admin.post(CODES))["url"].removeprefix("https://upshot.example.com")
    clock.advance(CODE_SECONDS)
    response = browser.get(path)
    assert response.status_code == 401
    assert "upshot open" in response.text


def test_a_code_of_a_revoked_token_is_worth_nothing(admin, browser):
    """It does not outlive its token."""
    with with_token(admin, make_token(admin, "ann", "admin")) as ann:
        path = ok_json(ann.post(CODES))["url"].removeprefix("https://upshot.example.com")
    ok_json(admin.delete(f"{TOKENS}/ann"))
    browser.get(path)
    assert not is_signed_in(browser)


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        *((path, sent) for path in ("/sign-in", "/sign-out") for sent in ("nothing", "a guess", "another browser's")),
        ("/sign-in", "without its cookie"),
    ],
)
def test_a_form_of_another_site_is_refused(admin, browser, path, sent):
    """Its text is bound to the browser: to the session, or to a cookie before there is one."""
    if path == "/sign-out":
        sign_in(browser, SERVER_TOKEN)
    page = browser.get("/" if path == "/sign-out" else "/sign-in")
    with httpx.Client(base_url=admin.base_url, timeout=20, trust_env=False) as other:
        text = {
            "nothing": "",
            "a guess": "0" * 64,
            "another browser's": form_token(other.get("/sign-in")),
            "without its cookie": form_token(page),
        }[sent]
    if sent == "without its cookie":
        browser.cookies.clear()

    response = browser.post(path, data={"form_token": text, "token": SERVER_TOKEN})

    assert response.status_code == 403
    assert "another site sent it" in response.text
    assert is_signed_in(browser) == (path == "/sign-out")


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_a_browser_that_says_where_a_form_comes_from_is_believed(browser, headers):
    """Other sites are refused before the form is read."""
    text = form_token(browser.get("/sign-in"))
    data = {"form_token": text, "token": SERVER_TOKEN}
    assert browser.post("/sign-in", data=data, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"", "", 415),
        (b"form_token=%FF&x=" + b"y" * 70_000, "application/x-www-form-urlencoded", 413),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 422),
        (b"a=1&" * 60, "application/x-www-form-urlencoded", 422),
        (b"form_token=\xc3\xa9", "application/x-www-form-urlencoded", 403),
    ],
)
def test_an_odd_form_is_refused(browser, content, media_type, status):
    """The answer is a page with the reason."""
    browser.get("/sign-in")
    response = browser.post("/sign-in", content=content, headers={"Content-Type": media_type})
    assert response.status_code == status
    assert "text/html" in response.headers["content-type"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/a?b=c#d", "/a?b=c#d"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\b", "/"),
        ("/\n/evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_a_form_leads_to_this_server_only(text, path):
    """A link cannot use the sign-in page to lead elsewhere."""
    assert local_path(text) == path


# --- pages in general -----------------------------------------------------------------------------


def test_every_page_has_the_content_security_policy(admin, browser):
    """No page loads or runs anything from elsewhere, is framed, or is kept by a cache."""
    pages = [browser.get("/sign-in"), browser.get("/"), browser.post("/sign-in")]
    sign_in(browser, make_token(admin, "ann", "viewer"))
    pages.append(browser.get("/"))
    assert [page.status_code for page in pages] == [200, 303, 415, 200]
    for page in pages:
        assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"\sstyle=|\son\w+=|<script|<style|https?://", page.text)


def test_style_sheets_come_from_the_package(browser):
    """Their addresses change with their content, so a browser may keep them."""
    page = browser.get("/sign-in").text
    for name in ("tokens.css", "pages.css"):
        assert static_url(name) in page
        response = browser.get(static_url(name))
        assert response.content == static_content(name)
        assert response.headers["content-type"] == "text/css; charset=utf-8"
        assert "immutable" in response.headers["cache-control"]
    for name in ("nothing.css", "%2e%2e", ".css", "x%2fy"):
        assert browser.get(f"/static/{name}").status_code in {404, 422}


def test_a_page_needs_a_name_of_this_server(browser):
    """A name that an attacker points to the server shows no page without a session."""
    assert browser.get("/sign-in", headers={"Host": "evil.example"}).status_code == 403
    sign_in(browser, SERVER_TOKEN)
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    assert browser.get("/", headers={"Host": "upshot.internal", "Cookie": cookies}).status_code == 200


def test_a_server_without_a_token_shows_its_pages_at_once(web):
    """On loopback, nobody has to sign in."""
    assert is_signed_in(web)
    assert web.get("/sign-in").headers["location"] == "/"
    assert web.get("/", headers={"Host": "evil.example"}).status_code == 403
