"""No text in a path, a query, a body or a header makes the server fail, on either database."""

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


HOSTILE_TEXTS = (
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


def test_no_text_makes_a_route_fail(churn):
    """Every request is answered or refused, and none gets a 500."""
    for text in HOSTILE_TEXTS:
        for method, path, body in requests_with(text):
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


def test_an_invented_cursor_is_refused_or_harmless(churn):
    """A cursor that cannot be read is 422."""
    for path in PAGED.values():
        for cursor in CURSORS:
            response = churn.get(path, params={"cursor": cursor})
            assert response.status_code == 200 or problem(response, 422, "invalid-input")


def requests_with(text: str) -> list[tuple[str, str, Any]]:
    """Return requests of every kind, with the text wherever a client can put one."""
    encoded = url_encode(text)
    return [
        ("GET", f"{COLLECTIONS}/{encoded}", None),
        ("GET", f"{API}/registries/{encoded}/collections", None),
        ("GET", f"{CHURN}/versions/{encoded}", None),
        ("PUT", f"{CHURN}/aliases/{encoded}", {"version": text}),
        ("PUT", f"{CHURN}/aliases/{encoded}", {"version": "v0"}),
        ("DELETE", f"{CHURN}/aliases/{encoded}", None),
        ("PUT", f"{CHURN}/tags/{encoded}", None),
        ("PUT", f"{CHURN}/versions/v0/tags/{encoded}", None),
        ("DELETE", f"{CHURN}/versions/{encoded}/tags/{encoded}", None),
        ("PATCH", f"{CHURN}/versions/v0", {"metadata": {text: text}, "description": text}),
        ("POST", COLLECTIONS, {"name": text, "artifact_type": text, "description": text}),
        ("POST", f"{API}/registries/{encoded}/collections", {"name": "x", "artifact_type": "model"}),
        ("POST", f"{CHURN}/versions", {"artifact": text, "aliases": [text]}),
        ("POST", f"{CHURN}/versions", {"artifact": "demo/churn:v0", "aliases": [text]}),
        ("POST", f"{API}/projects/{encoded}/artifacts", {"name": text, "artifact_type": text, "digest": text}),
        ("POST", f"{API}/projects/demo/artifacts", {"name": "m", "artifact_type": "model", "manifest": {text: text}}),
        ("GET", f"{API}/projects/{encoded}/artifacts/{encoded}/versions/{encoded}", None),
        ("PUT", f"{API}/registries/model/protected-aliases", {"patterns": [text]}),
        ("POST", EVENTS, {"name": text, "data": {text: [text]}}),
        ("GET", f"{EVENTS}/{encoded}", None),
        ("GET", f"{EVENTS}?subject={encoded}&name={encoded}&mutation_id={encoded}", None),
        ("GET", f"{EVENTS}?after={encoded}", None),
        ("GET", f"{API}/executions?event_id={encoded}&automation={encoded}", None),
        ("POST", f"{API}/executions/{encoded}/cancel", None),
        ("GET", f"{API}/automations/{encoded}", None),
        ("GET", f"{API}/history?cursor={encoded}", None),
        ("GET", f"{CHURN}?{encoded}={encoded}", None),
    ]


def test_no_actor_makes_a_mutation_fail(churn):
    """An invalid name is 422."""
    for text in HOSTILE_TEXTS:
        header = text.replace("\n", " ").strip(" ").encode()
        response = churn.put(f"{CHURN}/tags/x", headers={"X-Upshot-Actor": header})

        assert response.status_code == 200 or problem(response, 422, "invalid-input")


def url_encode(text: str) -> str:
    """Encode every byte, because httpx would resolve plain dots in a path."""
    return "".join(f"%{byte:02X}" for byte in text.encode())
