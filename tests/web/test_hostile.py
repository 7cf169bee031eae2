"""No word that a path, a query, a body or a header can say makes the server fail, on either database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.conftest import API, CHURN, COLLECTIONS, Stores, problem, sql_stores
from tests.web.test_pages import PAGED
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import metadata

EVENTS = f"{API}/events"


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_stores")
        return
    database = Database(request.getfixturevalue("postgres").new_database())
    metadata.create_all(database.engine)
    yield sql_stores(database)
    database.close()


NASTY = (
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "a:b",
    "a\nb",
    "x" * 129,
    "x" * 5000,
    "v0",
    "v00",
    "v99999999999999999999",
    "latest",
    "%",
    "{{ 7 * 7 }}",
    "'; drop table events; --",
    "\u202e",
    "\ufeff",
    "\U0001f600",
    "é",
    "e\u0301",
    "\ufffd",
    "\ufffe",
    "null",
    "-1",
    "*",
    "[a-z]*",
)


def test_no_word_makes_a_route_fail(churn):
    """Whatever a path, a query or a body says is answered or refused, never with a 500."""
    for word in NASTY:
        for method, path, body in calls_with(word):
            response = churn.request(method, path, json=body)
            assert response.status_code < 500, (method, path, body, response.text)
            assert response.headers["content-type"] in {"application/json", "application/problem+json"}


CURSORS = (
    "x",
    " ",
    "AAAA",
    "AGE",
    "//8",
    "é",
    "x" * 1001,
    "bm90LWEta2V5",
    "OTk5OTk5OTk5OTk5OTk5OTk5OTk",
    "ZQ==",
    "-_-_",
)


def test_a_cursor_that_no_page_gave_is_refused_or_harmless(churn):
    """Never a server's mistake; what cannot be read is 422."""
    for path in PAGED.values():
        for cursor in CURSORS:
            response = churn.get(path, params={"cursor": cursor})
            assert response.status_code == 200 or problem(response, 422, "invalid-input")


def calls_with(word: str) -> list[tuple[str, str, Any]]:
    """One call of every kind, with the word wherever one can be said."""
    said = quoted(word)
    return [
        ("GET", f"{COLLECTIONS}/{said}", None),
        ("GET", f"{API}/registries/{said}/collections", None),
        ("GET", f"{CHURN}/versions/{said}", None),
        ("PUT", f"{CHURN}/aliases/{said}", {"version": word}),
        ("PUT", f"{CHURN}/aliases/{said}", {"version": "v0"}),
        ("DELETE", f"{CHURN}/aliases/{said}", None),
        ("PUT", f"{CHURN}/tags/{said}", None),
        ("PUT", f"{CHURN}/versions/v0/tags/{said}", None),
        ("DELETE", f"{CHURN}/versions/{said}/tags/{said}", None),
        ("PATCH", f"{CHURN}/versions/v0", {"metadata": {word: word}, "description": word}),
        ("POST", COLLECTIONS, {"name": word, "artifact_type": word, "description": word}),
        ("POST", f"{API}/registries/{said}/collections", {"name": "x", "artifact_type": "model"}),
        ("POST", f"{CHURN}/versions", {"artifact": word, "aliases": [word]}),
        ("POST", f"{CHURN}/versions", {"artifact": "demo/churn:v0", "aliases": [word]}),
        ("POST", f"{API}/projects/{said}/artifacts", {"name": word, "type": word, "digest": word}),
        ("POST", f"{API}/projects/demo/artifacts", {"name": "m", "type": "model", "manifest": {word: word}}),
        ("GET", f"{API}/projects/{said}/artifacts/{said}/versions/{said}", None),
        ("PUT", f"{API}/registries/model/protected-aliases", {"patterns": [word]}),
        ("POST", EVENTS, {"name": word, "data": {word: [word]}}),
        ("GET", f"{EVENTS}/{said}", None),
        ("GET", f"{EVENTS}?subject={said}&name={said}&mutation={said}", None),
        ("GET", f"{EVENTS}?after={said}", None),
        ("GET", f"{API}/executions?event={said}&automation={said}", None),
        ("POST", f"{API}/executions/{said}/cancel", None),
        ("GET", f"{API}/automations/{said}", None),
        ("GET", f"{API}/history?cursor={said}", None),
        ("GET", f"{CHURN}?{said}={said}", None),
    ]


def test_no_actor_makes_a_mutation_fail(churn):
    """A bad name is 422."""
    for word in NASTY:
        header = word.replace("\n", " ").strip(" ").encode()
        response = churn.put(f"{CHURN}/tags/x", headers={"X-Upshot-Actor": header})

        assert response.status_code == 200 or problem(response, 422, "invalid-input")


def quoted(word: str) -> str:
    """As a client must say it in a path; dots cannot be hidden from httpx, so they are escaped too."""
    return "".join(f"%{byte:02X}" for byte in word.encode())
