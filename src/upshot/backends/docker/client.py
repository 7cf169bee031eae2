"""
An HTTP client for the API of Docker and Podman.

The API: https://docs.docker.com/reference/api/engine
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from upshot.backends.docker.options import Address, DockerOptions, Transport, tls_context
from upshot.backends.docker.ssh import SshTunnel
from upshot.backends.protocol import EngineUnavailable
from upshot.errors import UpshotError
from upshot.masking import cut_text

T = TypeVar("T")

_BAD_REQUEST, _NOT_FOUND, _CONFLICT, _SERVER_ERROR, _UNAVAILABLE = 400, 404, 409, 500, 503
_MAX_LINE_BYTES = 4 * 1024 * 1024  # in a stream of JSON; an event contains all labels of its container
_MAX_MESSAGE_CHARS = 2000
_WITHOUT_CONTAINERD = ": unavailable"  # ends Docker's message when its containerd is down, or not up yet
_PODMAN = "Podman Engine"


class DockerApiError(UpshotError):
    """
    The engine rejected a request.

    Args:
        status: HTTP status, below 500.
        reason: In the engine's words.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def is_missing(self) -> bool:
        """Whether the object does not exist."""
        return self.status == _NOT_FOUND

    @property
    def is_conflict(self) -> bool:
        """Whether the present state does not allow the request: the name is taken, or the object is being removed."""
        return self.status == _CONFLICT


class DockerServerError(EngineUnavailable):
    """The engine answered with a 5xx status: it is broken, or it cannot do what was requested."""


class DockerClient:
    """
    A client of one engine. It connects when it is first used.

    Args:
        options: Where the engine is.
    """

    def __init__(self, options: DockerOptions) -> None:
        self.address: Address = options.address
        self._is_podman = False  # known once the engine has answered
        self._seconds = options.timeout
        self._tls = tls_context(options)
        self._tunnel: SshTunnel | None = None
        self._session: aiohttp.ClientSession | None = None
        self._api_url: str | None = None  # with the API's version; None: unknown, or to be found out again
        self._connecting: asyncio.Task[tuple[aiohttp.ClientSession, str]] | None = None

    async def is_podman(self) -> bool:
        """
        Return whether the engine is Podman. The engine is asked once per connection.

        Raises:
            EngineUnavailable: It does not answer.
        """
        await self._connected()
        return self._is_podman

    async def request_json(
        self,
        path: str,
        method: str = "GET",
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        seconds: float | None = None,
    ) -> Any:
        """
        Send a request and return the JSON of the response; None if the response is empty.

        Args:
            path: Path below the API's version.
            method: HTTP method.
            params: Query parameters.
            body: Sent as JSON.
            seconds: Time limit for the whole response; None: the limit of the options.

        Raises:
            DockerApiError: The engine rejected the request.
            EngineUnavailable: It does not answer. `DockerServerError`: It answered with a 5xx status.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        async with self.request(path, method, params=params, data=data, headers=headers, seconds=seconds) as response:
            text = await response.read()
        return self._parse_json(text) if text.strip() else None

    async def stream_json(
        self, path: str, *, params: Mapping[str, str], idle_seconds: float
    ) -> AsyncGenerator[Any, None]:
        """
        Send a request and yield each line of the response, parsed as JSON, as it arrives.

        Args:
            path: Path below the API's version.
            params: Query parameters.
            idle_seconds: Seconds without data after which the connection is considered lost.
        """
        async with self.request(path, params=params, idle_seconds=idle_seconds) as response:
            async for value in self.iter_json_lines(response):
                yield value

    @asynccontextmanager
    async def request(
        self,
        path: str,
        method: str = "GET",
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
        idle_seconds: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """
        Send a request and keep the response open for the block. What the block leaves unread is discarded.

        Args:
            path: Path below the API's version.
            method: HTTP method.
            params: Query parameters.
            data: Request body.
            headers: Request headers.
            seconds: Time limit for the whole response; None: the limit of the options.
            idle_seconds: For a response that may take long, in place of `seconds`: limit for the time without data.
        """
        session, api_url = await self._connected()
        limit = seconds or self._seconds
        timeout = aiohttp.ClientTimeout(
            total=limit if idle_seconds is None else None, sock_connect=self._seconds, sock_read=idle_seconds
        )
        with self._translate_errors(idle_seconds or limit):
            response = await session.request(
                method, f"{api_url}/{path}", params=params, data=data, headers=headers, timeout=timeout
            )
            try:
                if response.status >= _BAD_REQUEST:
                    raise self._error_from_response(response, await response.text(errors="replace"))
                yield response
            finally:
                response.close()  # does nothing if all of it was read

    async def iter_json_lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
        """Yield each line of a response, parsed as JSON, as it arrives."""
        rest = b""
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield self._parse_json(line)
            if len(rest) > _MAX_LINE_BYTES:
                raise self._protocol_error(f"a line of its response exceeds {_MAX_LINE_BYTES} bytes")
        if rest.strip():
            yield self._parse_json(rest)

    async def check_alive(self, error: Exception) -> None:
        """
        Distinguish an engine that cannot do what was requested from an engine that is shutting down.

        Args:
            error: The error that it answered with.

        Raises:
            EngineUnavailable: It does not answer any more.
        """
        if isinstance(error, DockerServerError):
            await self.request_json("info")

    def unless_missing(self, error: DockerApiError, nothing: T) -> T:
        """
        Return `nothing` if the object does not exist.

        Raises:
            EngineUnavailable: The engine rejected the request for another reason, which the caller does not expect.
        """
        if error.is_missing:
            return nothing
        raise self.as_unavailable(error) from error

    def as_unavailable(self, error: DockerApiError) -> EngineUnavailable:
        """Return the error that a backend raises for a rejection that it does not expect."""
        return EngineUnavailable(f"{self.address} rejected the request ({error.status}): {error}")

    async def close(self) -> None:
        """Close the connection. The client connects again when it is used again."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        session, tunnel = self._session, self._tunnel
        self._session = self._tunnel = self._api_url = None
        if session is not None:
            await session.close()
        if tunnel is not None:
            tunnel.close()

    # --- connection -------------------------------------------------------------------------------

    async def _connected(self) -> tuple[aiohttp.ClientSession, str]:
        """Connect if necessary. Concurrent callers share one attempt and its error."""
        is_cut = self._tunnel is not None and not self._tunnel.is_open
        if self._session is not None and self._api_url is not None and not is_cut:
            return self._session, self._api_url
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(ignore_result)
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> tuple[aiohttp.ClientSession, str]:
        address = self.address
        with self._translate_errors(self._seconds):
            if address.transport is Transport.UNIX and not await asyncio.to_thread(Path(address.socket).exists):
                raise EngineUnavailable(
                    f"there is no socket {address.socket}; install and start an engine on this machine"
                )
            if address.transport is Transport.SSH:
                self._tunnel = self._tunnel or SshTunnel(address)
                await self._tunnel.open()
            if self._session is None:
                # No limit on connections: every running stop, pull and watch keeps one open.
                connector: aiohttp.BaseConnector
                if address.socket:
                    connector = aiohttp.UnixConnector(self._tunnel.socket if self._tunnel else address.socket, limit=0)
                else:
                    connector = aiohttp.TCPConnector(ssl=self._tls or True, limit=0)
                self._session = aiohttp.ClientSession(connector=connector)
            if self._api_url is None:
                self._api_url = await self._negotiate_version(self._session)
            return self._session, self._api_url

    async def _negotiate_version(self, session: aiohttp.ClientSession) -> str:
        """Return the URL of the newest API version that the engine speaks, and remember which engine it is."""
        timeout = aiohttp.ClientTimeout(total=self._seconds, sock_connect=self._seconds)
        async with session.get(f"{self.address.base_url}/version", timeout=timeout) as response:
            text = await response.text(errors="replace")
        if response.status >= _BAD_REQUEST:
            error = self._error_from_response(response, text)
            raise self._protocol_error(str(error)) if isinstance(error, DockerApiError) else error
        version = self._parse_json(text)
        if not isinstance(version, dict) or "ApiVersion" not in version:
            raise self._protocol_error("its response has no ApiVersion")
        self._is_podman = any(component.get("Name") == _PODMAN for component in version.get("Components") or ())
        return f"{self.address.base_url}/v{version['ApiVersion']}"

    # --- errors -----------------------------------------------------------------------------------

    @contextmanager
    def _translate_errors(self, seconds: float) -> Iterator[None]:
        """
        Translate the errors of a connection into `EngineUnavailable`.

        The caller's block runs inside, so nothing that a bug could raise (TypeError, ValueError, …) is caught here.
        """
        try:
            yield
        except TimeoutError as error:
            raise self._unreachable(f"it did not answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # uvloop raises RuntimeError for a closed handle
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _error_from_response(self, response: aiohttp.ClientResponse, text: str) -> UpshotError:
        message = cut_text(text.strip(), _MAX_MESSAGE_CHARS)
        try:
            body = json.loads(text)
        except ValueError:  # a proxy's page, or the engine's TLS layer
            body = None
        if isinstance(body, dict) and body.get("message"):
            message = str(body["message"]).strip()
        status = response.status
        message = message or f"it answers {status} {response.reason}"  # the response to HEAD has no body
        if status == _UNAVAILABLE or message.endswith(_WITHOUT_CONTAINERD):
            return EngineUnavailable(f"{self.address}: {message}")
        return DockerServerError(message) if status >= _SERVER_ERROR else DockerApiError(status, message)

    def _parse_json(self, text: str | bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._protocol_error(f"its response is not JSON: {error}") from error

    def _unreachable(self, finding: str) -> EngineUnavailable:
        self._api_url = None  # another engine may answer after the next connection
        ssh_error = self._tunnel.last_error() if self._tunnel is not None else ""
        return EngineUnavailable(f"{self.address}: {ssh_error or finding}")

    def _protocol_error(self, finding: str) -> EngineUnavailable:
        self._api_url = None
        return EngineUnavailable(
            f"{self.address} does not answer like a Docker engine: {finding}; check that it is the address of one"
        )


def ignore_result(task: asyncio.Task[Any]) -> None:
    """Mark a task's error as retrieved, because no caller may be left that waits for it."""
    if not task.cancelled():
        task.exception()
