"""Find out who makes a request."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from upshot.domain.access import TOKEN_CHARS, Caller, caller_of
from upshot.web.auth import Credentials, JobTokenAuth, NamedToken, SessionCookie, TokenAuth, ended_token, wrong_token
from upshot.web.client_address import client_address
from upshot.web.failed_attempts import FailedAttempts, too_many_failures
from upshot.web.known_tokens import KnownTokens
from upshot.web.problems import Problem
from upshot.web.sessions import Sessions

log = structlog.get_logger("upshot.web")


class AuthenticationMiddleware:
    """
    Refuses requests with wrong credentials, and sets `request.state.caller` and `request.state.session`.

    Args:
        app: The next ASGI application.
        token_auth: Checks the server's token and job tokens, or the host and origin of a server without a token.
        job_token_auth: Finds jobs.
        tokens: Finds named tokens.
        sessions: Finds sessions.
        failures: Counts wrong credentials.
        trusted_proxies: Networks of the reverse proxies.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token_auth: TokenAuth,
        job_token_auth: JobTokenAuth,
        tokens: KnownTokens,
        sessions: Sessions,
        failures: FailedAttempts,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
    ) -> None:
        self._app = app
        self._token_auth = token_auth
        self._job_token_auth = job_token_auth
        self._tokens = tokens
        self._sessions = sessions
        self._failures = failures
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Pass a request on if its credentials are right.

        Raises:
            Problem: 401 or 403; 429 if the address has sent too many wrong tokens.
        """
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            state = scope.setdefault("state", {})
            address = state["address"] = client_address(scope, headers, self._trusted_proxies)
            try:
                state["caller"] = await self._authenticate(scope, headers, address)
            except Problem as problem:
                if problem.status_code == HTTPStatus.UNAUTHORIZED and "authorization" in headers:
                    self._count_failure(address, problem)
                raise
        await self._app(scope, receive, send)

    async def _authenticate(self, scope: Scope, headers: Headers, address: str) -> Caller | None:
        local_address, _ = scope.get("server") or ("", None)
        if not self._token_auth.has_server_token and not self._tokens.is_fresh:
            await run_in_threadpool(self._tokens.refresh)
        wait_seconds = self._failures.wait_seconds(address)
        try:
            found: Credentials = self._token_auth.check(
                scope["method"],
                scope["path"],
                headers,
                local_address,
                session=HTTPConnection(scope).cookies.get(self._sessions.cookie_name) if "cookie" in headers else None,
                has_named_tokens=self._tokens.are_there_any,
            )
        except Problem as problem:
            if wait_seconds and problem.status_code == HTTPStatus.UNAUTHORIZED and "authorization" in headers:
                raise too_many_failures(wait_seconds) from problem
            raise
        if isinstance(found, Caller) or found is None:
            if found is not None and wait_seconds and self._token_auth.is_guessable and "authorization" in headers:
                raise too_many_failures(wait_seconds)
            return found
        if isinstance(found, NamedToken):
            return await self._caller_of_token(found.text, wait_seconds)
        if isinstance(found, SessionCookie):
            session = await run_in_threadpool(self._sessions.find, found.text)
            if session is None and found.is_required:
                raise wrong_token("the session is over; sign in again, or send a token")
            scope["state"]["session"] = found.text if session else None
            scope["state"]["session_is_over"] = session is None
            return session
        return await run_in_threadpool(self._job_token_auth.check, found)

    async def _caller_of_token(self, text: str, wait_seconds: int) -> Caller:
        if not self._tokens.is_fresh:
            await run_in_threadpool(self._tokens.refresh)
        token = self._tokens.find(text)
        if token is None:
            if wait_seconds:
                raise too_many_failures(wait_seconds)
            token = await run_in_threadpool(self._tokens.look_up, text)
        if token is None:
            raise wrong_token(
                "no token like this is known; it may have been removed, or cut when it was copied: a token has "
                f"{TOKEN_CHARS} characters, this has {len(text)}"
            )
        if not token.is_active(self._tokens.now()):
            raise ended_token(token)
        self._tokens.record_use(token.id)
        return caller_of(token)

    def _count_failure(self, address: str, problem: Problem) -> None:
        log.warning("access.refused", actor=None, address=address, reason=problem.detail)
        if self._failures.add(address):
            log.warning("access.slowed_down", address=address, wait_seconds=self._failures.wait_seconds(address))
