"""Addresses of resources in the REST API."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

API_PREFIX = "/api/v1"


@lru_cache(maxsize=4096)  # every mutation asks for the same few names again
def api_url(base_url: str | None, *segments: str) -> str | None:
    """Return the address of a resource in the REST API, or None if the server's public address is unknown."""
    return None if base_url is None else base_url.rstrip("/") + api_path(*segments)


def api_path(*segments: str) -> str:
    """Return the path of a resource in the REST API, with every segment URL-encoded."""
    return "/".join([API_PREFIX, *(quote(segment, safe="") for segment in segments)])
