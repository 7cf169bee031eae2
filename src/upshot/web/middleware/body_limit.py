"""Limit the size of request bodies."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upshot.resources.urls import API_PREFIX
from upshot.web.body import MAX_BODY_BYTES
from upshot.web.transfer import MAX_TRANSFER_BYTES, too_large

# `POST /blobs`, `PUT /blobs/{digest}` and `PUT /blob-uploads/{id}/parts/{number}`
_TRANSFER = re.compile(
    f"POST {API_PREFIX}/blobs|PUT {API_PREFIX}/blobs/[^/]+|PUT {API_PREFIX}/blob-uploads/.+/parts/.+"
)
_LOG = re.compile(f"POST {API_PREFIX}/projects/[^/]+/runs/[^/]+/log")
MAX_LOG_BYTES = 4 * 1024 * 1024  #: of one request of a run


class BodyLimitMiddleware:
    """
    Refuses bodies of more than `MAX_BODY_BYTES`, and bodies with blobs of more than `MAX_TRANSFER_BYTES`.

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
        limit = limit_of(scope["method"], scope["path"])
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large(limit)
        received_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > limit:
                raise too_large(limit)
            return message

        await self._app(scope, receive_within_limit, send)


def limit_of(method: str, path: str) -> int:
    """Return the limit of a request: bodies of JSON are small, and those with blobs may be large."""
    request = f"{method} {path}"
    if _TRANSFER.fullmatch(request):
        return MAX_TRANSFER_BYTES
    return MAX_LOG_BYTES if _LOG.fullmatch(request) else MAX_BODY_BYTES
