"""Limit the size of request bodies."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upshot.web.body import MAX_BODY_BYTES
from upshot.web.problems import Problem


class BodyLimitMiddleware:
    """
    Refuses bodies of more than `MAX_BODY_BYTES`.

    Args:
        app: The next ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Pass a request on, and count the bytes of its body while the application reads them.

        Raises:
            Problem: 413, at once if `Content-Length` is too large, otherwise when too many bytes have arrived.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > MAX_BODY_BYTES:
            raise _too_large()
        received_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > MAX_BODY_BYTES:
                raise _too_large()
            return message

        await self._app(scope, receive_within_limit, send)


def _too_large() -> Problem:
    return Problem(
        413, "body-too-large", f"body: more than {MAX_BODY_BYTES} bytes; send less at a time, or in several requests"
    )
