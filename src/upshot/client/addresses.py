"""Paths of the REST API, and what the server answers if it rejects a request. It needs no HTTP library."""

from __future__ import annotations

from urllib.parse import quote

from upshot.errors import UpshotError

FILES_PER_REQUEST = 5_000  #: of a manifest; the API's maximum in both directions


class ApiError(UpshotError):
    """The server rejected the request. The text is the server's own message."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def api_path(*segments: str) -> str:
    """Build a path of the API. Each segment is percent-encoded, so it may contain any character."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)
