"""The route class of pages: who has not signed in is led to the sign-in page, and errors are pages, too."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from upshot.errors import UpshotError
from upshot.web.pages.rendering import HEADERS, form_binding, render, sessions_of
from upshot.web.problems import Problem, problem_from_error
from upshot.web.routing import CheckedRoute, Handler

SIGN_IN = "/sign-in"
MAX_FORM_BYTES = 64 * 1024
_MAX_FIELDS = 50
_FORM = "application/x-www-form-urlencoded"
_REFUSED = "This form is too old, or another site sent it. Load the page again, and send the form from there."


class PageRoute(CheckedRoute):
    """A route whose answers are pages."""

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().handle(scope, receive, send)
        except Problem as problem:
            request = Request(scope, receive)
            if problem.status_code == HTTPStatus.UNAUTHORIZED:
                response: Response = to_sign_in(request)
            else:
                response = error_page(request, problem)
            await response(scope, receive, send)

    @override
    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_as_page(request: Request) -> Response:
            try:
                return await handle(request)
            except Problem as problem:
                return error_page(request, problem)
            except UpshotError as error:
                return error_page(request, problem_from_error(error))

        return handle_as_page


def make_page_router() -> APIRouter:
    """Return a router of pages. They are not part of the API's document."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def error_page(request: Request, problem: Problem) -> Response:
    """Return the page of an error: what happened, and what to do."""
    return render(
        request,
        "error.html",
        status=problem.status_code,
        headers={name: value for name, value in (problem.headers or {}).items() if name == "Retry-After"},
        problem=problem,
        title=problem.kind.replace("-", " ").capitalize(),
    )


def to_sign_in(request: Request) -> Response:
    """Lead to the sign-in page, and from there back to the page that was asked for."""
    path = request.url.path
    if request.url.query:
        path += f"?{request.url.query}"
    query = f"?next={quote(path, safe='/')}" if request.method == "GET" and path != "/" else ""
    return RedirectResponse(SIGN_IN + query, status_code=303, headers=HEADERS)


def local_path(text: str) -> str:
    """Return a path of this server that a form or a link named; the home page if it leads elsewhere."""
    is_local = text.startswith("/") and not text.startswith(("//", "/\\"))
    return text if is_local and text.isprintable() and "\\" not in text else "/"


async def read_form(request: Request) -> dict[str, str]:
    """
    Return the fields of a form that this server has made for this browser.

    Raises:
        Problem: 403 if it has not; 413 or 415 if it is no form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Problem(415, "unsupported-media-type", "Send the form from the page.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise Problem(413, "too-large", "The form is too large.")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise Problem(422, "invalid-input", "The form cannot be read. Load the page again.") from error
    form = dict(pairs)
    if not sessions_of(request).is_form_token(form.get("form_token", ""), form_binding(request)):
        raise Problem(403, "forbidden", _REFUSED)
    return form
