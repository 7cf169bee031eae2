"""Files of other web servers that artifacts refer to. A request carries no token of Upshot."""

from __future__ import annotations

from pathlib import Path

import httpx

from upshot.errors import InvalidInput

_TIMEOUT_SECONDS = 60.0
_CHUNK_BYTES = 1024 * 1024
_AS_STORED = {"accept-encoding": "identity"}  # so that the size is that of the file
_NO_HEAD = frozenset({403, 405, 501})  # answers to HEAD where GET may work; presigned addresses are for one method


def describe(url: str) -> tuple[int | None, str | None]:
    """
    Return the size of a file and its checksum (`etag:…`), as far as the server gives them.

    Raises:
        InvalidInput: The server does not have the file, or does not answer.
    """
    try:
        response = httpx.head(url, follow_redirects=True, timeout=_TIMEOUT_SECONDS, headers=_AS_STORED)
        if response.status_code in _NO_HEAD:
            with httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT_SECONDS, headers=_AS_STORED) as found:
                response = found  # its headers are read, its content is not
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidInput(f"{url}: {_reason(error)}; correct the address, or use checksum=False") from error
    size = response.headers.get("content-length", "")
    return int(size) if size.isdecimal() else None, _checksum(response)


def fetch(url: str, path: Path) -> str | None:
    """
    Write a file of another server to a new path, and return its checksum.

    Raises:
        InvalidInput: The server does not have the file, or does not answer.
    """
    try:
        with (
            httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT_SECONDS, headers=_AS_STORED) as response,
            path.open("xb") as file,
        ):
            response.raise_for_status()
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                file.write(chunk)
            return _checksum(response)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InvalidInput(f"{url}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"the answer is {error.response.status_code} {error.response.reason_phrase}".rstrip()
    return str(error) or type(error).__name__


def _checksum(response: httpx.Response) -> str | None:
    etag: str = response.headers.get("etag", "")
    text = f"etag:{etag}"
    return text if etag and text.isascii() and text.isprintable() and " " not in text else None
