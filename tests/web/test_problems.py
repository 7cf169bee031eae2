"""Every error is a problem (RFC 9457), and no input makes the server fail."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.web.conftest import API, CHURN, COLLECTIONS, Stores, made, problem
from upshot.errors import Unavailable
from upshot.web.body import MAX_BODY_BYTES, read_json
from upshot.web.problems import Problem

JSON = {"Content-Type": "application/json"}
EVENTS = f"{API}/events"
BIG = MAX_BODY_BYTES + 1
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture
def stores(sqlite_stores: Stores) -> Stores:
    return sqlite_stores


def test_an_unknown_route_says_where_the_routes_are(web):
    """404, method and path named."""
    form = problem(web.get(f"{API}/collections"), 404, "not-found")

    assert form["detail"] == f"GET {API}/collections: there is no such route; {API}/openapi.json lists all of them"


@pytest.mark.parametrize("path", [f"{EVENTS}/", f"{API}//events", "/", f"{CHURN}/", f"{CHURN}/versions/v0/x"])
def test_paths_are_taken_as_they_are(web, path):
    """No redirect to a path that is nearly the same."""
    problem(web.get(path), 404, "not-found")


def test_a_wrong_method_says_which_are_right(web):
    """405, with all methods of the path in `Allow`."""
    response = web.put(EVENTS)

    assert "GET, POST" in problem(response, 405, "method-not-allowed")["detail"]
    assert response.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        pytest.param(b"{", 400, "line 1, column 2", id="cut off"),
        pytest.param(b'{"name": "a",}', 400, "column 14", id="trailing comma"),
        pytest.param(b"{'name': 'a'}", 400, "not JSON", id="single quotes"),
        pytest.param(b'{"name": NaN}', 400, "NaN", id="NaN"),
        pytest.param(b'{"name": -Infinity}', 400, "Infinity", id="Infinity"),
        pytest.param(b'{"name": "\xff"}', 400, "byte 10 is not UTF-8", id="not UTF-8"),
        pytest.param('{"name": "a"}'.encode("utf-16"), 400, "UTF-8", id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"name": "a"}', 400, "BOM", id="byte order mark"),
        pytest.param(b'{"name": "a\nb"}', 400, "not JSON", id="raw line break"),
        pytest.param(b'{"name": "a"} x', 400, "Extra data", id="more behind it"),
        pytest.param(b'{"name": "a", "name": "b"}', 422, "'name' stands twice", id="a key twice"),
        pytest.param(b'{"name": "a", "data": {"b": {"c": 1, "c": 2}}}', 422, "'c' stands twice", id="deep key twice"),
        pytest.param(b'{"name": "\\ud800"}', 422, "U+D800", id="half a surrogate pair"),
        pytest.param(b'{"name": "a", "data": {"\\udfff": 1}}', 422, "U+DFFF", id="half a pair in a key"),
        pytest.param(b'{"name": "a\\u0000b"}', 422, "U+0000", id="NUL"),
        pytest.param(b'{"name": "a", "data": {"x": ["\\u0000"]}}', 422, "U+0000", id="deep NUL"),
        pytest.param(b'{"name": "a", "data": {"n": 18446744073709551616}}', 422, "64 bits", id="big number"),
        pytest.param(b'{"name": "a", "data": {"n": ' + b"9" * 5000 + b"}}", 422, "64 bits", id="endless number"),
        pytest.param(b'{"name": "a", "data": {"n": 1e400}}', 422, "too large", id="infinite number"),
        pytest.param(b'{"name": "a", "data": ' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}", 422, "deep", id="deep"),
        pytest.param(b"[" * 200_000, 422, "deep", id="very deep"),
        pytest.param(b'{"a":' * 100_000, 422, "deep", id="very deep objects"),
        pytest.param(b"", 422, "missing", id="empty"),
        pytest.param(b"null", 422, "body", id="null"),
        pytest.param(b'"text"', 422, "body", id="text"),
        pytest.param(b"7", 422, "body", id="number"),
        pytest.param(b"[[]]", 422, "body.0", id="list of lists"),
        pytest.param(b'{"name": null}', 422, "body.name", id="null for a name"),
        pytest.param(b'{"name": 1}', 422, "a string is needed", id="number for a name"),
        pytest.param(b'{"name": "a", "data": []}', 422, "a JSON object is needed", id="list for data"),
        pytest.param(b"{}", 422, "body.name: is missing", id="nothing in it"),
    ],
)
def test_a_bad_body_is_told_apart(web, body, status, says):
    """400 for what is not JSON, 422 for what means nothing here or cannot be kept; with its place."""
    kind = "malformed-body" if status == 400 else "invalid-input"

    assert says in problem(web.post(EVENTS, content=body, headers=JSON), status, kind)["detail"]
    assert made(web.get(EVENTS))["items"] == []


def test_everything_that_is_wrong_is_told_at_once(web):
    """`errors` has each place; `detail` has the first."""
    form = problem(web.post(COLLECTIONS, json={"name": 1, "description": 2}), 422, "invalid-input")

    assert form["errors"] == [
        {"place": "body.name", "detail": "a string is needed"},
        {"place": "body.artifact_type", "detail": "is missing"},
        {"place": "body.description", "detail": "a string is needed"},
    ]
    assert form["detail"] == "body.name: a string is needed (and 2 more, see errors)"


def test_numbers_keep_their_value(web):
    """The largest and smallest that are taken come back as they went in."""
    data = {"big": 2**64 - 1, "small": -(2**63), "float": 1.7976931348623157e308, "tiny": 5e-324, "text": "\U0001f600"}

    event = made(web.post(EVENTS, json={"name": "n", "data": data}))["id"]

    assert made(web.get(f"{EVENTS}/{event}"))["data"] == data


def test_escapes_are_characters(web):
    """A whole surrogate pair is a character; an escaped backslash before `u0000` is no NUL."""
    body = b'{"name": "n", "data": {"a": "\\ud83d\\ude00", "b": "\\\\u0000"}}'

    event = made(web.post(EVENTS, content=body, headers=JSON))["id"]

    assert made(web.get(f"{EVENTS}/{event}"))["data"] == {"a": "\U0001f600", "b": "\\u0000"}


@given(ANY_JSON)
def test_what_is_read_is_what_was_written(data):
    """Any JSON is read exactly, or refused for a character that cannot be kept."""
    text = json.dumps(data)
    unkeepable = "\x00" in str_of(data)

    try:
        assert read_json(text.encode()) == data
        assert not unkeepable
    except Problem:
        assert unkeepable


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0dn1e.- \x00', max_size=60).map(str.encode))
def test_no_bytes_break_the_reader(body):
    """Whatever comes is read or refused."""
    with suppress(Problem):
        read_json(body)


def str_of(data: Any) -> str:
    if isinstance(data, dict):
        return "".join(key + str_of(value) for key, value in data.items())
    if isinstance(data, list):
        return "".join(map(str_of, data))
    return data if isinstance(data, str) else ""


@pytest.mark.parametrize(
    "kind", ["text/json", "application/x-json", "application/jsonp", "application/json-seq", "json", "; charset=utf-8"]
)
def test_a_body_must_be_declared_as_json(web, kind):
    """415 says what to send."""
    response = web.post(EVENTS, content=b'{"name": "a"}', headers={"Content-Type": kind})

    assert "Content-Type: application/json" in problem(response, 415, "unsupported-media-type")["detail"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/merge-patch+json"]
)
def test_json_may_be_declared_in_several_ways(web, kind):
    """With parameters, in any case, or as a kind of JSON."""
    assert web.post(EVENTS, content=b'{"name": "a"}', headers={"Content-Type": kind}).status_code == 201


def test_a_body_that_is_declared_too_large_is_refused_unread(web):
    """413 before any of it is sent."""
    url = urlsplit(str(web.base_url))
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {BIG}\r\n\r\n"

    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"urn:upshot:problem:body-too-large" in answer


def test_a_body_that_grows_too_large_is_refused(web):
    """413 once there was too much, without a length declared."""

    def endless() -> Iterator[bytes]:
        for _ in range(BIG // 65536 + 2):
            yield b" " * 65536

    problem(web.post(EVENTS, content=endless(), headers=JSON), 413, "body-too-large")


def test_the_largest_manifest_is_taken(web):
    """What the registry takes comes through."""
    manifest = {f"data/{'x' * 300}/{number:05}.parquet": "sha256:" + "0" * 64 for number in range(10_000)}
    body = {"name": "rows", "type": "dataset", "manifest": manifest}

    assert web.post(f"{API}/projects/demo/artifacts", json=body).status_code == 201


def test_when_the_database_is_away_the_answer_is_503(house, serve):
    """With Retry-After, and not a word of the database's."""

    class Away:
        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any, **__: Any) -> Any:
                raise Unavailable("the database does not answer: sqlite3 locked SELECT 1")

            return fail

    with serve(registry=Away(), events=Away(), executions=Away()) as client:
        for response in (client.get(COLLECTIONS), client.get(EVENTS), client.post(f"{API}/executions/x/retry")):
            problem(response, 503, "unavailable")
            assert response.headers["retry-after"] == "1"


def test_a_mistake_of_ours_tells_nothing_but_that(house, serve):
    """500 is a problem too; the trace is in the log."""

    class Wrong:
        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any, **__: Any) -> Any:
                raise RuntimeError("SELECT secret FROM sqlite")

            return fail

    with serve(events=Wrong()) as client:
        form = problem(client.get(EVENTS), 500, "internal")

    assert form["detail"] == "the server made a mistake; its log says which"


def test_bytes_that_are_no_http_do_not_disturb(web):
    """Garbage on one connection leaves the others alone."""
    url = urlsplit(str(web.base_url))
    for garbage in (b"\x00\xff\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET \xff HTTP/1.1\r\nHost: a\r\n\r\n"):
        with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
            connection.sendall(garbage)
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                assert b" 500 " not in connection.recv(65536)

    assert isinstance(web.get("/healthz"), httpx.Response)
