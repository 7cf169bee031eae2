"""
The one guarded door to other machines: aiohttp, with our rules where the socket is dialled.

Two seams of aiohttp's connector carry the guard: the resolver, which sees all answers of a name and
refuses if any is forbidden, and the socket factory, which sees every address at the moment it is
dialled, literal ones included. What was checked is what is dialled; the host stays for TLS and `Host`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from yarl import URL

from upshot.actions.egress_rules import EgressRules, Target, UrlProblem, read_url
from upshot.actions.protocol import HttpResponse
from upshot.clock import stopwatch
from upshot.errors import ActionError, Ambiguous, Blocked, DestinationBusy, Refused, Unreachable

USER_AGENT = f"upshot/{version('upshot')}"
KEPT_BODY_BYTES = 16 * 1024  #: of a request's and an answer's body, for the receipt
MAX_BODY_BYTES = 1024 * 1024  #: of an answer; then we stop reading and hang up
MAX_HEADERS = 100  #: lines of an answer's head
MAX_HEADER_LINE_BYTES = 8 * 1024
MAX_HEADER_BYTES = 64 * 1024  #: of an answer's head in all
MAX_INTERIM_ANSWERS = 16  #: 100 Continue and its like before the real answer
MAX_REDIRECTS = 3  # GitHub's renamed repositories: three at most
# Below the 5 s after which uvicorn and Node hang up on an idle connection: a request that crosses the
# receiver's hanging up is ambiguous, and better rare.
KEEPALIVE_SECONDS = 4.0
MAX_WAIT_FOR_PLACE_SECONDS = 4.0  #: less than the grace that the engine gives an attempt beyond its timeout
_DNS_THREADS = 16  # a look-up that hangs holds one of them, not the loop

_REDIRECTS = frozenset({301, 307, 308})
_DEFAULT_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}


class _Denied(OSError):
    """Our rule forbids the address; an OSError, so that aiohttp treats it as a connection that failed."""


@dataclass(slots=True)
class _Exchange:
    """One request that is under way, and how far it has come."""

    target: Target
    request: dict[str, Any]  #: as receipts keep it
    headers: Mapping[str, str]
    body: bytes
    redirects: int  #: that may still be followed
    started: float = field(default_factory=stopwatch)
    connected: float | None = None  #: from here on the receiver may have read something

    def follow(self, answer: HttpResponse) -> bool:
        """Turn to where the answer sends us, if it may; method and body stay the same."""
        moved = _moved_to(answer, self.target) if self.redirects else None
        if moved is None:
            return False
        self.redirects -= 1
        self.target, self.connected = moved, None
        self.request = {**self.request, "url": str(moved.url)}
        return True


_exchange: ContextVar[_Exchange] = ContextVar("upshot_exchange")


class _GuardedResolver(AbstractResolver):
    """The system's name look-up, in threads of its own, that refuses a host if any of its addresses is forbidden."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="upshot-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except UnicodeError as error:
            raise OSError(None, f"{host!r} cannot be looked up: {error}") from error
        addresses = [str(address[0]) for *_, address in answers]
        if problem := self._rules.problem_with_any(host, port, addresses):
            raise _Denied(None, problem)
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=found[0], proto=found[2], flags=socket.AI_NUMERICHOST
            )
            for address, found in zip(addresses, answers, strict=True)
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _BoundedResponseHandler(ResponseHandler):
    """aiohttp's reader of answers, whose patience with interim answers ends."""

    _interim = 0
    _used = False

    @property
    def is_stale(self) -> bool:
        """Something arrived on this kept connection that nobody had asked for; it would pass for the next answer."""
        return self._used and self.should_close

    def set_response_params(self, **params: Any) -> None:
        self._used = True
        self._interim = 0
        super().set_response_params(**params)

    def feed_data(self, data: tuple[aiohttp.http.RawResponseMessage, StreamReader], size: int = 0) -> None:
        if 100 <= data[0].code < 200:  # noqa: PLR2004 - the class of interim answers
            self._interim += 1
            if self._interim > MAX_INTERIM_ANSWERS:
                if self.transport is not None:
                    self.transport.close()
                self.set_exception(HttpProcessingError(message=f"more than {MAX_INTERIM_ANSWERS} interim answers"))
                return
        super().feed_data(data, size)


class _GuardedConnector(aiohttp.TCPConnector):
    """aiohttp's connector, which checks every address that it dials and tells when it has a connection."""

    def __init__(self, rules: EgressRules, resolver: _GuardedResolver) -> None:
        super().__init__(
            resolver=resolver,
            socket_factory=self._open_socket,
            limit=0,  # we limit by destination ourselves
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._rules = rules
        # aiohttp has no public way to bound interim answers; a test floods us with them.
        self._factory = partial(_BoundedResponseHandler, loop=self._loop)  # type: ignore[assignment]  # a subclass of theirs

    def _open_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, proto, _, (dialled, port, *_) = address
        if problem := self._rules.problem(_exchange.get().target.host, int(port), str(dialled)):
            raise _Denied(None, problem)
        return socket.socket(family, kind, proto)

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        while isinstance(connection.protocol, _BoundedResponseHandler) and connection.protocol.is_stale:
            connection.close()
            connection = await super().connect(req, traces, timeout)
        _exchange.get().connected = stopwatch()
        return connection


class _ConcurrencyLimit:
    """The share of requests that one destination may have in flight; as many again may wait, in order."""

    def __init__(self, destination: str, limit: int) -> None:
        self._destination = destination
        self._limit = limit
        self._free = asyncio.Semaphore(limit)
        self.taken = 0  #: in flight and waiting

    async def take(self) -> None:
        """Take a place, waiting for one if none is free; every call that returns is followed by `give_back`."""
        if self.taken >= 2 * self._limit:
            raise DestinationBusy(self._destination)
        self.taken += 1
        try:
            if self._free.locked():
                await self._wait()
            else:
                await self._free.acquire()  # at once
        except BaseException:
            self.taken -= 1
            raise

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(MAX_WAIT_FOR_PLACE_SECONDS):
                await self._free.acquire()
        except TimeoutError as error:
            raise DestinationBusy(self._destination) from error

    def give_back(self) -> None:
        """Let the next one have the place."""
        self.taken -= 1
        self._free.release()


class GuardedEgress:
    """
    Sends requests for one worker process, from one event loop; implements `actions.protocol.Egress`.

    Waiting for a place at a destination does not count into the exchange's deadline, and lasts four
    seconds at most; after that `DestinationBusy` is raised and nothing was sent.

    Args:
        rules: What may be reached.
        destination_in_flight: Requests in flight to one scheme, host and port; as many again may wait.
    """

    def __init__(self, rules: EgressRules, *, destination_in_flight: int) -> None:
        self._rules = rules
        self._resolver = _GuardedResolver(rules)
        self._limit = destination_in_flight
        self._places: dict[str, _ConcurrencyLimit] = {}
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float,
        follow_redirects: bool = False,
    ) -> HttpResponse:
        """Send one request and read the answer, whatever its status; see `actions.protocol.Egress`."""
        request = _describe(method, url, headers, body)
        try:
            target = read_url(url)
        except UrlProblem as problem:
            raise Refused(f"{problem}", request=request) from problem
        destination = target.destination
        places = self._places.get(destination)
        if places is None:
            places = self._places[destination] = _ConcurrencyLimit(destination, self._limit)
        await places.take()
        try:
            exchange = _Exchange(target, request, headers, body, MAX_REDIRECTS if follow_redirects else 0)
            return await self._perform(exchange, timeout_seconds)
        finally:
            places.give_back()
            if not places.taken:
                self._places.pop(destination, None)

    async def close(self) -> None:
        """Hang up; requests in flight fail."""
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def _perform(self, exchange: _Exchange, timeout_seconds: float) -> HttpResponse:
        token = _exchange.set(exchange)
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    answer = await self._ask(exchange)
                    if not exchange.follow(answer):
                        return answer
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:  # uvloop has RuntimeErrors of its own
            raise _failure(error, exchange, timeout_seconds) from error
        finally:
            _exchange.reset(token)

    async def _ask(self, exchange: _Exchange) -> HttpResponse:
        session = self._session
        if session is None:
            session = self._session = self._open_session()
        async with session.request(
            exchange.request["method"],
            exchange.target.url,
            headers=exchange.headers,
            data=exchange.body or None,
            allow_redirects=False,
        ) as response:
            headers = _read_headers(response)
            kept, size, whole = await _read_body(response)
        connected = exchange.connected or exchange.started
        return HttpResponse(
            status=response.status,
            headers=headers,
            body=kept,
            body_bytes=size,
            truncated=not whole,
            request=exchange.request,
            timings={"connect": connected - exchange.started, "answer": stopwatch() - connected},
        )

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_GuardedConnector(self._rules, self._resolver),
            headers=_DEFAULT_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None),  # one deadline, around it all
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_LINE_BYTES,
            max_field_size=MAX_HEADER_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )


def _describe(method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The form in which receipts keep a request."""
    return {
        "method": method,
        "url": url,
        "headers": dict(headers),
        "body": body[:KEPT_BODY_BYTES].decode("utf-8", "replace"),
        "body_bytes": len(body),
    }


def _read_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """
    The answer's headers, names in lower case, repeated ones joined with a comma.

    Raises:
        ClientResponseError: They are longer in all than we accept.
    """
    total = 0
    headers: dict[str, str] = {}
    for written, value in response.headers.items():
        total += len(written) + len(value)
        name = written.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if total > MAX_HEADER_BYTES:
        finding = f"its headers are longer than {MAX_HEADER_BYTES // 1024} KB"
        raise aiohttp.ClientResponseError(response.request_info, (), message=finding)
    return headers


async def _read_body(response: aiohttp.ClientResponse) -> tuple[bytes, int, bool]:
    """The first bytes of the answer's body, how many came, and whether what is kept is all of it."""
    kept = b""
    size = 0
    while not response.content.at_eof():
        chunk = await response.content.readany()
        if size < KEPT_BODY_BYTES:
            kept += chunk[: KEPT_BODY_BYTES - size]
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            response.close()
            return kept, size, False
    return kept, size, size <= KEPT_BODY_BYTES


def _moved_to(answer: HttpResponse, target: Target) -> Target | None:
    """Where to ask again, when the answer says so and stays on the same scheme, host and port."""
    location = answer.headers.get("location")
    if answer.status not in _REDIRECTS or not location:
        return None
    try:
        moved = read_url(str(target.url.join(URL(location))))
    except ValueError:
        return None
    return moved if moved.destination == target.destination else None


def _failure(error: Exception, exchange: _Exchange, timeout_seconds: float) -> ActionError:
    """Tell by aiohttp's class of error, and by whether there was a connection, what the receiver may have read."""
    where, request = exchange.target.destination, exchange.request
    match error:
        case aiohttp.ClientConnectorError():
            return _connecting_failed(error, where, request)
        case aiohttp.ClientResponseError():
            finding = error.message.strip().partition("\n")[0].rstrip(": ")
            return Refused(f"{where}: what it answered is not HTTP as we accept it: {finding}", request=request)
        case ValueError():
            return Refused(f"{where}: the request cannot be written: {error}", request=request)
    if isinstance(error, TimeoutError):
        finding = f"within {timeout_seconds:g} s"
        if exchange.connected is None:
            return Unreachable(f"{where}: no connection {finding}", request=request)
        return Ambiguous(f"{where}: no whole answer {finding}; it may have acted", request=request)
    if exchange.connected is None:
        return Unreachable(f"{where}: no connection: {_words(error)}", request=request)
    return Ambiguous(f"{where}: the connection broke before a whole answer: {_words(error)}", request=request)


def _connecting_failed(error: aiohttp.ClientConnectorError, where: str, request: Mapping[str, Any]) -> ActionError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unreachable(f"{where}: its certificate is not good: {error.certificate_error}", request=request)
    if isinstance(error.os_error, _Denied):
        return Blocked(f"{error.os_error.strerror}", request=request)
    stage = "the name cannot be looked up" if isinstance(error, aiohttp.ClientConnectorDNSError) else "no connection"
    return Unreachable(f"{where}: {stage}: {_words(error.os_error)}", request=request)


def _words(error: BaseException) -> str:
    """The system's words for an error, without its number, and without the URL that aiohttp's may hold."""
    error = error.__cause__ or error
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
