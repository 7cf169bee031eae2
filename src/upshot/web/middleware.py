"""
What every request passes on its way in and out.

In: who asks, an address that cannot be misread, a body of bearable size. Out: one log line, the
counters, and a problem in place of whatever went wrong unforeseen.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upshot.clock import stopwatch
from upshot.errors import UpshotError
from upshot.web.auth import JobTokenAuth, TokenAuth
from upshot.web.body import MAX_BODY_BYTES
from upshot.web.metrics import RequestMetrics
from upshot.web.problems import Problem, problem_of, unexpected

log = structlog.get_logger("upshot.web")


class Gate:
    """
    The outermost layer of ours.

    Args:
        app: What is inside.
        access: Who may come in.
        job_access: What a job may ask for that came in.
        metrics: Counts requests.
    """

    def __init__(self, app: ASGIApp, access: TokenAuth, job_access: JobTokenAuth, metrics: RequestMetrics) -> None:
        self._app = app
        self._access = access
        self._job_access = job_access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, and note what became of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = stopwatch()
        status = 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass_on(scope, receive, noting_send)
        except Problem as problem:
            await problem.response()(scope, receive, noting_send)
        except UpshotError as error:
            await problem_of(error).response()(scope, receive, noting_send)
        except Exception:
            log.exception("request.failed", method=scope["method"], path=scope["path"])
            if status:
                raise  # the answer has begun; the server cuts the connection
            await unexpected().response()(scope, receive, noting_send)
        finally:
            self._note(scope, status, stopwatch() - begun)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        reached_at, _ = scope.get("server") or ("", None)
        job = self._access.check(scope["path"], headers, reached_at)
        _check_address(scope)
        if job is not None:
            await self._let_job_in(job, scope, headers)
        await self._app(scope, _Capped(receive, headers), send)

    async def _let_job_in(self, job: str, scope: Scope, headers: Headers) -> None:
        """Have the job at hand as `request.state.job`."""
        check, asked = self._job_access.check, (scope["method"], scope["path"])
        scope.setdefault("state", {})["job"] = await run_in_threadpool(check, job, *asked, headers)

    def _note(self, scope: Scope, status: int, took_seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.note(scope["method"], route, status, took_seconds)
        log.debug(
            "request.finished",
            method=scope["method"],
            path=scope["path"],
            status=status,
            took_seconds=round(took_seconds, 6),
        )


def _check_address(scope: Scope) -> None:
    """
    Refuse addresses that would be read otherwise than they were meant.

    Servers hand over the path decoded: an encoded slash has become one that separates, bytes
    that are not UTF-8 have become replacement characters.
    """
    raw = scope["raw_path"] + b"?" + scope["query_string"]
    if b"%" not in raw:
        return
    lowered = raw.lower()
    path, _, _ = lowered.partition(b"?")
    if b"%2f" in path:
        raise Problem(422, "invalid-input", "path: %2F is an encoded '/', which no name has; leave it out")
    if b"%00" in lowered:
        raise Problem(422, "invalid-input", "path: %00 is the character U+0000, which no name has; leave it out")
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise Problem(422, "invalid-input", "path: it is not UTF-8 once decoded; encode names as UTF-8") from error


class _Capped:
    """
    Receives a body up to its cap.

    Raises:
        Problem: 413; at once when the length was declared, else as soon as there was too much.
    """

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._got_bytes = 0
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
            raise self._too_large()

    async def __call__(self) -> Message:
        message = await self._receive()
        self._got_bytes += len(message.get("body", b""))
        if self._got_bytes > MAX_BODY_BYTES:
            raise self._too_large()
        return message

    @staticmethod
    def _too_large() -> Problem:
        return Problem(
            413,
            "body-too-large",
            f"body: more than {MAX_BODY_BYTES} bytes; send less at a time, or in several requests",
        )
