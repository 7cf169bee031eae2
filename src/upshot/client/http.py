"""
The HTTP client of the REST API, and its errors.

    UpshotError
    ├── Unavailable   no Upshot answers at the URL; the request may or may not have arrived
    └── ApiError      the server rejected the request; `.status` is its HTTP status
"""

from __future__ import annotations

import getpass
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from upshot.clock import SystemClock
from upshot.domain import job_token
from upshot.domain.reference import check_name
from upshot.errors import InvalidInput, Unavailable, UpshotError
from upshot.ids import new_id

_TIMEOUT_SECONDS = 30.0
_MAX_ATTEMPTS = 3  # per request, if the connection breaks: the web process may be restarting
_PAGE_ITEMS = 200  # the API's maximum


class ApiError(UpshotError):
    """The server rejected the request. The text is the server's own message."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


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
        self.server_time: datetime | None = None  #: the server's clock in its last response, to the second
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers=_headers(token),
            timeout=_TIMEOUT_SECONDS,
            trust_env=not is_local,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Send a GET request and return its data. Query values that are None are left out."""
        params = {name: value for name, value in query.items() if value is not None}
        return self._request("GET", path, params=params)

    def post(self, path: str, body: Any = None) -> Any:
        """Send a POST request and return its data."""
        key = new_id("key", SystemClock().now())
        return self._request("POST", path, json=body, headers={"Idempotency-Key": key})

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
            page = self.get(path, **query, cursor=cursor, limit=min(_PAGE_ITEMS, limit - len(items)))
            if not isinstance(page, dict) or not {"items", "next"} <= page.keys():
                raise self._not_upshot(path)
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        return items

    def _request(self, method: str, path: str, **options: Any) -> Any:
        for attempts_left in reversed(range(_MAX_ATTEMPTS)):
            try:
                response = self._http.request(method, path, **options)
                break
            except (httpx.TransportError, httpx.InvalidURL) as error:
                is_broken_connection = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
                if is_broken_connection and attempts_left:
                    continue
                raise Unavailable(
                    f"no Upshot answers at {self.url} ({error}): start `upshot up` here, or set UPSHOT_URL to the URL "
                    "of a running server"
                ) from error
        if date := response.headers.get("date"):
            self.server_time = parsedate_to_datetime(date)
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


def _headers(token: str | None) -> dict[bytes, bytes]:
    headers = {b"Authorization": f"Bearer {token}".encode()} if token else {}
    if token and token.startswith(job_token.PREFIX):  # a job acts as itself, not as a user
        return headers
    try:
        user = check_name(getpass.getuser(), "user")
    except (OSError, KeyError, InvalidInput):  # the account has no name, or one that is not a valid actor
        return headers
    return {**headers, b"X-Upshot-Actor": user.encode()}  # the server reads UTF-8


def api_path(*segments: str) -> str:
    """Build a path of the API. Each segment is percent-encoded, so it may contain any character."""
    return "/" + "/".join(quote(segment, safe="") for segment in segments)
