"""The HTTP client of the REST API."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
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
_TRIES = 3  # of one request whose connection broke: the web process may just have been started again
_PAGE = 200  # items asked for at once: the most that the API gives


class ApiError(UpshotError):
    """The server said no; its own words."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Client:
    """
    Requests to `/api/v1`.

    Args:
        url: Where Upshot listens.
        token: What it wants to see; None where it wants none.
        is_local: It runs on this machine: no proxy stands between.
    """

    def __init__(self, url: str, token: str | None, *, is_local: bool) -> None:
        self.url = url.rstrip("/")
        self.server_time: datetime | None = None  #: the server's clock at its last answer, to the second
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
        """Data of one GET; a query value of None is left out."""
        return self._ask("GET", path, query)

    def post(self, path: str, body: Any = None) -> Any:
        """Data of the answer; sent once in effect, however often the connection breaks."""
        return self._ask("POST", path, body=body, headers={"Idempotency-Key": new_id("key", SystemClock().now())})

    def put(self, path: str, body: Any = None) -> Any:
        """Data of the answer."""
        return self._ask("PUT", path, body=body)

    def patch(self, path: str, body: Any) -> Any:
        """Data of the answer."""
        return self._ask("PATCH", path, body=body)

    def delete(self, path: str) -> Any:
        """Data of the answer, if it has any."""
        return self._ask("DELETE", path)

    def items(self, path: str, *, limit: int, **query: Any) -> list[Any]:
        """Items of a list, page by page, at most `limit`."""
        found: list[Any] = []
        cursor = None
        while len(found) < limit:
            page = self.get(path, **query, cursor=cursor, limit=min(_PAGE, limit - len(found)))
            if not isinstance(page, dict) or not {"items", "next"} <= page.keys():
                raise self._not_upshot(path)
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        return found

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        params = {name: value for name, value in (query or {}).items() if value is not None}
        for tries_left in reversed(range(_TRIES)):
            try:
                answer = self._http.request(method, path, params=params, json=body, headers=headers)
                break
            except (httpx.RemoteProtocolError, httpx.ReadError) as error:
                if not tries_left:
                    raise self._no_answer(error) from error
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise self._no_answer(error) from error
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> Any:
        if date := answer.headers.get("date"):
            self.server_time = parsedate_to_datetime(date)
        try:
            data = answer.json() if answer.content else None
        except ValueError as error:
            raise self._not_upshot(answer.request.url.path) from error
        if answer.is_success:
            return data
        detail = data.get("detail") if isinstance(data, dict) else None
        raise ApiError(answer.status_code, str(detail or f"{answer.request.url}: {answer.status_code}"))

    def _not_upshot(self, path: str) -> Unavailable:
        return Unavailable(f"what answers at {self.url} ({path}) is no Upshot; check UPSHOT_URL")

    def _no_answer(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"no Upshot answers at {self.url} ({error}): start `upshot up` here, or set UPSHOT_URL to one that runs"
        )


def _headers(token: str | None) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if token and token.startswith(job_token.PREFIX):  # in a job: it acts as itself
        return headers
    try:
        user = check_name(getpass.getuser(), "user")
    except (OSError, KeyError, InvalidInput):  # an account without a name, or with one that Upshot would refuse
        return headers
    return {**headers, "X-Upshot-Actor": user}


def path_of(*parts: str) -> str:
    """A path of the API; each part is encoded, so that any name keeps its meaning."""
    return "/" + "/".join(quote(part, safe="") for part in parts)
