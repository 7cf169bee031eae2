"""
Authentication of requests: the server's token, job tokens, and servers without a token.

A server without a token listens on loopback only and answers any program of the machine. A web page must not use that.
It can reach the server through a cross-origin request, or through a name that resolves to the machine (DNS rebinding).
So if an answer needs no token, the `Host` must be a name of this server. Without a token, an `Origin` must also be the
server's own. Changes from pages of other sites are refused even with a token, because a proxy in front of the server
may add it. Probes may send any host name, because they do not know it.

A job's token gives access only to what the job works on (see `JOB_SCOPE`).
"""

from __future__ import annotations

import hmac
from typing import NoReturn
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from upshot.domain import job_token
from upshot.domain.job import Job
from upshot.errors import ConfigError
from upshot.ids import JobId
from upshot.net import is_loopback
from upshot.ports.jobs import JobAdmin
from upshot.resources.urls import API_PREFIX
from upshot.settings import Settings, split_list
from upshot.web.problems import Problem

MIN_TOKEN_CHARS = 16  #: minimum length of a token if other machines can reach the server
ACTOR_HEADER = "X-Upshot-Actor"
_METRICS = "/metrics"
# The document and its page only repeat what the source code says, and a browser sends no token for them.
_OPEN_API_PATHS = frozenset({f"{API_PREFIX}/openapi.json", f"{API_PREFIX}/docs"})
_PROBE_PATHS = frozenset({"/healthz", "/readyz"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARD_ADDRESSES = frozenset({"0.0.0.0", "::"})  # noqa: S104 - names no host
_MAX_SHOWN_CHARS = 200  # of a path in a message

_ALL_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_READ = frozenset({"GET"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Paths, and everything below them, that a job may request with its token. `{event_id}` and `{job_id}` are its own.
#: The registry treats a job as a member: it refuses what only an admin may do, such as moving a protected alias.
JOB_SCOPE = (
    ("/registries", _ALL_METHODS),
    ("/projects", _ALL_METHODS),
    ("/pending-versions", _ALL_METHODS),
    ("/blobs", _ALL_METHODS),
    ("/blob-uploads", _ALL_METHODS),
    ("/history", _READ),
    ("/lineage", _READ),
    ("/events", frozenset({"POST"})),
    ("/events/{event_id}", _READ),
    ("/jobs/{job_id}", _READ),
)


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
    Checks the token of every request, or its host and origin if the server has no token.

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

    def check(self, method: str, path: str, headers: Headers, local_address: str) -> JobId | None:
        """
        Check the credentials of a request.

        Args:
            method: The request's method.
            path: The decoded path.
            headers: The request's headers.
            local_address: The server's address that the request reached. `upshot up` also listens for containers.

        Returns:
            Id of the job whose token the request has, for `JobTokenAuth` to check. None if no check is left.

        Raises:
            Problem: 401 without the right token; 403 from another host or origin.
        """
        if method not in _SAFE_METHODS:
            self._refuse_other_sites(headers)
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else ""
        needs_token = path == _METRICS or (path.startswith("/api/") and path not in _OPEN_API_PATHS)
        if self._is_server_token(token):
            return None
        if token.startswith(job_token.PREFIX):
            # A page on another site cannot know such a token, so host and origin do not matter.
            job_id = job_token.verify(self._key, token)
            if job_id is None:
                raise _wrong_token(
                    "this token belongs to no job of this server; "
                    "a job finds its own token in UPSHOT_TOKEN, and its server in UPSHOT_URL"
                )
            return job_id if needs_token else None
        if path in _PROBE_PATHS:
            return None
        if self._token is None:
            self._check_host(headers)
            self._check_origin(headers)
        elif needs_token and not (path == _METRICS and self._metrics_open and is_loopback(local_address)):
            self._refuse_token(token)
        else:
            self._check_host(headers)
        return None

    def _is_server_token(self, token: str) -> bool:
        return self._token is not None and hmac.compare_digest(token.encode(), self._token)

    def _refuse_token(self, token: str) -> NoReturn:
        if not token:
            raise Problem(
                401,
                "unauthorized",
                "header.authorization: no token; send `Authorization: Bearer TOKEN` with the server's token",
                headers={"WWW-Authenticate": 'Bearer realm="upshot"'},
            )
        raise _wrong_token(
            "this is not the server's token; find it in UPSHOT_TOKEN where the server runs, "
            "or in endpoint.json in its data directory"
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
    Checks what a job may do: it acts as itself, while it is active, and within `JOB_SCOPE`.

    Args:
        jobs: Finds the job.
    """

    def __init__(self, jobs: JobAdmin) -> None:
        self._jobs = jobs

    def check(self, job_id: JobId, method: str, path: str, headers: Headers) -> Job:
        """
        Return the job that makes a request, if it may make it.

        Raises:
            Problem: 401 if the job is not active; 403 if a job may not do this.
        """
        job = self._jobs.find(job_id)
        if job is None or not job.state.is_active:
            state = "removed" if job is None else job.state.value
            raise _wrong_token(f"job {job_id} is {state}; its token is valid only while it runs")
        if ACTOR_HEADER in headers:
            raise Problem(403, "forbidden", f"header.{ACTOR_HEADER}: a job acts as itself; leave the header out")
        for prefix, methods in JOB_SCOPE:
            allowed = API_PREFIX + prefix.format(event_id=job.event_id, job_id=job.id)
            if method in methods and (path == allowed or path.startswith(f"{allowed}/")):
                return job
        raise Problem(
            403,
            "forbidden",
            f"{method} {path[:_MAX_SHOWN_CHARS]}: a job may read and change registries and projects, emit events, and "
            "read itself and its own event; use the server's token for anything else",
        )


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


def _wrong_token(detail: str) -> Problem:
    return Problem(
        401,
        "unauthorized",
        f"header.authorization: {detail}",
        headers={"WWW-Authenticate": 'Bearer realm="upshot", error="invalid_token"'},
    )
