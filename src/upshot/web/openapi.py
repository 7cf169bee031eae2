"""
The OpenAPI document.

FastAPI derives it from the routes. This module adds what middleware and idempotency keys add to every route, and
gives schemas the names that a generated client should use.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from upshot import __version__
from upshot.resources.urls import API_PREFIX
from upshot.web.idempotency import HEADER, MAX_KEY_CHARS, RETENTION_HOURS
from upshot.web.problems import ProblemDetails, problem_responses
from upshot.web.routing import MUTATING_METHODS

_DESCRIPTION = f"""\
Registry, events, executions, jobs and automations of Upshot.

- Names in paths, such as `{{collection}}` and `{{alias}}`, are URL-encoded.
- Lists are pages: `{{"items": […], "next": cursor}}`. Pass `next` as `cursor`; null means that the page is the last.
- Errors are problem details (RFC 9457), as `application/problem+json`.
- A mutation with `{HEADER}` is made once. If it is sent again within {RETENTION_HOURS} hours, the first response is
  sent again.
"""

_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Identifies this request, such as a UUID, so that sending it again does not repeat the change.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS},
}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the document. It is made at the first call."""
    if app.openapi_schema is None:
        schema = get_openapi(title="Upshot", version=__version__, description=_DESCRIPTION, routes=app.routes)
        components = schema.setdefault("components", {})
        problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update(problem.pop("$defs"), ProblemDetails=problem)
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        components["parameters"] = {"idempotency-key": _IDEMPOTENCY_KEY}
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                _complete_operation(operation, path=path, method=method)
        app.openapi_schema = _rename_schemas(schema)
    return app.openapi_schema


def _complete_operation(operation: dict[str, Any], *, path: str, method: str) -> None:
    """Add security, the idempotency key, and the problems that middleware and body reading can cause."""
    statuses = [403]
    if path.startswith(API_PREFIX):
        operation["security"] = [{"token": []}]
        statuses.append(401)
    if method.upper() in MUTATING_METHODS:
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/idempotency-key"})
        statuses.append(409)
    if "requestBody" in operation:
        statuses += [400, 413, 415]
    for status, response in problem_responses(*statuses).items():
        operation["responses"].setdefault(str(status), response)


def _rename_schemas(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop the suffix by which our classes tell JSON shapes from domain records: `CollectionJson` → `Collection`."""
    text = re.sub(r'("(?:#/components/schemas/)?[A-Z]\w*?)Json"', r'\1"', orjson.dumps(schema).decode())
    renamed: dict[str, Any] = orjson.loads(text)
    return renamed
