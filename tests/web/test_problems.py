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

from tests.web.conftest import API, CHURN, COLLECTIONS, Stores, UnavailableStore, ok_json, problem
from upshot.errors import BlobsUnavailable, NoSpace
from upshot.web.body import MAX_BODY_BYTES, read_json
from upshot.web.problems import Problem, problem_from_error

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


def test_an_unknown_route_is_404(web):
    """The message names method and path, and says where the routes are listed."""
    data = problem(web.get(f"{API}/collections"), 404, "not-found")

    assert data["detail"] == f"GET {API}/collections: there is no such route; {API}/openapi.json lists all routes"


@pytest.mark.parametrize("path", [f"{EVENTS}/", f"{API}//events", f"{CHURN}/", f"{CHURN}/versions/v0/x"])
def test_a_similar_path_is_not_found(web, path):
    """The server does not redirect to the path that was probably meant."""
    problem(web.get(path), 404, "not-found")


def test_a_wrong_method_is_405(web):
    """The message and `Allow` list all methods of the path."""
    response = web.put(EVENTS)

    assert "GET, POST" in problem(response, 405, "method-not-allowed")["detail"]
    assert response.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        pytest.param(b"{", 400, "line 1, column 2", id="incomplete"),
        pytest.param(b'{"name": "a",}', 400, "column 14", id="trailing comma"),
        pytest.param(b"{'name': 'a'}", 400, "not JSON", id="single quotes"),
        pytest.param(b'{"name": NaN}', 400, "NaN", id="NaN"),
        pytest.param(b'{"name": -Infinity}', 400, "Infinity", id="Infinity"),
        pytest.param(b'{"name": "\xff"}', 400, "byte 10 is not UTF-8", id="not UTF-8"),
        pytest.param('{"name": "a"}'.encode("utf-16"), 400, "UTF-8", id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"name": "a"}', 400, "BOM", id="byte order mark"),
        pytest.param(b'{"name": "a\nb"}', 400, "not JSON", id="raw line break"),
        pytest.param(b'{"name": "a"} x', 400, "Extra data", id="text after it"),
        pytest.param(b'{"name": "a", "name": "b"}', 422, "'name' appears twice", id="a key twice"),
        pytest.param(b'{"name": "a", "data": {"b": {"c": 1, "c": 2}}}', 422, "'c' appears twice", id="deep key twice"),
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
        pytest.param(b"", 422, "required", id="empty"),
        pytest.param(b"null", 422, "body", id="null"),
        pytest.param(b'"text"', 422, "body", id="text"),
        pytest.param(b"7", 422, "body", id="number"),
        pytest.param(b"[[]]", 422, "body.0", id="list of lists"),
        pytest.param(b'{"name": null}', 422, "body.name", id="null for a name"),
        pytest.param(b'{"name": 1}', 422, "must be a string", id="number for a name"),
        pytest.param(b'{"name": "a", "data": []}', 422, "must be a JSON object", id="list for data"),
        pytest.param(b"{}", 422, "body.name: this field is required", id="empty object"),
    ],
)
def test_an_invalid_body_is_refused(web, body, status, reason):
    """A body that is not JSON is 400. A body that is invalid or cannot be stored exactly is 422."""
    kind = "malformed-body" if status == 400 else "invalid-input"

    assert reason in problem(web.post(EVENTS, content=body, headers=JSON), status, kind)["detail"]
    assert ok_json(web.get(EVENTS))["items"] == []


def test_every_mistake_is_reported_at_once(web):
    """`errors` has every mistake, and `detail` has the first."""
    data = problem(web.post(COLLECTIONS, json={"name": 1, "description": 2}), 422, "invalid-input")

    assert data["errors"] == [
        {"location": "body.name", "detail": "must be a string, not the number 1; put it in quotes"},
        {"location": "body.artifact_type", "detail": "this field is required"},
        {"location": "body.description", "detail": "must be a string, not the number 2; put it in quotes"},
    ]
    assert data["detail"].startswith("body.name: must be a string")
    assert data["detail"].endswith("(and 2 more, see errors)")


def test_numbers_keep_their_value(web):
    """The largest and smallest accepted numbers come back unchanged."""
    data = {"big": 2**64 - 1, "small": -(2**63), "float": 1.7976931348623157e308, "tiny": 5e-324, "text": "\U0001f600"}

    event_id = ok_json(web.post(EVENTS, json={"name": "n", "data": data}))["id"]

    assert ok_json(web.get(f"{EVENTS}/{event_id}"))["data"] == data


def test_escapes_are_characters(web):
    """A surrogate pair is one character, and an escaped backslash before `u0000` is not a NUL."""
    body = b'{"name": "n", "data": {"a": "\\ud83d\\ude00", "b": "\\\\u0000"}}'

    event_id = ok_json(web.post(EVENTS, content=body, headers=JSON))["id"]

    assert ok_json(web.get(f"{EVENTS}/{event_id}"))["data"] == {"a": "\U0001f600", "b": "\\u0000"}


@given(ANY_JSON)
def test_any_json_is_read_exactly(data):
    """Only a text with a NUL is refused, because a database cannot store it."""
    text = json.dumps(data)
    has_nul = "\x00" in str_of(data)

    try:
        assert read_json(text.encode()) == data
        assert not has_nul
    except Problem:
        assert has_nul


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0dn1e.- \x00', max_size=60).map(str.encode))
def test_no_bytes_make_the_reader_fail(body):
    """Every body is read or refused."""
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
    """The response is 415 and says which header to send."""
    response = web.post(EVENTS, content=b'{"name": "a"}', headers={"Content-Type": kind})

    assert "Content-Type: application/json" in problem(response, 415, "unsupported-media-type")["detail"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/merge-patch+json"]
)
def test_json_may_be_declared_in_several_ways(web, kind):
    """Parameters, upper case and types that end in `+json` are accepted."""
    assert web.post(EVENTS, content=b'{"name": "a"}', headers={"Content-Type": kind}).status_code == 201


def test_a_large_content_length_is_refused_at_once(web):
    """The response is 413, before the client has sent the body."""
    url = urlsplit(str(web.base_url))
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {BIG}\r\n\r\n"

    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(head.encode())
        response = connection.recv(65536)

    assert response.startswith(b"HTTP/1.1 413")
    assert b"urn:upshot:problem:body-too-large" in response


def test_a_large_body_without_a_content_length_is_refused(web):
    """The response is 413 as soon as too many bytes have arrived."""

    def endless() -> Iterator[bytes]:
        for _ in range(BIG // 65536 + 2):
            yield b" " * 65536

    problem(web.post(EVENTS, content=endless(), headers=JSON), 413, "body-too-large")


def test_the_largest_manifest_is_accepted(web):
    """The limit of the body leaves room for the largest manifest that the registry accepts."""
    manifest = {f"data/{'x' * 300}/{number:05}.parquet": "sha256:" + "0" * 64 for number in range(10_000)}
    body = {"name": "rows", "artifact_type": "dataset", "manifest": manifest}

    assert web.post(f"{API}/projects/demo/artifacts", json=body).status_code == 201


def test_an_unavailable_database_is_503(serve):
    """The response has Retry-After, and no text of the database."""
    store = UnavailableStore("the database does not answer: sqlite3 locked SELECT 1")
    with serve(registry=store, events=store, executions=store) as client:
        for response in (client.get(COLLECTIONS), client.get(EVENTS), client.post(f"{API}/executions/x/retry")):
            problem(response, 503, "unavailable")
            assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (NoSpace("/srv/blobs/x: No space left on device"), "no-space", "free some space there"),
        (BlobsUnavailable("/srv/blobs/x: Input/output error"), "unavailable", "the store of files does not answer"),
    ],
)
def test_a_store_that_cannot_be_used_is_named(error, kind, words):
    """A full disk is not called a database that does not answer. The path is in the log only."""
    found = problem_from_error(error)

    assert (found.status_code, found.kind, found.headers) == (503, kind, {"Retry-After": "1"})
    assert words in found.detail
    assert "/srv" not in found.detail


def test_an_unexpected_error_is_500(serve):
    """The problem shows no details, because they are in the log."""

    class BrokenStore:
        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any, **__: Any) -> Any:
                raise RuntimeError("SELECT secret FROM sqlite")

            return fail

    with serve(events=BrokenStore()) as client:
        data = problem(client.get(EVENTS), 500, "internal")

    assert data["detail"] == "the server failed; its log has the details"


def test_bytes_that_are_not_http_do_no_harm(web):
    """Garbage on one connection does not affect other connections."""
    url = urlsplit(str(web.base_url))
    for garbage in (b"\x00\xff\x00", b"GET / HTTP/9.9\r\n\r\n", b"GET \xff HTTP/1.1\r\nHost: a\r\n\r\n"):
        with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
            connection.sendall(garbage)
            connection.settimeout(0.2)
            with suppress(TimeoutError):
                assert b" 500 " not in connection.recv(65536)

    assert isinstance(web.get("/healthz"), httpx.Response)
