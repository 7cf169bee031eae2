"""
Errors as clients see them: problem details for HTTP APIs (RFC 9457), and nothing else.

`type` is a URN that programs can compare; `detail` gives place, finding and remedy for a person.
"""

from __future__ import annotations

import re
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
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    RegistryError,
    Unavailable,
    UpshotError,
)
from upshot.registry.lookup import hint

MEDIA_TYPE = "application/problem+json"
_SHOWN_CHARS = 100  # of a wrong word
RETRY_AFTER_SECONDS = 1  #: when a store that does not answer may be asked again

log = structlog.get_logger("upshot.web")


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    place: str = Field(description="Where: `body.aliases.0`, `query.limit`, `path.version`, `header.…`.")
    detail: str = Field(description="What is wrong there, and what would be right.")


class ProblemRecord(BaseModel):
    """What every error answers, as `application/problem+json` (RFC 9457)."""

    type: str = Field(description="Kind of problem, for programs: `urn:upshot:problem:not-found`.")
    title: str = Field(description="Kind of problem, in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened here, and what can be done.")
    errors: list[FieldError] | None = Field(None, description="Everything that is wrong with the request.")


class Problem(HTTPException):
    """
    An answer other than the one that was asked for.

    It is an HTTPException because FastAPI lets only these pass while it reads a body.

    Args:
        status: HTTP status.
        kind: Last word of the type's URN; the title is made of it.
        detail: Place, finding and remedy.
        errors: Everything that is wrong with the request, where there may be several things.
        headers: To be sent along.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.errors = errors
        self.more = more

    def response(self) -> Response:
        """The answer."""
        form: dict[str, Any] = {
            "type": f"urn:upshot:problem:{self.kind}",
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status_code,
            "detail": self.detail,
            **self.more,
        }
        if self.errors:
            form["errors"] = [finding.model_dump() for finding in self.errors]
        return Response(
            orjson.dumps(form), status_code=self.status_code, media_type=MEDIA_TYPE, headers=dict(self.headers or {})
        )


def invalid(errors: Sequence[FieldError]) -> Problem:
    """A request that breaks a rule, in one or several places."""
    first = f"{errors[0].place}: {errors[0].detail}"
    others = f" (and {len(errors) - 1} more, see errors)" if len(errors) > 1 else ""
    return Problem(422, "invalid-input", first + others, errors=errors)


_STATUS_OF: tuple[tuple[type[UpshotError], int, str], ...] = (
    (NotFound, 404, "not-found"),
    (AlreadyExists, 409, "already-exists"),
    (Conflict, 409, "conflict"),
    (Forbidden, 403, "forbidden"),
    (InvalidInput, 422, "invalid-input"),
    (RegistryError, 422, "invalid-input"),
)


def problem_of(error: UpshotError) -> Problem:
    """The answer for an error of ours; its class decides."""
    for family, status, kind in _STATUS_OF:
        if isinstance(error, family):
            return Problem(status, kind, str(error))
    if isinstance(error, Unavailable):
        log.warning("request.unavailable", reason=str(error))
        return Problem(
            503,
            "unavailable",
            "the database does not answer; nothing that was accepted is lost, try again",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    return unexpected()


def unexpected() -> Problem:
    """The answer when we are at fault; what happened is in the log and nowhere else."""
    return Problem(500, "internal", "the server made a mistake; its log says which")


_SAID_PLAINLY = {
    "missing": "is missing",
    "model_type": "a JSON object is needed",
    "model_attributes_type": "a JSON object is needed",
    "dict_type": "a JSON object is needed",
    "list_type": "a list is needed",
    "string_type": "a string is needed",
    "int_parsing": "a whole number is needed",
}


def _finding(error: Mapping[str, Any]) -> FieldError:
    """One of pydantic's findings; where it lists the words that are allowed, with the nearest of them."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "enum":
        words = [word.strip("'") for word in re.split(", | or ", error["ctx"]["expected"])]
        given = str(error["input"])[:_SHOWN_CHARS]
        return FieldError(place=place, detail=f"{given!r} is not known{hint(given, words)}")
    message = _SAID_PLAINLY.get(error["type"]) or error["msg"]
    return FieldError(place=place, detail=message[:1].lower() + message[1:])


def _methods_of(request: Request) -> list[str]:
    """Every method that some route has for this path; the router tells only the first route's."""
    methods: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches({**request.scope, "method": ""})
        if match is not Match.NONE:
            methods |= getattr(route, "methods", set())
    return sorted(methods)


def _of_http(request: Request, error: HTTPException) -> Problem:
    place = f"{request.method} {request.url.path}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem(404, "not-found", f"{place}: there is no such route; /api/v1/openapi.json lists all of them")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_methods_of(request))
        return Problem(405, "method-not-allowed", f"{place}: use {allowed} here", headers={"Allow": allowed})
    phrase = HTTPStatus(error.status_code).phrase
    return Problem(error.status_code, phrase.lower().replace(" ", "-"), f"{place}: {error.detail}")


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    @app.exception_handler(Problem)
    async def on_problem(_request: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(UpshotError)
    async def on_error(_request: Request, error: UpshotError) -> Response:
        return problem_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> Response:
        return invalid([_finding(item) for item in error.errors()]).response()

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        return _of_http(request, error).response()


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemRecord"}}}
    return {status: {"description": _MEANING[status], "content": content} for status in sorted({*statuses, 422, 503})}


_MEANING = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    403: "This host, origin or actor may not do this.",
    404: "What was named does not exist.",
    409: "It exists already, its present state does not allow this, or the same request is being worked on.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "The input breaks a rule, or the idempotency key was used for another request.",
    503: "The database does not answer; try again.",
}
