"""
Authentication of requests: the server's token, job tokens, and servers without a token.

A server without a token listens on loopback only and answers any program of the machine. A browser page is not such
a program. It can reach a server on loopback through a cross-origin request, or through a name that it makes point
there (DNS rebinding). So without a token the `Host` must be a name of this machine, and an `Origin` must be the
server's own.

A job's token gives access only to what the job works on (see `JOB_SCOPE`).
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from upshot.domain import job_token
from upshot.domain.job import Job
from upshot.errors import ConfigError
from upshot.ids import JobId
from upshot.net import is_loopback
from upshot.ports.jobs import JobAdmin
from upshot.resources.urls import API_PREFIX
from upshot.settings import Settings
from upshot.web.problems import Problem

ACTOR_HEADER = "X-Upshot-Actor"
_METRICS = "/metrics"
# The document and its page only repeat what the source code says, and a browser sends no token for them.
_OPEN_API_PATHS = frozenset({f"{API_PREFIX}/openapi.json", f"{API_PREFIX}/docs"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_SHOWN_CHARS = 200  # of a path in a message

_ALL_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_READ = frozenset({"GET"})
#: Paths, and everything below them, that a job may request with its token. `{event_id}` and `{job_id}` are its own.
#: The registry treats a job as a member: it refuses what only an admin may do, such as moving a protected alias.
JOB_SCOPE = (
    ("/registries", _ALL_METHODS),
    ("/projects", _ALL_METHODS),
    ("/history", _READ),
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
        ConfigError: The server would listen beyond loopback, and no token is set.
    """
    if configured_token(settings) is None and not is_loopback(settings.host):
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
        own_names = {settings.host.lower(), _host_name(urlsplit(settings.public_url or "").netloc)}
        self._host_names = _LOOPBACK_NAMES | {name for name in own_names if name}

    def check(self, path: str, headers: Headers, local_address: str) -> JobId | None:
        """
        Check the credentials of a request.

        Args:
            path: The decoded path.
            headers: The request's headers.
            local_address: The server's address that the request reached. `upshot up` also listens for containers.

        Returns:
            Id of the job whose token the request has, for `JobTokenAuth` to check; None if nothing is left to check.

        Raises:
            Problem: 401 without the right token; 403 from another host or origin.
        """
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else ""
        needs_token = path == _METRICS or (path.startswith("/api/") and path not in _OPEN_API_PATHS)
        if token.startswith(job_token.PREFIX) and not self._is_server_token(token):
            # A page on another site cannot know such a token, so host and origin do not matter.
            job_id = job_token.verify(self._key, token)
            if job_id is None:
                raise _wrong_token(
                    "this token belongs to no job of this server; "
                    "a job finds its own token in UPSHOT_TOKEN, and its server in UPSHOT_URL"
                )
            return job_id if needs_token else None
        if self._token is None:
            self._check_source(headers)
        elif needs_token and not (path == _METRICS and self._metrics_open and is_loopback(local_address)):
            self._check_token(token)
        return None

    def _is_server_token(self, token: str) -> bool:
        return self._token is not None and hmac.compare_digest(token.encode(), self._token)

    def _check_token(self, token: str) -> None:
        if not token:
            raise Problem(
                401,
                "unauthorized",
                "header.authorization: no token; send `Authorization: Bearer TOKEN` with the server's token",
                headers={"WWW-Authenticate": 'Bearer realm="upshot"'},
            )
        if not self._is_server_token(token):
            raise _wrong_token(
                "this is not the server's token; find it in UPSHOT_TOKEN where the server runs, "
                "or in endpoint.json in its data directory"
            )

    def _check_source(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if _host_name(host) not in self._host_names:
            raise Problem(
                403,
                "forbidden",
                f"header.host: {host[:100]!r} is not a name of this server; without a token it answers only to "
                f"{', '.join(sorted(self._host_names))}; set UPSHOT_TOKEN, or set UPSHOT_PUBLIC_URL to this address",
            )
        origin = headers.get("origin")
        if origin is not None and not _is_same_host(origin, host):
            raise Problem(
                403,
                "forbidden",
                f"header.origin: a page from {origin[:100]!r} may not call this server, which has no token; "
                "set UPSHOT_TOKEN",
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


def _host_name(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


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
