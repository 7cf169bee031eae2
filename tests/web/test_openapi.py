"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.web.conftest import API, CHURN, COLLECTIONS, made
from upshot.web.app import create_app

ISSUE = [
    ("post", "/registries/{registry}/collections"),
    ("get", "/registries/{registry}/collections"),
    ("post", "/projects/{project}/artifacts"),
    ("post", "/registries/{registry}/collections/{collection}/versions"),
    ("put", "/registries/{registry}/collections/{collection}/aliases/{alias}"),
    ("delete", "/registries/{registry}/collections/{collection}/aliases/{alias}"),
    ("get", "/events"),
    ("get", "/events/{event}"),
    ("post", "/events"),
    ("get", "/executions"),
    ("get", "/executions/{execution}"),
    ("post", "/executions/{execution}/retry"),
    ("post", "/executions/{execution}/cancel"),
    ("get", "/automations"),
]


@pytest.fixture
def document(house) -> dict[str, Any]:
    form: dict[str, Any] = create_app(house).openapi()
    return form


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from references(item)


@pytest.mark.parametrize(("method", "path"), ISSUE)
def test_the_promised_routes_are_there(document, method, path):
    """Exactly as they are spelled."""
    assert method in document["paths"][API + path]


def test_every_route_says_what_it_does_and_what_it_answers(document):
    """A description, an answer with a form, and the problems that can come."""
    for method, path, operation in operations(document):
        place = f"{method} {path}"
        assert operation["description"], place
        answers = operation["responses"]
        good = [answers[status] for status in answers if status.startswith("2")]
        assert good, place
        for answer in good:
            (content,) = answer["content"].values()
            assert path == "/metrics" or content["schema"], place
        problems = {status: answers[status] for status in answers if not status.startswith("2")}
        assert {"403", "422", "503"} <= set(problems), place
        for answer in problems.values():
            assert list(answer["content"]) == ["application/problem+json"], place


def test_what_the_gate_and_the_keys_add_is_documented(document):
    """Token and 401 in the API; the key and 409 on mutations; 400, 413 and 415 where there is a body."""
    for method, path, operation in operations(document):
        answers = set(operation["responses"])
        keys = [given for given in operation.get("parameters", ()) if "idempotency-key" in given.get("$ref", "")]
        assert (path.startswith(API)) == ("401" in answers) == ("security" in operation), path
        assert bool(keys) == (method != "get"), path
        assert method == "get" or "409" in answers, path
        assert ("requestBody" in operation) == ({"400", "413", "415"} <= answers), path


def test_every_reference_in_it_leads_somewhere(document):
    """And every parameter of a path is described."""
    for reference in references(document):
        node: Any = document
        for word in reference.removeprefix("#/").split("/"):
            node = node[word]
    for _, path, operation in operations(document):
        described = {given["name"] for given in operation.get("parameters", ()) if given.get("in") == "path"}
        assert described == set(re.findall(r"{(\w+)}", path))


def test_names_of_operations_are_unique(document):
    """Generators of clients make functions of them."""
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(names) == len(set(names))


def test_one_event_or_a_list_is_documented(document):
    """`POST /events` takes either."""
    schema = document["components"]["schemas"]["NewEvents"]

    one, many = schema["anyOf"]
    assert one == many["items"] == {"$ref": "#/components/schemas/NewEvent"}
    assert (many["minItems"], many["maxItems"]) == (1, 1000)


def test_answers_have_the_documented_form(churn, document):
    """Each answer has exactly the keys that its form names."""
    made(churn.post(f"{API}/events", json={"name": "n"}))
    event = made(churn.get(f"{API}/events"))["items"][0]["id"]
    for route, path in {
        "/registries/{registry}/collections": COLLECTIONS,
        "/registries/{registry}/collections/{collection}": CHURN,
        "/registries/{registry}/collections/{collection}/versions/{version}": f"{CHURN}/versions/v0",
        "/registries/{registry}/collections/{collection}/history": f"{CHURN}/history",
        "/projects/{project}/artifacts/{artifact}/versions": f"{API}/projects/demo/artifacts/churn/versions",
        "/events": f"{API}/events",
        "/events/{event}": f"{API}/events/{event}",
        "/automations": f"{API}/automations",
        "/automations/{automation}": f"{API}/automations/promote",
    }.items():
        schema = document["paths"][API + route]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        check(made(churn.get(path)), schema, document, path)


def check(value: Any, schema: dict[str, Any], document: dict[str, Any], place: str) -> None:
    """A small reading of JSON Schema: references, objects, lists, alternatives and plain types."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        null = {"type": "null"} in schema["anyOf"]
        if value is None:
            assert null, place
            return
        (schema,) = [one for one in schema["anyOf"] if one != {"type": "null"}]
        check(value, schema, document, place)
    elif "properties" in schema:
        assert set(schema.get("required", ())) <= set(value) <= set(schema["properties"]), place
        for key, item in value.items():
            check(item, schema["properties"][key], document, f"{place}.{key}")
    elif schema.get("type") == "array":
        for item in value:
            check(item, schema["items"], document, f"{place}[]")
    elif schema.get("type") in {"string", "integer", "boolean", "object"}:
        kind = {"string": str, "integer": int, "boolean": bool, "object": dict}[schema["type"]]
        TypeAdapter(kind).validate_python(value, strict=True)


def test_the_page_shows_every_route_and_loads_nothing(web, document):
    """All of it comes from this server, and nothing from elsewhere may run."""
    response = web.get(f"{API}/docs")

    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script" not in response.text
    assert "//" not in response.text.replace("application/", "")
    for path in document["paths"]:
        assert path in response.text


def test_the_document_is_served(web):
    """At its own address."""
    assert made(web.get(f"{API}/openapi.json"))["openapi"].startswith("3.1")
