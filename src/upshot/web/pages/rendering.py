"""Render a page from its template, and the headers that all pages have."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from upshot.domain.access import Caller
from upshot.web.sessions import Sessions

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
#: A page shows what one person may see, so no cache keeps it. The address goes to no other site. It is not
#: `no-referrer`, because browsers would then hide the origin of forms.
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
}
_STATIC = files("upshot.web.pages") / "static"
_HASH_CHARS = 12
_WEEK = timedelta(days=7)


def render(
    request: Request, template: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> Response:
    """
    Return a page.

    Args:
        request: Says who sees the page.
        template: Name of a file in `templates`.
        status: HTTP status.
        headers: More headers.
        context: What the template names, besides `caller`, `now`, `form_token` and `session`.
    """
    state = request.state
    caller: Caller | None = getattr(state, "caller", None)
    page = _environment().get_template(template)
    now: datetime = request.app.state.deps.clock.now()
    text = page.render(
        caller=caller,
        session=getattr(state, "session", None),
        now=now,
        form_token=getattr(state, "form_token", None) or form_token(request),
        **context,
    )
    return HTMLResponse(text, status_code=status, headers={**HEADERS, **(headers or {})})


def form_token(request: Request) -> str:
    """Return what a form of this browser must send."""
    return sessions_of(request).form_token(form_binding(request))


def form_binding(request: Request) -> str:
    """Return what a form is bound to: the session, or a cookie for people without one. Empty if there is none."""
    session: str | None = getattr(request.state, "session", None)
    return session or request.cookies.get(sessions_of(request).form_cookie_name, "")


def sessions_of(request: Request) -> Sessions:
    """Return the sessions of the application."""
    sessions: Sessions = request.app.state.sessions
    return sessions


@cache
def static_content(name: str) -> bytes | None:
    """Return a file of `static`, or None if it does not exist."""
    if not name.replace(".", "").replace("-", "").isalnum() or name.startswith("."):
        return None
    path = _STATIC / name
    return path.read_bytes() if path.is_file() else None


@cache
def static_url(name: str) -> str:
    """Return the address of a file of `static`. It changes with the content, so a browser may keep it."""
    content = static_content(name)
    if content is None:
        raise AssertionError(f"unreachable: there is no file {name}")
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:_HASH_CHARS]}"


def relative_time(moment: datetime, now: datetime) -> str:
    """Describe a time: relative within a week, as a date before that."""
    age = now - moment
    if age >= _WEEK:
        date = f"{moment.day} {moment:%b}"
        return date if moment.year == now.year else f"{date} {moment.year}"
    seconds = max(0, int(age.total_seconds()))
    for unit, size in (("day", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''} ago"
    return f"{seconds} s ago"


def duration(seconds: float) -> str:
    """Describe a duration with two units at most."""
    whole = max(0, int(seconds))
    for (unit, size), (smaller, smaller_size) in ((("d", 86_400), ("h", 3_600)), (("h", 3_600), ("min", 60))):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"  # noqa: PLR2004 - seconds of a minute


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("upshot.web.pages", "templates"),
        autoescape=True,  # in every template, whatever its name
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = static_url
    environment.filters["ago"] = relative_time
    environment.filters["duration"] = duration
    environment.filters["utc"] = lambda moment: f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    environment.filters["rfc3339"] = lambda moment: f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    return environment
