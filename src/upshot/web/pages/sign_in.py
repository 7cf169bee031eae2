"""Sign in with a token or a one-time code, and sign out."""

from __future__ import annotations

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from upshot.domain import job_token
from upshot.domain.access import SESSION_HOURS, TOKEN_CHARS, Caller, caller_of, new_secret
from upshot.web.auth import SERVER, TokenAuth
from upshot.web.failed_attempts import FailedAttempts
from upshot.web.known_tokens import KnownTokens
from upshot.web.pages.page_route import SIGN_IN, local_path, make_page_router, read_form
from upshot.web.pages.rendering import HEADERS, render, sessions_of

router = make_page_router()

_SECONDS = SESSION_HOURS * 3600

log = structlog.get_logger("upshot.web")


@router.get(SIGN_IN)
async def show_sign_in(request: Request) -> Response:
    """Show the form, or sign in with the code in the address."""
    next_path = local_path(request.query_params.get("next", "/"))
    code = request.query_params.get("code")
    if code is not None:
        return await _redeem(request, code)
    if request.state.caller is not None:
        return RedirectResponse(next_path, status_code=303, headers=HEADERS)
    return _form(request, next_path)


@router.post(SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Begin a session for the owner of a token."""
    form = await read_form(request)
    next_path = local_path(form.get("next", "/"))
    failures: FailedAttempts = request.app.state.failures
    address: str = request.state.address
    if wait_seconds := failures.wait_seconds(address):
        return _too_many(request, next_path, wait_seconds)
    found = await _caller(request, form.get("token", "").strip())
    if isinstance(found, str):
        log.warning("access.refused", actor=None, address=address, reason=found)
        failures.add(address)
        return _form(request, next_path, error=found, status=401)
    sessions = sessions_of(request)
    text = await run_in_threadpool(sessions.begin, found)
    log.info("session.began", actor=found.name, role=found.role, address=address)
    return _with_session(request, text, next_path)


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session."""
    await read_form(request)
    sessions = sessions_of(request)
    if text := getattr(request.state, "session", None):
        await run_in_threadpool(sessions.end, text)
    response = RedirectResponse(SIGN_IN, status_code=303, headers=HEADERS)
    response.delete_cookie(sessions.cookie_name, path="/")
    return response


async def _redeem(request: Request, code: str) -> Response:
    failures: FailedAttempts = request.app.state.failures
    address: str = request.state.address
    if wait_seconds := failures.wait_seconds(address):
        return _too_many(request, "/", wait_seconds)
    text = await run_in_threadpool(sessions_of(request).redeem, code)
    if text is None and request.state.caller is not None:  # the link was opened again, in the same browser
        return RedirectResponse("/", status_code=303, headers=HEADERS)
    if text is None:
        failures.add(address)
        log.warning("access.refused", actor=None, address=address, reason="the sign-in code is used, old or unknown")
        return _form(request, "/", link_is_used=True, status=401)
    log.info("session.began", address=address)
    return _with_session(request, text, "/")


async def _caller(request: Request, token: str) -> Caller | str:
    """Return the owner of a token, or why there is none."""
    token_auth: TokenAuth = request.app.state.token_auth
    known: KnownTokens = request.app.state.known_tokens
    if not token:
        return "Enter a token."
    if token_auth.is_server_token(token):
        return SERVER
    if token.startswith(job_token.PREFIX):
        return "This is the token of a job, which cannot sign in."
    found = await run_in_threadpool(known.look_up, token)
    if found is None:
        return (
            "No token like this is known. It may have been removed, or cut when it was copied: a token has "
            f"{TOKEN_CHARS} characters, this has {len(token)}."
        )
    if not found.is_active(known.now()):
        ended = "was revoked" if found.revoked_at else "has expired"
        return f"The token {found.name} {ended}. Ask an admin for a new one."
    known.record_use(found.id)
    return caller_of(found)


def _too_many(request: Request, next_path: str, wait_seconds: int) -> Response:
    error = f"Too many wrong tokens came from your address. Try again in {wait_seconds} seconds."
    return _form(request, next_path, error=error, status=429, headers={"Retry-After": str(wait_seconds)})


def _form(
    request: Request,
    next_path: str,
    *,
    error: str | None = None,
    link_is_used: bool = False,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    sessions = sessions_of(request)
    nonce = request.cookies.get(sessions.form_cookie_name) or new_secret()
    request.state.session = None  # a session that is over binds no form
    request.state.form_token = sessions.form_token(nonce)
    response = render(
        request,
        "sign_in.html",
        status=status,
        headers=headers,
        next_path=next_path,
        error=error,
        link_is_used=link_is_used,
        is_over=getattr(request.state, "session_is_over", False),
        hours=SESSION_HOURS,
    )
    _set_cookie(request, response, sessions.form_cookie_name, nonce)
    return response


def _with_session(request: Request, text: str, next_path: str) -> Response:
    response = RedirectResponse(next_path, status_code=303, headers=HEADERS)
    _set_cookie(request, response, sessions_of(request).cookie_name, text)
    return response


def _set_cookie(request: Request, response: Response, name: str, text: str) -> None:
    public_url = request.app.state.deps.settings.public_url or ""
    is_https = request.url.scheme == "https" or public_url.startswith("https:")
    response.set_cookie(name, text, max_age=_SECONDS, path="/", secure=is_https, httponly=True, samesite="lax")
