"""The HTML page that shows the API. It is made from the OpenAPI document and loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from upshot.resources.urls import API_PREFIX

router = APIRouter(include_in_schema=False)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, summary { font-family: ui-monospace, monospace; } summary { cursor: pointer; padding: .2rem 0; }
td { padding: 0 1rem .2rem 0; vertical-align: top; } details { margin-left: 1rem; } p { white-space: pre-line; }
"""
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get(f"{API_PREFIX}/docs")
def get_docs(request: Request) -> Response:
    """Return the page with every route, its parameters and its responses."""
    document = request.app.openapi()
    info = document["info"]
    page = "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>',
            f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f'<p>{escape(info["description"])}</p><p><a href="openapi.json">openapi.json</a></p>',
            *_operations(document),
            "</html>",
        ]
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": _CONTENT_SECURITY_POLICY})


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    tag = None
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                yield f"<h2>{escape(tag)}</h2>"
            yield f"<details><summary>{method.upper():6} {escape(path)}</summary>"
            yield f"<p>{escape(operation.get('description', ''))}</p><table>"
            yield from _rows(operation, document)
            yield "</table></details>"


def _rows(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    for given in operation.get("parameters", ()):
        parameter = _resolve(given, document)
        yield _row(f"{parameter['in']} {parameter['name']}", parameter.get("description", ""))
    if body := operation.get("requestBody"):
        (content,) = body["content"].values()
        schema = _resolve(content["schema"], document)
        yield _row("body", schema.get("description", ""))
        for name, field in schema.get("properties", {}).items():
            yield _row(f"body {name}", field.get("description", ""))
    for status, response in operation["responses"].items():
        yield _row(status, response["description"])


def _resolve(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a `$ref` points to, or the schema itself if it has none."""
    if "$ref" not in schema:
        return schema
    target: Mapping[str, Any] = document
    for key in schema["$ref"].split("/")[1:]:
        target = target[key]
    return target


def _row(name: str, description: str) -> str:
    return f"<tr><td><code>{escape(name)}</code></td><td>{escape(description)}</td></tr>"
