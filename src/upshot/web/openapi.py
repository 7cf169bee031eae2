"""The OpenAPI document: what FastAPI finds, and what the gate and the keys add to every route."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from upshot import __version__
from upshot.web.auth import API
from upshot.web.idempotency import HEADER, KEPT_HOURS, MAX_KEY_CHARS
from upshot.web.problems import ProblemRecord, responses
from upshot.web.routing import MUTATIONS

_DESCRIPTION = f"""\
Registry, events, executions and automations of Upshot.

- `{{collection}}`, `{{alias}}` and all other names in paths are URL-encoded.
- Lists are pages: `{{"items": […], "next": cursor}}`; pass `next` as `cursor`, null means the end.
- Errors are problem details (RFC 9457), as `application/problem+json`.
- A mutation that bears `{HEADER}` is done once; sent again within {KEPT_HOURS} hours it is answered as the first time.
"""


def document(app: FastAPI) -> dict[str, Any]:
    """The document; made once, for it does not change."""
    if app.openapi_schema is None:
        app.openapi_schema = _complete(
            get_openapi(title="Upshot", version=__version__, description=_DESCRIPTION, routes=app.routes)
        )
    return app.openapi_schema


def _complete(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    record = ProblemRecord.model_json_schema(ref_template="#/components/schemas/{model}")
    components.setdefault("schemas", {}).update(record.pop("$defs"), ProblemRecord=record)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    components["parameters"] = {"idempotency-key": _KEY}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _complete_operation(operation, in_api=path.startswith(API), mutates=method.upper() in MUTATIONS)
    return schema


def _complete_operation(operation: dict[str, Any], *, in_api: bool, mutates: bool) -> None:
    added = [403]
    if in_api:
        operation["security"] = [{"token": []}]
        added.append(401)
    if mutates:
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/idempotency-key"})
        added.append(409)
    if "requestBody" in operation:
        added += [400, 413, 415]
    for status, meaning in responses(*added).items():
        operation["responses"].setdefault(str(status), meaning)


_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Names this request, so that sending it again does not do it again; a UUID for instance.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS},
}
