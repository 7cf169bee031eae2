"""
The HTTP client of the REST API, and its errors.

    UpshotError
    ├── Unavailable   no Upshot answers at the URL; the request may or may not have arrived
    └── ApiError      the server rejected the request; `.status` is its HTTP status
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from types import TracebackType
from typing import Any, Self

import httpx

from upshot.client.addresses import FILES_PER_REQUEST, ApiError, api_path
from upshot.client.response_body import body_chunks
from upshot.clock import SystemClock
from upshot.domain import access, job_token
from upshot.domain.reference import check_name
from upshot.errors import InvalidInput, Unavailable
from upshot.ids import new_id

__all__ = ["ApiError", "Client", "api_path"]

_TIMEOUT_SECONDS = 30.0
_MAX_ATTEMPTS = 3  # per request, if the connection breaks: the web process may be restarting
_PAGE_ITEMS = 200  # the API's maximum for most lists
_TRANSFER_SECONDS = 600.0  # the server may read a large blob back before it answers
_PARTIAL_CONTENT = 206
_SHOWN_CHARS = 300  # of what a store says


class Client:
    """
    A client of `/api/v1`.

    Every method sends a request again if the connection breaks. That is safe: POST requests carry an
    idempotency key, and the other methods are idempotent.

    Args:
        url: The URL of the server.
        token: The token of the server, or None if it needs none.
        is_local: Whether the server runs on this machine. If so, proxy settings are ignored.
    """

    def __init__(self, url: str, token: str | None, *, is_local: bool) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self.is_local = is_local
        self.server_time: datetime | None = None  #: the server's clock in its last response, to the second
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers=_headers(token),
            timeout=_TIMEOUT_SECONDS,
            trust_env=not is_local,
        )
        self._stores: httpx.Client | None = None  # made when it is needed, because it takes a while
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()
        if self._stores is not None:
            self._stores.close()

    def get(self, path: str, **query: Any) -> Any:
        """Send a GET request and return its data. Query values that are None are left out."""
        params = {name: value for name, value in query.items() if value is not None}
        return self._request("GET", path, params=params)

    def post(self, path: str, body: Any = None, *, takes_long: bool = False) -> Any:
        """
        Send a POST request and return its data.

        Args:
            path: Path of the API.
            body: JSON.
            takes_long: The server reads large files before it answers.
        """
        key = new_id("key", SystemClock().now())
        timeout = _TRANSFER_SECONDS if takes_long else _TIMEOUT_SECONDS
        return self._request("POST", path, json=body, headers={"Idempotency-Key": key}, timeout=timeout)

    def put(self, path: str, body: Any = None) -> Any:
        """Send a PUT request and return its data."""
        return self._request("PUT", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        """Send a PATCH request and return its data."""
        return self._request("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        """Send a DELETE request and return its data, or None if the response has none."""
        return self._request("DELETE", path)

    def items(self, path: str, *, limit: int, **query: Any) -> list[Any]:
        """Return the first `limit` items of a list. Request as many pages as necessary."""
        items: list[Any] = []
        cursor = None
        while len(items) < limit:
            page = self.get(path, **query, cursor=cursor, limit=min(_page_items(path), limit - len(items)))
            if not isinstance(page, dict) or not {"items", "next"} <= page.keys():
                raise self._not_upshot(path)
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        return items

    def every_item(self, path: str, **query: Any) -> Iterator[Any]:
        """Yield all items of a list, page by page."""
        cursor = None
        while True:
            page = self.get(path, **query, cursor=cursor, limit=_page_items(path))
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def send_json(
        self, method: str, path: str, text: str, *, key: str | None = None, timeout: float = _TIMEOUT_SECONDS
    ) -> Any:
        """
        Send a body that is JSON already, and return the data of the answer.

        Args:
            method: POST, PUT or PATCH.
            path: Path of the API.
            text: The body.
            key: The idempotency key. Without one, the request must be safe to repeat.
            timeout: Seconds to wait for an answer.
        """
        content = text.encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self._parse(self._send(method, path, body=lambda: [content], headers=headers, timeout=timeout))

    def send_bytes(
        self,
        method: str,
        path: str,
        content: Callable[[], Iterable[bytes]],
        *,
        size: int,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """
        Send bytes, and return the data of the answer.

        Args:
            method: PUT or POST.
            path: Path of the API.
            content: Returns the bytes from their beginning. It is called again if the connection breaks.
            size: Number of bytes.
            headers: More headers.
        """
        all_headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            **(headers or {}),
        }
        return self._parse(self._send(method, path, body=content, headers=all_headers, timeout=_TRANSFER_SECONDS))

    def put_elsewhere(
        self, url: str, content: Callable[[], Iterable[bytes]], *, size: int, headers: Mapping[str, str]
    ) -> None:
        """
        Send bytes to a presigned address of a store, without this server's token.

        Args:
            url: The address.
            content: Returns the bytes from their beginning. It is called again if the connection breaks.
            size: Number of bytes.
            headers: More headers.

        Raises:
            ApiError: The store rejected them.
            Unavailable: No store answers at the address.
        """
        all_headers = {"Content-Length": str(size), **headers}
        with self._lock:
            stores = self._stores = self._stores or httpx.Client(timeout=_TRANSFER_SECONDS)
        for attempts_left in reversed(range(_MAX_ATTEMPTS)):
            try:
                response = stores.put(url, content=content(), headers=all_headers)
                break
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if not attempts_left or not _is_broken_connection(error):
                    raise Unavailable(f"no store answers at {url.partition('?')[0]} ({error})") from error
        if not response.is_success:
            raise ApiError(response.status_code, f"{url.partition('?')[0]}: {response.text[:_SHOWN_CHARS]}")

    def read_bytes(self, path: str, body: Any) -> bytes:
        """Send a POST request that changes nothing, and return the bytes of the answer."""
        response = self._send("POST", path, json=body, timeout=_TRANSFER_SECONDS)
        if not response.is_success:
            self._parse(response)
        return response.content

    @contextmanager
    def stream(self, path: str, *, start: int = 0) -> Iterator[Iterator[bytes]]:
        """
        Open the bytes of a path from a position on. A redirect to where they are stored is followed.

        Raises:
            ApiError: The server rejected the request.
            Unavailable: No server answers, or the connection broke.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._http.stream(
                "GET", path, headers=headers, timeout=_TRANSFER_SECONDS, follow_redirects=True
            ) as response:
                if not response.is_success:
                    response.read()
                    self._parse(response)
                if start and response.status_code != _PARTIAL_CONTENT:
                    raise self._not_upshot(path)
                yield body_chunks(response)
        except httpx.TransportError as error:
            raise Unavailable(f"the connection to {self.url} broke ({error}); try again, which resumes") from error

    def _request(self, method: str, path: str, **options: Any) -> Any:
        return self._parse(self._send(method, path, **options))

    def _send(
        self, method: str, path: str, *, body: Callable[[], Iterable[bytes]] | None = None, **options: Any
    ) -> httpx.Response:
        for attempts_left in reversed(range(_MAX_ATTEMPTS)):
            try:
                content = None if body is None else body()
                response = self._http.request(method, path, content=content, **options)
                break
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if _is_broken_connection(error) and attempts_left:
                    continue
                raise Unavailable(
                    f"no Upshot answers at {self.url} ({error}): start `upshot up` here, or set UPSHOT_URL to the URL "
                    "of a running server"
                ) from error
        if date := response.headers.get("date"):
            self.server_time = parsedate_to_datetime(date)
        return response

    def _parse(self, response: httpx.Response) -> Any:
        try:
            data = response.json() if response.content else None
        except ValueError as error:
            raise self._not_upshot(response.request.url.path) from error
        if response.is_success:
            return data
        detail = data.get("detail") if isinstance(data, dict) else None
        raise ApiError(response.status_code, str(detail or f"{response.request.url}: {response.status_code}"))

    def _not_upshot(self, path: str) -> Unavailable:
        return Unavailable(f"the server at {self.url} ({path}) is not Upshot; check UPSHOT_URL")


def _page_items(path: str) -> int:
    of_a_version = path.endswith("/files") and "/runs/" not in path
    return FILES_PER_REQUEST if of_a_version else _PAGE_ITEMS


def _is_broken_connection(error: Exception) -> bool:
    return isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError)


def _headers(token: str | None) -> dict[bytes, bytes]:
    headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
    if token and token.startswith((job_token.PREFIX, access.PREFIX)):  # a job or a named token acts as itself
        return headers
    try:
        user = check_name(getpass.getuser(), "user")
    except (OSError, KeyError, InvalidInput):  # the account has no name, or one that is not a valid actor
        return headers
    return {**headers, b"X-Upshot-Actor": user.encode()}  # the server reads UTF-8
