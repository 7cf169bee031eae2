"""
Authentication of requests: the server's token, named tokens, job tokens, sessions, and servers without a token.

A server without a token listens on loopback only and answers any program of the machine. A web page must not use that.
It can reach the server through a cross-origin request, or through a name that resolves to the machine (DNS rebinding).
So if an answer needs no token, the `Host` must be a name of this server. Without a token, an `Origin` must also be the
server's own. Changes from pages of other sites are refused even with a token, because a proxy in front of the server
may add it. Probes may send any host name, because they do not know it.

A server needs a token as soon as UPSHOT_TOKEN is set or there is a named token. What a caller may do is the subject of
`upshot.web.permissions`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from upshot.clock import format_optional_time, format_time
from upshot.domain import access, job_token
from upshot.domain.access import AccessToken, Caller
from upshot.domain.event import Actor, ActorKind, Role
from upshot.domain.job import Job
from upshot.errors import ConfigError
from upshot.ids import JobId
from upshot.net import is_loopback
from upshot.ports.jobs import JobAdmin
from upshot.resources.urls import API_PREFIX
from upshot.settings import Settings, split_list
from upshot.web.problems import Problem

MIN_TOKEN_CHARS = 16  #: minimum length of a token if other machines can reach the server
STRONG_TOKEN_CHARS = 32  #: a shorter token of the settings might be guessed
DEFAULT_ACTOR = "admin"  #: the actor of requests with the server's token, which names nobody
_METRICS = "/metrics"
# The document and its page only repeat what the source code says, and a browser sends no token for them.
_OPEN_API_PATHS = frozenset({f"{API_PREFIX}/openapi.json", f"{API_PREFIX}/docs"})
_PROBE_PATHS = frozenset({"/healthz", "/readyz"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARD_ADDRESSES = frozenset({"0.0.0.0", "::"})  # noqa: S104 - names no host

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class NamedToken:
    """The text of a named token that a request has, and that is not checked yet."""

    text: str


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The text of a session that a request has, and that is not checked yet."""

    text: str
    is_required: bool  #: whether the answer needs a caller; a page leads to the sign-in page instead


#: What a request shows to be let in. None means that no caller is needed, or that there is none.
Credentials = Caller | NamedToken | SessionCookie | JobId | None

SERVER = Caller(Actor(DEFAULT_ACTOR, role=Role.ADMIN), may_name_actor=True)  #: a request with the server's token


def configured_token(settings: Settings) -> str | None:
    """Return the token that requests must send, or None if there is none. An empty token counts as none."""
    return (settings.token.get_secret_value() or None) if settings.token else None


def check_exposure(settings: Settings) -> None:
    """
    Refuse to serve other machines without a token.

    Raises:
        ConfigError: The server would listen beyond loopback, and the token is missing or easy to guess.
    """
    token = configured_token(settings)
    if is_loopback(settings.host):
        return
    if token is not None and len(token) < MIN_TOKEN_CHARS:
        raise ConfigError(
            f"UPSHOT_TOKEN has {len(token)} characters; other machines can reach {settings.host}, so it must have at "
            f"least {MIN_TOKEN_CHARS}; `openssl rand -hex 32` makes one"
        )
    if token is None:
        raise ConfigError(
            f"UPSHOT_HOST: other machines can reach {settings.host}, and no token is set; "
            "set UPSHOT_TOKEN, or listen on 127.0.0.1"
        )


class TokenAuth:
    """
    Checks the credentials of every request, or its host and origin if the server has no token.

    Args:
        settings: Token, host and public URL of the server.
        key: The installation's key, with which job tokens are signed.

    Raises:
        ConfigError: The server would listen beyond loopback, and no token is set.
    """

    def __init__(self, settings: Settings, key: bytes) -> None:
        check_exposure(settings)
        token = configured_token(settings)
        self._token = token.encode() if token else None
        self._key = key
        self._metrics_open = is_loopback(settings.host)
        self._host_names = _LOOPBACK_NAMES | _own_names(settings)
        allowed = [_host_name(name) or name for name in split_list(settings.allowed_hosts)]
        self._host_names |= {name for name in allowed if not name.startswith("*.")}
        self._host_suffixes = tuple(name[1:] for name in allowed if name.startswith("*."))

    def check(
        self,
        method: str,
        path: str,
        headers: Headers,
        local_address: str,
        *,
        session: str | None = None,
        has_named_tokens: bool = False,
    ) -> Credentials:
        """
        Check the credentials of a request, as far as that needs no store.

        Args:
            method: The request's method.
            path: The decoded path.
            headers: The request's headers.
            local_address: The server's address that the request reached. `upshot up` also listens for containers.
            session: The session's cookie, if the request has one.
            has_named_tokens: Whether there are named tokens, so that the server needs a token.

        Returns:
            The caller, or what is left to check.

        Raises:
            Problem: 401 without the right token; 403 from another host or origin.
        """
        if method not in _SAFE_METHODS:
            self._refuse_other_sites(headers)
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else ""
        is_api = path.startswith("/api/")
        needs_token = path == _METRICS or (is_api and path not in _OPEN_API_PATHS)
        if self.is_server_token(token):
            return SERVER
        if token.startswith(job_token.PREFIX):
            # A page on another site cannot know such a token, so host and origin do not matter.
            job_id = job_token.verify(self._key, token)
            if job_id is None:
                raise wrong_token(
                    "this token belongs to no job of this server; "
                    "a job finds its own token in UPSHOT_TOKEN, and its server in UPSHOT_URL"
                )
            return job_id if needs_token else None
        if path in _PROBE_PATHS:
            return None
        if token.startswith(access.PREFIX):
            return NamedToken(token)
        if session and not token and (not is_api or method in _SAFE_METHODS):
            return SessionCookie(session, is_required=needs_token)
        if self._token is None and not has_named_tokens:
            self._check_host(headers)
            self._check_origin(headers)
            return SERVER
        if needs_token and not (path == _METRICS and self._metrics_open and is_loopback(local_address)):
            self._refuse_token(token)
        self._check_host(headers)
        return SERVER if path == _METRICS else None

    def is_server_token(self, token: str) -> bool:
        """Return whether a text is the token in the settings."""
        return self._token is not None and hmac.compare_digest(token.encode(), self._token)

    @property
    def has_server_token(self) -> bool:
        """Whether the settings have a token."""
        return self._token is not None

    @property
    def is_guessable(self) -> bool:
        """Whether the token in the settings is so short that it might be guessed."""
        return self._token is not None and len(self._token) < STRONG_TOKEN_CHARS

    def _refuse_token(self, token: str) -> NoReturn:
        if not token:
            raise Problem(
                401,
                "unauthorized",
                "header.authorization: no token; send `Authorization: Bearer TOKEN` with a token of this server",
                headers={"WWW-Authenticate": 'Bearer realm="upshot"'},
            )
        raise wrong_token(
            "this is no token of this server; an admin can make one with `upshot tokens create`, and the server's own "
            "token is in UPSHOT_TOKEN where the server runs, or in endpoint.json in its data directory"
        )

    def _is_own_name(self, name: str | None) -> bool:
        return name is not None and (
            name in self._host_names or name.endswith(self._host_suffixes) or is_loopback(name)
        )

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) == 1 and self._is_own_name(_host_name(hosts[0])):
            return
        host = ", ".join(hosts)
        raise Problem(
            403,
            "forbidden",
            f"header.host: {host[:100]!r} is not a name of this server; without a token it answers only to "
            f"{', '.join(sorted(self._host_names))}; add the name to UPSHOT_ALLOWED_HOSTS, or set UPSHOT_PUBLIC_URL "
            "to this address",
        )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and not _is_same_host(origin, headers.get("host", "")):
            raise Problem(
                403,
                "forbidden",
                f"header.origin: a page from {origin[:100]!r} may not call this server, which has no token; "
                "set UPSHOT_TOKEN",
            )

    def _refuse_other_sites(self, headers: Headers) -> None:
        """Refuse a request that a page of another site makes a browser send. Old browsers send only the origin."""
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        if site is not None:
            place, is_other = "header.sec-fetch-site", site == "cross-site"
        elif origin is not None:
            name = _host_name(origin.partition("://")[2])
            is_same = self._is_own_name(name) or _is_same_host(origin, headers.get("host", ""))
            place, is_other = "header.origin", not is_same
        else:
            return
        if is_other:
            raise Problem(
                403,
                "forbidden",
                f"{place}: a page of another site ({(origin or 'unknown')[:100]!r}) may not change anything here; "
                "send the request from a program, or from a page of this server",
            )


class JobTokenAuth:
    """
    Finds the job that makes a request: it acts as itself, as a member, while it is active.

    Args:
        jobs: Finds the job.
    """

    def __init__(self, jobs: JobAdmin) -> None:
        self._jobs = jobs

    def check(self, job_id: JobId) -> Caller:
        """
        Return the caller.

        Raises:
            Problem: 401 if the job is not active.
        """
        job = self._jobs.find(job_id)
        if job is None or not job.state.is_active:
            state = "removed" if job is None else job.state.value
            raise wrong_token(f"job {job_id} is {state}; its token is valid only while it runs")
        return caller_of_job(job)


def caller_of_job(job: Job) -> Caller:
    """Return the caller of a request with a job's token."""
    return Caller(Actor(f"{job.automation}/{job.step_id}", ActorKind.JOB, Role.MEMBER), job=job)


def ended_token(token: AccessToken) -> Problem:
    """Return the problem of a request with a named token that is revoked or has expired."""
    if token.revoked_at is not None:
        reason = f"was revoked by {token.revoked_by} at {format_time(token.revoked_at)}"
    else:
        reason = f"expired at {format_optional_time(token.expires_at)}"
    return wrong_token(f"the token {token.name!r} {reason}; ask an admin for a new one")


def _own_names(settings: Settings) -> frozenset[str]:
    """Return the host names in the settings through which clients and jobs reach the server."""
    urls = (settings.public_url, settings.jobs_url)
    names = {settings.host.lower(), *(_host_name(urlsplit(url or "").netloc) for url in urls)}
    return frozenset(name for name in names if name) - _WILDCARD_ADDRESSES


def _host_name(netloc: str) -> str | None:
    """Return the host of `host:port`, normalized for comparisons, or None if there is none."""
    if not netloc.isascii() or any(character in netloc for character in "@/?#\\"):
        return None
    try:
        name = urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None
    return name.removesuffix(".") if name else None


def _is_same_host(origin: str, host: str) -> bool:
    scheme, separator, netloc = origin.partition("://")
    return bool(scheme and separator) and netloc.lower() == host.lower()


def wrong_token(detail: str) -> Problem:
    """Return the problem of a request with a token that is not valid."""
    return Problem(
        401,
        "unauthorized",
        f"header.authorization: {detail}",
        headers={"WWW-Authenticate": 'Bearer realm="upshot", error="invalid_token"'},
    )
