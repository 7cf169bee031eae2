"""
Errors as clients see them: problem details for HTTP APIs (RFC 9457).

`type` is a URN for programs. `detail` names the place, the finding and the remedy for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from upshot.errors import (
    AlreadyExists,
    BlobsUnavailable,
    Conflict,
    Forbidden,
    InvalidInput,
    NoSpace,
    NotFound,
    RegistryError,
    Unavailable,
    UpshotError,
)
from upshot.resources.urls import API_PREFIX
from upshot.validation import validation_problems

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1  #: when a client may ask a store again that did not answer

log = structlog.get_logger("upshot.web")


class FieldError(BaseModel):
    """One mistake in a request."""

    location: str = Field(description="`body.aliases.0`, `query.limit`, `path.version`, `header.…`.")
    detail: str = Field(description="What is wrong there, and what would be right.")


class ProblemDetails(BaseModel):
    """The body of every error, as `application/problem+json` (RFC 9457)."""

    type: str = Field(description="Kind of problem, for programs: `urn:upshot:problem:not-found`.")
    title: str = Field(description="Kind of problem, in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, and what you can do.")
    errors: list[FieldError] | None = Field(None, description="Every mistake in the request.")
    next_sequence: int | None = Field(None, description="The request of a run's session that is expected.")


class Problem(HTTPException):
    """
    An error response.

    It is an HTTPException because FastAPI lets only these pass while it reads a body.

    Args:
        status: HTTP status.
        kind: Last word of the type's URN; the title is derived from it.
        detail: Place, finding and remedy.
        errors: Every mistake in the request, if there can be several.
        headers: Additional response headers.
        members: Additional members of the JSON object.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.errors = errors
        self.members = members

    def response(self) -> Response:
        """Return the response."""
        data: dict[str, Any] = {
            "type": f"urn:upshot:problem:{self.kind}",
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status_code,
            "detail": self.detail,
            **self.members,
        }
        if self.errors:
            data["errors"] = [error.model_dump() for error in self.errors]
        return Response(
            orjson.dumps(data), status_code=self.status_code, media_type=MEDIA_TYPE, headers=dict(self.headers or {})
        )


def invalid_input(errors: Sequence[FieldError]) -> Problem:
    """Return the problem of a request with one or several mistakes."""
    first = f"{errors[0].location}: {errors[0].detail}"
    others = f" (and {len(errors) - 1} more, see errors)" if len(errors) > 1 else ""
    return Problem(422, "invalid-input", first + others, errors=errors)


def internal_error() -> Problem:
    """Return the problem of an unexpected error. Only the log says what happened."""
    return Problem(500, "internal", "the server failed; its log has the details")


_STATUSES: tuple[tuple[type[UpshotError], int, str], ...] = (
    (NotFound, 404, "not-found"),
    (AlreadyExists, 409, "already-exists"),
    (Conflict, 409, "conflict"),
    (Forbidden, 403, "forbidden"),
    (InvalidInput, 422, "invalid-input"),
    (RegistryError, 422, "invalid-input"),
)


def problem_from_error(error: UpshotError) -> Problem:
    """Return the problem for an error; its class decides."""
    for error_class, status, kind in _STATUSES:
        if isinstance(error, error_class):
            return Problem(status, kind, str(error))
    if isinstance(error, Unavailable):
        log.warning("request.unavailable", reason=str(error))
        return _unavailable(error)
    return internal_error()


def _unavailable(error: Unavailable) -> Problem:
    """Return the problem for a store that cannot be used now. Only the log says what it answered, and where it is."""
    kind, detail = "unavailable", "the database does not answer; nothing that was accepted is lost; try again"
    if isinstance(error, NoSpace):
        kind = "no-space"
        detail = (
            "no space is left on a disk of the server, whose log says which one; nothing of this request was stored, "
            "and nothing that was accepted is lost; free some space there, then try again"
        )
    elif isinstance(error, BlobsUnavailable):
        detail = (
            "the store of files does not answer, and the log of the server says why; nothing that was accepted is "
            "lost; try again"
        )
    return Problem(503, kind, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def install(app: FastAPI) -> None:
    """Turn every error of the app's routes into a problem."""

    @app.exception_handler(Problem)
    async def on_problem(_request: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(UpshotError)
    async def on_upshot_error(_request: Request, error: UpshotError) -> Response:
        return problem_from_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_request: Request, error: RequestValidationError) -> Response:
        mistakes = validation_problems(error.errors(), mapping="a JSON object")
        return invalid_input([FieldError(location=m.dotted_path, detail=m.message) for m in mistakes]).response()

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        route = f"{request.method} {request.url.path}"
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = f"{route}: there is no such route; {API_PREFIX}/openapi.json lists all routes"
            return Problem(404, "not-found", detail).response()
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = ", ".join(_allowed_methods(request))
            detail = f"{route}: this path allows {allowed}"
            return Problem(405, "method-not-allowed", detail, headers={"Allow": allowed}).response()
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        return Problem(error.status_code, kind, f"{route}: {error.detail}").response()


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes with the request's path; the router names only those of the first."""
    methods: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches({**request.scope, "method": ""})
        if match is not Match.NONE:
            methods |= getattr(route, "methods", set())
    return sorted(methods)


_DESCRIPTIONS = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    403: "This host, origin or actor may not do this.",
    404: "The resource does not exist.",
    409: "The resource exists already, its state does not allow this, or the same request is in progress.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "The input is invalid, or the idempotency key was used for another request.",
    503: "The database or the store of files does not answer, or its disk is full; try again.",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for the problems of a route; 422 and 503 are always among them."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": content} for status in sorted({*statuses, 422, 503})
    }
