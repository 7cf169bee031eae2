"""
Who may come in: bearers of the token, jobs with a token of theirs; without a token, programs of this machine.

A page in a browser of this machine is not such a program: it can be made to ask a server on
loopback, by a request across origins or by a name that it lets point here (DNS rebinding). So
without a token the `Host` must be a name of this machine, and an `Origin` must be our own.

A job's token opens what the job's work is about, and nothing else (see `JobAccess`).
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from upshot.domain import job_token
from upshot.domain.job import Job
from upshot.errors import ConfigError
from upshot.net import is_loopback
from upshot.ports.jobs import JobAdmin
from upshot.settings import Settings
from upshot.web.problems import Problem

API = "/api/v1"
ACTOR_HEADER = "X-Upshot-Actor"
_METRICS = "/metrics"
# The document and its page say what the source code says to everybody; a browser bears no token there.
_OPEN_API = frozenset({f"{API}/openapi.json", f"{API}/docs"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_SHOWN_CHARS = 200  # of a path, in a message
_ANYTHING = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_LOOKING = frozenset({"GET"})
#: What a job may ask for with its token: these paths and those under them. `{event}` and `{job}` are its own.
#: In a registry it counts as a member: what takes an admin there, such as protected aliases, is refused it.
JOB_SCOPE = (
    ("/registries", _ANYTHING),
    ("/projects", _ANYTHING),
    ("/history", _LOOKING),
    ("/events", frozenset({"POST"})),
    ("/events/{event}", _LOOKING),
    ("/jobs/{job}", _LOOKING),
)


def token_of(settings: Settings) -> str | None:
    """The token that requests must bear; None when there is none, an empty one included."""
    return (settings.token.get_secret_value() or None) if settings.token else None


def check_exposure(settings: Settings) -> None:
    """
    Refuse to serve other machines without a token.

    Raises:
        ConfigError: The server would listen beyond loopback, and no token is set.
    """
    if token_of(settings) is None and not is_loopback(settings.host):
        raise ConfigError(
            f"UPSHOT_HOST: {settings.host} can be reached from other machines, and no token is set; "
            "set UPSHOT_TOKEN, or listen on 127.0.0.1"
        )


def _host_name(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _token_in(authorization: str) -> str:
    """What a request bears; nothing where it bears nothing."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _wrong_token(detail: str) -> Problem:
    return Problem(
        401,
        "unauthorized",
        f"header.authorization: {detail}",
        headers={"WWW-Authenticate": 'Bearer realm="upshot", error="invalid_token"'},
    )


def _is_of(origin: str, host: str) -> bool:
    scheme, separator, netloc = origin.partition("://")
    return bool(scheme and separator) and netloc.lower() == host.lower()


class TokenAuth:
    """
    The rule, made from the settings.

    Args:
        settings: What an operator chose.
        key: The installation's, which job tokens are made with.
    """

    def __init__(self, settings: Settings, key: bytes) -> None:
        check_exposure(settings)
        token = token_of(settings)
        self._token = token.encode() if token else None
        self._key = key
        self._metrics_open = is_loopback(settings.host)
        own = {settings.host.lower(), _host_name(urlsplit(settings.public_url or "").netloc)}
        self._hosts = _LOOPBACK_NAMES | {name for name in own if name}

    def check(self, path: str, headers: Headers, reached_at: str) -> str | None:
        """
        Let a request pass.

        Args:
            path: Decoded.
            headers: The request's.
            reached_at: Address of ours that it came in by: `upshot up` listens for containers, too.

        Returns:
            Id of the job whose token it bears, which `JobAccess` is to judge; None: there is nothing more to judge.

        Raises:
            Problem: 401 without the right token; 403 from a foreign host or origin.
        """
        given = _token_in(headers.get("authorization", ""))
        is_guarded = path == _METRICS or (path.startswith("/api/") and path not in _OPEN_API)
        if given.startswith(job_token.PREFIX) and not self._is_ours(given):
            # No page of elsewhere can bear one, so its host and origin are as good as any.
            job = self._job_of(given)
            return job if is_guarded else None
        if self._token is None:
            self._check_source(headers)
        elif is_guarded and not (path == _METRICS and self._metrics_open and is_loopback(reached_at)):
            self._check_token(given)
        return None

    def _is_ours(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token)

    def _check_token(self, given: str) -> None:
        if not given:
            raise Problem(
                401,
                "unauthorized",
                "header.authorization: no token; send `Authorization: Bearer TOKEN` with the server's token",
                headers={"WWW-Authenticate": 'Bearer realm="upshot"'},
            )
        if not self._is_ours(given):
            raise _wrong_token(
                "this is not the server's token; "
                "it is in UPSHOT_TOKEN where the server runs, or in its data folder's endpoint.json"
            )

    def _job_of(self, given: str) -> str:
        job_id = job_token.verify(self._key, given)
        if job_id is None:
            raise _wrong_token(
                "this is no token of a job of this server; a job finds its own in UPSHOT_TOKEN, and the server that it "
                "is for in UPSHOT_URL"
            )
        return job_id

    def _check_source(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if _host_name(host) not in self._hosts:
            raise Problem(
                403,
                "forbidden",
                f"header.host: {host[:100]!r} is no name of this server, which has no token and so answers only to "
                f"{', '.join(sorted(self._hosts))}; set UPSHOT_TOKEN, or UPSHOT_PUBLIC_URL to the address in use",
            )
        origin = headers.get("origin")
        if origin is not None and not _is_of(origin, host):
            raise Problem(
                403,
                "forbidden",
                f"header.origin: a page of {origin[:100]!r} may not ask this server, which has no token; "
                "set UPSHOT_TOKEN",
            )


class JobTokenAuth:
    """
    The rule for jobs: each as itself, while it is active, and within `JOB_SCOPE`.

    Args:
        jobs: Where they are kept.
    """

    def __init__(self, jobs: JobAdmin) -> None:
        self._jobs = jobs

    def check(self, job_id: str, method: str, path: str, headers: Headers) -> Job:
        """
        Let a request of a job pass whose token is right.

        Raises:
            Problem: 401 when it is not active; 403 when it is no business of a job.
        """
        job = self._jobs.find(job_id)
        if job is None or not job.state.is_active:
            state = "not there any more" if job is None else job.state.value
            raise _wrong_token(f"job {job_id} is {state}; its token is good only while it runs")
        if ACTOR_HEADER in headers:
            raise Problem(403, "forbidden", f"header.{ACTOR_HEADER}: a job acts as itself; leave it out")
        if not _may_ask(job, method, path):
            raise Problem(
                403,
                "forbidden",
                f"{method} {path[:_SHOWN_CHARS]}: a job may read and change registries and projects, emit events, and "
                "look at itself and its own event; for anything else take the server's token",
            )
        return job


def _may_ask(job: Job, method: str, path: str) -> bool:
    for under, methods in JOB_SCOPE:
        allowed = API + under.format(event=job.event_id, job=job.id)
        if method in methods and (path == allowed or path.startswith(f"{allowed}/")):
            return True
    return False
