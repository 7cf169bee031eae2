"""Refuse paths that the router would misread."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from upshot.web.problems import Problem


class PathMiddleware:
    """
    Refuses paths and queries that lose their meaning when they are decoded.

    Servers pass the path on decoded. An encoded slash has become a separator by then, and bytes that are not UTF-8
    have become replacement characters.

    Args:
        app: The next ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Pass a request on if its path is unambiguous.

        Raises:
            Problem: 422.
        """
        if scope["type"] == "http":
            _check_path(scope["raw_path"], scope["query_string"])
        await self._app(scope, receive, send)


def _check_path(raw_path: bytes, query: bytes) -> None:
    raw = raw_path + b"?" + query
    if b"%" not in raw:
        return
    if b"%2f" in raw_path.lower():
        raise Problem(422, "invalid-input", "path: %2F is an encoded '/', and no name contains it; remove it")
    if b"%00" in raw:
        raise Problem(422, "invalid-input", "path: %00 is the character U+0000, and no name contains it; remove it")
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise Problem(422, "invalid-input", "path: the decoded bytes are not UTF-8; encode names as UTF-8") from error
