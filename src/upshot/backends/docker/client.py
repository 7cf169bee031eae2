"""The door to one engine: asks over aiodocker, and turns what goes wrong into what the keeper knows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from upshot.backends.docker.options import Address, DockerSettings, Transport, tls_context
from upshot.backends.docker.ssh import SshTunnel
from upshot.backends.protocol import EngineUnavailable
from upshot.errors import UpshotError

if TYPE_CHECKING:
    from aiodocker import Docker

T = TypeVar("T")

_BAD, _NOT_FOUND, _CONFLICT, _ERROR, _UNAVAILABLE = 400, 404, 409, 500, 503
_UNCONNECTED = 900  # aiodocker's status for an engine that cannot be reached
_MAX_LINE_BYTES = 4 * 1024 * 1024  # of a stream of JSON: an event carries all labels of its container
_WITHOUT_CONTAINERD = ": unavailable"  # how Docker ends its message when its own engine is down, or not up yet
_PODMAN = "Podman Engine"


class DockerApiError(Exception):
    """
    The engine understood, and said no.

    Args:
        status: Of HTTP, below 500.
        reason: In the engine's words.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    @property
    def is_missing(self) -> bool:
        """There is no such thing."""
        return self.status == _NOT_FOUND

    @property
    def is_conflict(self) -> bool:
        """The present state does not allow it: the name is taken, it is being removed."""
        return self.status == _CONFLICT


class DockerServerError(EngineUnavailable):
    """It answered with an error of its own: it is broken, or cannot do what it was asked."""


class DockerClient:
    """
    A connection to an engine, made when it is first needed.

    Args:
        settings: Where it is.
    """

    def __init__(self, settings: DockerSettings) -> None:
        self.address: Address = settings.address
        self._is_podman = False  # known once it has answered
        self._seconds = settings.timeout
        self._tls = tls_context(settings)
        self._docker: Docker | None = None
        self._connector: aiohttp.BaseConnector | None = None
        self._tunnel: SshTunnel | None = None
        self._reaching: asyncio.Task[Docker] | None = None
        self._version: str | None = None  # of the API; None: not known, or to be asked again

    async def is_podman(self) -> bool:
        """
        Tell which of the two it is; asked once for each connection.

        Raises:
            EngineUnavailable: It does not answer.
        """
        with self._in_our_words(self._seconds):
            await self._connected()
        return self._is_podman

    async def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        seconds: float | None = None,
    ) -> Any:
        """
        Ask, and read the JSON that is the answer; None where it is empty.

        Args:
            path: Without a version.
            method: Of HTTP.
            params: Of the query.
            body: Sent as JSON.
            seconds: For the whole answer; None: as the settings have it.

        Raises:
            EngineUnavailable: It does not answer; EngineFault: with an error of its own.
            Refusal: It said no.
        """
        data = None if body is None else json.dumps(body).encode()
        async with self.answer(path, method, params=params, data=data, seconds=seconds) as response:
            text = await response.read()
        try:
            return json.loads(text) if text.strip() else None
        except ValueError as error:
            raise self._stranger(error) from error

    async def stream(self, path: str, *, params: Mapping[str, str], quiet_seconds: float) -> AsyncGenerator[Any, None]:
        """
        Values of an answer that goes on and on, a line each.

        Args:
            path: Without a version.
            params: Of the query.
            quiet_seconds: Without any word, after which the connection is taken for dead.
        """
        async with self.answer(path, params=params, quiet_seconds=quiet_seconds) as response:
            async for value in self.values(response):
                yield value

    @asynccontextmanager
    async def answer(
        self,
        path: str,
        method: str = "GET",
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
        quiet_seconds: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """
        Ask, and hold the answer open; what is not read of it is not waited for.

        Args:
            path: Without a version.
            method: Of HTTP.
            params: Of the query.
            data: The body.
            headers: Beside those that are always sent.
            seconds: For the whole answer; None: as the settings have it.
            quiet_seconds: In place of it, for an answer that may take long: without any word.
        """
        timeout = self._timeout(seconds, quiet_seconds)
        with self._in_our_words(quiet_seconds or seconds or self._seconds):
            docker = await self._connected()
            # aiodocker's verbs hold whole answers in memory, or read them as text; its query does not.
            async with docker._query(  # noqa: SLF001 - its own documentation offers no other way
                path, method, params=params, data=data, headers=headers, timeout=timeout
            ) as response:
                try:
                    yield response
                finally:
                    response.close()

    async def head(self, path: str, *, params: Mapping[str, str]) -> Mapping[str, str]:
        """
        Ask for an answer's headers alone.

        Raises:
            EngineUnavailable: It does not answer.
            Refusal: It said no; without a reason, for that would be in the answer.
        """
        with self._in_our_words(self._seconds):
            docker = await self._connected()
            # aiodocker would look for the reason all the same, and stumble.
            url = f"{self.address.base_url}/{self._version}/{path}"
            async with docker.session.head(url, params=params, timeout=self._timeout(None, None)) as response:
                if response.status >= _BAD:
                    raise self._answered(response.status, f"it answers {response.status} {response.reason}")
                return response.headers

    async def values(self, response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
        """Values of JSON in an answer, a line each."""
        rest = b""
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)
            if len(rest) > _MAX_LINE_BYTES:
                raise ValueError("a line of its answer does not end")
        if rest.strip():
            yield json.loads(rest)

    async def check_alive(self, error: Exception) -> None:
        """
        Tell an engine that cannot do what it was asked from one that is going down.

        Args:
            error: What it answered.

        Raises:
            EngineUnavailable: It does not answer any more.
        """
        if isinstance(error, DockerServerError):
            await self.ask("info")

    def unless_missing(self, refusal: DockerApiError, nothing: T) -> T:
        """
        What stands for a thing that is not there.

        Raises:
            EngineUnavailable: It is another refusal, and none of those that were to be expected.
        """
        if refusal.is_missing:
            return nothing
        raise self.unexpected(refusal) from refusal

    def unexpected(self, refusal: DockerApiError) -> EngineUnavailable:
        """What the keeper is told of a refusal that nobody can do anything about here."""
        return EngineUnavailable(f"{self.address} refuses to answer ({refusal.status}): {refusal}")

    async def close(self) -> None:
        """Hang up."""
        if self._reaching is not None:
            self._reaching.cancel()
            await asyncio.wait([self._reaching])
        docker, connector, tunnel = self._docker, self._connector, self._tunnel
        self._docker = self._connector = self._tunnel = self._version = None
        if docker is not None:
            await docker.close()
        if connector is not None:
            await connector.close()
        if tunnel is not None:
            tunnel.close()

    # --- connection -------------------------------------------------------------------------------

    async def _connected(self) -> Docker:
        """Reach the engine, once for all who ask at the same time: they wait for one answer, or for none."""
        if self._docker is None or self._version is None or (self._tunnel is not None and not self._tunnel.is_open):
            if self._reaching is None or self._reaching.done():
                self._reaching = asyncio.create_task(self._reach())
                self._reaching.add_done_callback(_forget)
            return await asyncio.shield(self._reaching)
        return self._docker

    async def _reach(self) -> Docker:
        if self._tunnel is not None:
            await self._tunnel.open()
        if self._docker is None:
            self._docker = await self._connect()
        if self._version is None:
            await self._greet(self._docker)
        return self._docker

    async def _connect(self) -> Docker:
        is_here = self.address.transport is Transport.UNIX
        if is_here and not await asyncio.to_thread(Path(self.address.socket).exists):
            raise EngineUnavailable(
                f"there is no socket {self.address.socket}; is an engine installed here, and running?"
            )
        # A worker on a machine without an engine never loads it.
        from aiodocker import Docker  # noqa: PLC0415 - see above

        self._connector = await self._make_connector()
        return Docker(self.address.base_url, connector=self._connector, timeout=self._timeout(None, None))

    async def _make_connector(self) -> aiohttp.BaseConnector:
        # No limit on connections: one is held for every stop that goes on, pull, and watch.
        if self.address.transport is Transport.SSH:
            self._tunnel = SshTunnel(self.address)
            await self._tunnel.open()
            return aiohttp.UnixConnector(self._tunnel.socket, limit=0)
        if self.address.transport is Transport.UNIX:
            return aiohttp.UnixConnector(self.address.socket, limit=0)
        return aiohttp.TCPConnector(ssl=self._tls or True, limit=0)

    async def _greet(self, docker: Docker) -> None:
        docker.api_version = "auto"
        version = await docker.version()
        self._version = docker.api_version = f"v{version['ApiVersion']}"
        self._is_podman = any(one.get("Name") == _PODMAN for one in version.get("Components") or ())

    def _timeout(self, seconds: float | None, quiet_seconds: float | None) -> aiohttp.ClientTimeout:
        total = None if quiet_seconds is not None else seconds or self._seconds
        return aiohttp.ClientTimeout(total=total, sock_connect=self._seconds, sock_read=quiet_seconds)

    # --- what went wrong --------------------------------------------------------------------------

    @contextmanager
    def _in_our_words(self, seconds: float) -> Iterator[None]:
        """Turn whatever a library raises into what the keeper knows."""
        try:
            yield
        except Exception as error:
            known = self._known(error, seconds)
            if known is None:
                raise
            raise known from error

    def _known(self, error: Exception, seconds: float) -> Exception | None:
        """What the keeper knows, in place of an error of a library's; None for one that is not theirs."""
        from aiodocker import DockerError  # noqa: PLC0415 - see _connect

        match error:
            case UpshotError() | DockerApiError():
                return None
            case DockerError(status=status, message=message):
                return self._answered(status, message.strip())
            case TimeoutError():
                return self._lost(f"did not answer within {seconds:g} s")
            case aiohttp.ClientError() | OSError() | RuntimeError():  # uvloop has RuntimeErrors of its own
                return self._lost(str(error) or type(error).__name__)
            case ValueError() | KeyError() | TypeError() | AttributeError():
                return self._stranger(error)
        return None

    def _answered(self, status: int, message: str) -> Exception:
        if status == _UNCONNECTED:
            return self._lost(message)
        if status == _UNAVAILABLE or message.endswith(_WITHOUT_CONTAINERD):
            return EngineUnavailable(f"{self.address}: {message}")
        return DockerServerError(message) if status >= _ERROR else DockerApiError(status, message)

    def _lost(self, finding: str) -> EngineUnavailable:
        """Ask for its version again when it is back: another engine may answer then."""
        self._version = None
        words = self._tunnel.last_words() if self._tunnel is not None else ""
        return EngineUnavailable(f"{self.address}: {words or finding}")

    def _stranger(self, error: Exception) -> EngineUnavailable:
        self._version = None
        return EngineUnavailable(
            f"{self.address} does not answer as a Docker engine does ({type(error).__name__}: {error}); "
            "is it the address of one?"
        )


def _forget(task: asyncio.Task[Any]) -> None:
    """Whoever waited has its error; nobody may have waited for it to the end."""
    if not task.cancelled():
        task.exception()
