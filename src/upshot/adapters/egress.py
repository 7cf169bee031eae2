"""
Send HTTP requests to other machines with aiohttp, and check every address before connecting to it.

Two extension points of aiohttp's connector enforce the egress rules: the resolver, which sees all results of
a name lookup and refuses the host if one is forbidden, and the socket factory, which sees every address at the
moment of connecting, including addresses in URLs. The checked address is the one that is connected to. The host
of the URL is still used for TLS and the `Host` header.
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
from typing_extensions import override
from yarl import URL

from upshot.actions.egress_rules import EgressRules, InvalidUrl, Target, parse_url
from upshot.actions.protocol import Egress, HttpResponse
from upshot.clock import stopwatch
from upshot.errors import ActionError, Ambiguous, Blocked, Refused, Unreachable

USER_AGENT = f"upshot/{version('upshot')}"
STORED_BODY_BYTES = 16 * 1024  #: of the body of a request or response, for the receipt
MAX_BODY_BYTES = 1024 * 1024  #: of a response; afterwards reading stops and the connection is closed
MAX_HEADERS = 100  #: of a response
MAX_HEADER_LINE_BYTES = 8 * 1024
MAX_HEADER_BYTES = 64 * 1024  #: of all headers of a response together
MAX_INTERIM_RESPONSES = 16  #: 100 Continue and other 1xx responses before the final one
MAX_REDIRECTS = 3  # GitHub: a renamed repository needs at most three
# uvicorn and Node close an idle connection after 5 s. If a request crosses with the closing, nobody knows whether
# the receiver read it. Closing earlier avoids most of these cases.
KEEPALIVE_SECONDS = 4.0
_DNS_THREADS = 16  # a lookup that hangs occupies one of them, not the event loop

_REDIRECTS = frozenset({301, 307, 308})
_DEFAULT_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}


class _Denied(OSError):
    """The egress rules forbid the address. An OSError, so that aiohttp treats it as a failed connection."""


@dataclass(slots=True)
class _Exchange:
    """One request in progress."""

    target: Target
    request: dict[str, Any]  #: as receipts store it
    headers: Mapping[str, str]
    body: bytes
    redirects: int  #: how many more can be followed
    started: float = field(default_factory=stopwatch)
    connected: float | None = None  #: None means that the receiver cannot have read anything yet

    def follow(self, response: HttpResponse) -> bool:
        """Continue at the location of a redirect, if that is allowed. Method and body stay the same."""
        target = _redirect_target(response, self.target) if self.redirects else None
        if target is None:
            return False
        self.redirects -= 1
        self.target, self.connected = target, None
        self.request = {**self.request, "url": str(target.url)}
        return True


_exchange: ContextVar[_Exchange] = ContextVar("upshot_exchange")


class _GuardedResolver(AbstractResolver):
    """Looks names up with the system's resolver, in threads, and refuses a host with a forbidden address."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="upshot-dns")

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except UnicodeError as error:
            raise OSError(None, f"{host!r} cannot be looked up: {error}") from error
        addresses = [str(address[0]) for *_, address in results]
        if reason := self._rules.check_addresses(host, port, addresses):
            raise _Denied(None, reason)
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=result[0], proto=result[2], flags=socket.AI_NUMERICHOST
            )
            for address, result in zip(addresses, results, strict=True)
        ]

    @override
    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _BoundedResponseHandler(ResponseHandler):
    """aiohttp's response parser with a limit on interim responses."""

    _interim_responses = 0
    _is_reused = False

    @property
    def is_stale(self) -> bool:
        """Whether an idle connection received data that no request asked for, which would pass for a response."""
        return self._is_reused and self.should_close

    @override
    def set_response_params(self, **params: Any) -> None:
        self._is_reused = True
        self._interim_responses = 0
        super().set_response_params(**params)

    @override
    def feed_data(self, data: tuple[aiohttp.http.RawResponseMessage, StreamReader], size: int = 0) -> None:
        if 100 <= data[0].code < 200:  # noqa: PLR2004 - the class of interim responses
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                if self.transport is not None:
                    self.transport.close()
                reason = f"more than {MAX_INTERIM_RESPONSES} interim responses"
                self.set_exception(HttpProcessingError(message=reason))
                return
        super().feed_data(data, size)


class _GuardedConnector(aiohttp.TCPConnector):
    """aiohttp's connector. It checks every address, and records when the current exchange has a connection."""

    def __init__(self, rules: EgressRules, resolver: _GuardedResolver) -> None:
        super().__init__(
            resolver=resolver,
            socket_factory=self._open_socket,
            limit=0,  # the executor limits each destination
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._rules = rules
        # aiohttp has no public way to limit interim responses. A test sends a flood of them.
        self._factory = partial(_BoundedResponseHandler, loop=self._loop)  # type: ignore[assignment]  # a subclass

    def _open_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, proto, _, (ip, port, *_) = address
        if reason := self._rules.check_address(_exchange.get().target.host, int(port), str(ip)):
            raise _Denied(None, reason)
        return socket.socket(family, kind, proto)

    @override
    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        while isinstance(connection.protocol, _BoundedResponseHandler) and connection.protocol.is_stale:
            connection.close()
            connection = await super().connect(req, traces, timeout)
        _exchange.get().connected = stopwatch()
        return connection


class GuardedEgress(Egress):
    """
    Sends requests for one worker process, from one event loop.

    The executor limits the number of requests to each destination.

    Args:
        rules: The destinations that can be reached.
    """

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._resolver = _GuardedResolver(rules)
        self._session: aiohttp.ClientSession | None = None

    @override
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
        request = {
            "method": method,
            "url": url,
            "headers": dict(headers),
            "body": body[:STORED_BODY_BYTES].decode("utf-8", "replace"),
            "body_bytes": len(body),
        }
        try:
            target = parse_url(url)
        except InvalidUrl as error:
            raise Refused(str(error), request=request) from error
        exchange = _Exchange(target, request, headers, body, MAX_REDIRECTS if follow_redirects else 0)
        return await self._perform(exchange, timeout_seconds)

    async def close(self) -> None:
        """Close all connections. Requests in flight fail."""
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def _perform(self, exchange: _Exchange, timeout_seconds: float) -> HttpResponse:
        token = _exchange.set(exchange)
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    response = await self._request(exchange)
                    if not exchange.follow(response):
                        return response
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:  # uvloop raises RuntimeErrors, too
            raise _action_error(error, exchange, timeout_seconds) from error
        finally:
            _exchange.reset(token)

    async def _request(self, exchange: _Exchange) -> HttpResponse:
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
            body, size, is_complete = await _read_body(response)
        connected = exchange.connected or exchange.started
        return HttpResponse(
            status=response.status,
            headers=headers,
            body=body,
            body_bytes=size,
            truncated=not is_complete,
            request=exchange.request,
            timings={"connect": connected - exchange.started, "answer": stopwatch() - connected},
        )

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_GuardedConnector(self._rules, self._resolver),
            headers=_DEFAULT_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None),  # `_perform` has one deadline
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_LINE_BYTES,
            max_field_size=MAX_HEADER_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )


def _read_headers(response: aiohttp.ClientResponse) -> dict[str, str]:
    """
    Return the headers of a response with names in lower case. Values of repeated headers are joined with a comma.

    Raises:
        ClientResponseError: The headers are too long.
    """
    total = 0
    headers: dict[str, str] = {}
    for original_name, value in response.headers.items():
        total += len(original_name) + len(value)
        name = original_name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if total > MAX_HEADER_BYTES:
        reason = f"its headers are longer than {MAX_HEADER_BYTES // 1024} KB"
        raise aiohttp.ClientResponseError(response.request_info, (), message=reason)
    return headers


async def _read_body(response: aiohttp.ClientResponse) -> tuple[bytes, int, bool]:
    """Return the first bytes of the body, how many bytes came, and whether the first bytes are the whole body."""
    stored = b""
    size = 0
    while not response.content.at_eof():
        chunk = await response.content.readany()
        if size < STORED_BODY_BYTES:
            stored += chunk[: STORED_BODY_BYTES - size]
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            response.close()
            return stored, size, False
    return stored, size, size <= STORED_BODY_BYTES


def _redirect_target(response: HttpResponse, target: Target) -> Target | None:
    """Return the target of a redirect, if it has the same scheme, host and port."""
    location = response.headers.get("location")
    if response.status not in _REDIRECTS or not location:
        return None
    try:
        redirected = parse_url(str(target.url.join(URL(location))))
    except ValueError:
        return None
    return redirected if redirected.destination == target.destination else None


def _action_error(error: Exception, exchange: _Exchange, timeout_seconds: float) -> ActionError:
    """Decide by aiohttp's class of error, and by whether there was a connection, what the receiver may have read."""
    destination, request = exchange.target.destination, exchange.request
    match error:
        case aiohttp.ClientConnectorError():
            return _connection_error(error, destination, request)
        case aiohttp.ClientResponseError():
            reason = error.message.strip().partition("\n")[0].rstrip(": ")
            return Refused(f"{destination}: the response is not valid HTTP: {reason}", request=request)
        case ValueError():
            return Refused(f"{destination}: the request cannot be sent: {error}", request=request)
    if isinstance(error, TimeoutError):
        limit = f"within {timeout_seconds:g} s"
        if exchange.connected is None:
            return Unreachable(f"{destination}: no connection {limit}", request=request)
        return Ambiguous(f"{destination}: no complete response {limit}; the receiver may have acted", request=request)
    if exchange.connected is None:
        return Unreachable(f"{destination}: no connection: {_reason(error)}", request=request)
    message = f"{destination}: the connection broke before the response was complete: {_reason(error)}"
    return Ambiguous(message, request=request)


def _connection_error(error: aiohttp.ClientConnectorError, destination: str, request: Mapping[str, Any]) -> ActionError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unreachable(f"{destination}: its certificate is invalid: {error.certificate_error}", request=request)
    if isinstance(error.os_error, _Denied):
        return Blocked(str(error.os_error.strerror), request=request)
    is_lookup = isinstance(error, aiohttp.ClientConnectorDNSError)
    stage = "the name cannot be looked up" if is_lookup else "no connection"
    return Unreachable(f"{destination}: {stage}: {_reason(error.os_error)}", request=request)


def _reason(error: BaseException) -> str:
    """Return the system's message without its number, and without the URL that aiohttp's message can contain."""
    error = error.__cause__ or error
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
