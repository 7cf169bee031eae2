"""The page that shows the API: drawn from its OpenAPI document, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from upshot.web.auth import API

router = APIRouter(include_in_schema=False)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, summary { font-family: ui-monospace, monospace; } summary { cursor: pointer; padding: .2rem 0; }
td { padding: 0 1rem .2rem 0; vertical-align: top; } details { margin-left: 1rem; } p { white-space: pre-line; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@router.get(f"{API}/docs")
def show_docs(request: Request) -> Response:
    """Every route, with what it takes and gives."""
    return HTMLResponse(_page(request.app.openapi()), headers={"Content-Security-Policy": _POLICY})


def _page(document: Mapping[str, Any]) -> str:
    info = document["info"]
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>',
            f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f'<p>{escape(info["description"])}</p><p><a href="openapi.json">openapi.json</a></p>',
            *_operations(document),
            "</html>",
        ]
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    chapter = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != chapter:
                chapter = operation["tags"][0]
                yield f"<h2>{escape(chapter)}</h2>"
            yield f"<details><summary>{method.upper():6} {escape(path)}</summary>"
            yield f"<p>{escape(operation.get('description', ''))}</p><table>"
            yield from _rows(operation, document)
            yield "</table></details>"


def _rows(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    for given in operation.get("parameters", ()):
        parameter = _resolved(given, document)
        yield _row(f"{parameter['in']} {parameter['name']}", parameter.get("description", ""))
    if body := operation.get("requestBody"):
        record = _resolved(body["content"]["application/json"]["schema"], document)
        yield _row("body", record.get("description", ""))
        for name, field in record.get("properties", {}).items():
            yield _row(f"body {name}", field.get("description", ""))
    for status, answer in operation["responses"].items():
        yield _row(status, answer["description"])


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document
    for word in schema.get("$ref", "").split("/")[1:]:
        found = found[word]
    return found if "$ref" in schema else schema


def _row(name: str, meaning: str) -> str:
    return f"<tr><td><code>{escape(name)}</code></td><td>{escape(meaning)}</td></tr>"
