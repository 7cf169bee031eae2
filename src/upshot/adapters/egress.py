"""
Send HTTP requests to other machines with aiohttp, and check every address before connecting to it.

Two extension points of aiohttp's connector enforce the egress rules: the resolver, which sees all results of
a name lookup and refuses the host if one is forbidden, and the socket factory, which sees every address at the
moment of connecting, including addresses in URLs. The checked address is the one that is connected to. The host
of the URL is still used for TLS and the `Host` header.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import Iterable, Mapping
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
from upshot.actions.protocol import STORED_BODY_BYTES, Egress, HttpResponse
from upshot.adapters.http_proxy import HttpProxy, ProxyError
from upshot.clock import stopwatch
from upshot.errors import ActionError, Ambiguous, Blocked, Refused, Unreachable

USER_AGENT = f"upshot/{version('upshot')}"
MAX_BODY_BYTES = 1024 * 1024  #: of a response; afterwards reading stops and the connection is closed
MAX_HEADERS = 100  #: of a response
MAX_HEADER_LINE_BYTES = 64 * 1024
MAX_HEAD_BYTES = 256 * 1024  #: of the status line and all headers of a response together
MAX_INTERIM_RESPONSES = 16  #: 100 Continue and other 1xx responses before the final one
MAX_REDIRECTS = 3  # GitHub: a renamed repository needs at most three
# uvicorn and Node close an idle connection after 5 s. If a request crosses with the closing, nobody knows whether
# the receiver read it. Closing earlier avoids most of these cases.
KEEPALIVE_SECONDS = 4.0
_DNS_THREADS = 16  # a lookup that hangs occupies one of them, not the event loop

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] +([0-9]{3})(?: [^\n]*)?\n")
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
#: The first bytes of a body that can be a JSON object or list: a byte order mark, white space, a bracket; or gzip.
_MAYBE_DATA = re.compile(rb"\xef\xbb\xbf|\xff\xfe|\xfe\xff|\x1f\x8b|[ \t\r\n]*[{\[]")
_GZIP = b"\x1f\x8b"
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate"})
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS  # zlib detects which of the two it is

_SWITCHING_PROTOCOLS = 101
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
    protocol: _ResponseHandler | None = None  #: of the connection
    response: aiohttp.ClientResponse | None = None  #: None until the headers are complete
    received: bytearray = field(default_factory=bytearray)  #: the beginning of the response's body
    received_bytes: int = 0  #: of the response's body so far

    def follow(self, response: HttpResponse) -> bool:
        """Continue at the location of a redirect, if that is allowed. Method and body stay the same."""
        target = _redirect_target(response, self.target) if self.redirects else None
        if target is None:
            return False
        self.redirects -= 1
        self.target, self.connected, self.protocol, self.response = target, None, None, None
        self.received, self.received_bytes = bytearray(), 0
        self.request = {**self.request, "url": str(target.url)}
        return True

    def keep(self, chunk: bytes) -> None:
        """Keep a part of the body: all that can be read if it can be JSON, otherwise what receipts store."""
        self.received_bytes += len(chunk)
        if len(self.received) < STORED_BODY_BYTES or _MAYBE_DATA.match(self.received):
            self.received += chunk[: MAX_BODY_BYTES - len(self.received)]

    def answer(self, response: aiohttp.ClientResponse, stopped: str | None = None) -> HttpResponse:
        """
        Return a response whose headers are complete, with the body as far as it came.

        Args:
            response: The response.
            stopped: Why nothing was read after that. None if the body is complete.
        """
        headers = _headers(response.headers.items())
        return self._answer(response.status, headers, bytes(self.received), self.received_bytes, stopped)

    def answer_so_far(self, stopped: str) -> HttpResponse | None:
        """Return the response that broke off, or None if no status line came."""
        if self.response is not None:
            return self.answer(self.response, stopped)
        head = _parse_head(bytes(self.protocol.head)) if self.protocol is not None else None
        if head is None:
            return None
        status, headers, rest = head
        return self._answer(status, headers, rest[:STORED_BODY_BYTES], len(rest), stopped)

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes, body_bytes: int, stopped: str | None
    ) -> HttpResponse:
        is_whole = stopped is None and len(body) == body_bytes
        if body.startswith(_GZIP) or headers.get("content-encoding", "").lower() in _COMPRESSIONS:
            body, is_decompressed = _decompressed(body)
            is_whole = is_whole and is_decompressed
        if len(body) > STORED_BODY_BYTES and not _MAYBE_DATA.match(body):
            body, is_whole = body[:STORED_BODY_BYTES], False
        connected = self.connected or self.started
        return HttpResponse(
            status=status,
            headers=headers,
            body=body,
            body_bytes=body_bytes,
            truncated=not is_whole,
            request=self.request,
            timings={"connect": connected - self.started, "answer": stopwatch() - connected},
            stopped=stopped,
        )


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


class _ResponseHandler(ResponseHandler):
    """
    aiohttp's response parser with limits on interim responses and on the length of a head.

    If the parser rejects a response, aiohttp drops what it has read. `head` still has it, with the status.
    """

    _interim_responses = 0
    _is_reused = False
    _is_in_head = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.head = bytearray()  #: what came before the parser returned the final response

    @property
    def is_stale(self) -> bool:
        """Whether an idle connection received data that no request asked for, which would pass for a response."""
        return self._is_reused and self.should_close

    @override
    def set_response_params(self, **params: Any) -> None:
        self._is_reused = True
        self._interim_responses = 0
        self._is_in_head = True
        self.head.clear()
        super().set_response_params(**params)

    @override
    def data_received(self, data: bytes) -> None:
        if not self._is_in_head:
            super().data_received(data)
            return
        self.head += data[: 2 * MAX_HEAD_BYTES]
        super().data_received(data)
        if len(self.head) > MAX_HEAD_BYTES:  # `feed_data` has not emptied it
            self._refuse(f"its headers are longer than {MAX_HEAD_BYTES // 1024} KB")

    def _refuse(self, reason: str) -> None:
        if self._exception is None:
            self.set_exception(HttpProcessingError(message=reason))
        if self.transport is not None:
            self.transport.close()

    @override
    def feed_data(self, data: tuple[aiohttp.http.RawResponseMessage, StreamReader], size: int = 0) -> None:
        if 100 <= data[0].code < 200:  # noqa: PLR2004 - the class of interim responses
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                self._refuse(f"more than {MAX_INTERIM_RESPONSES} interim responses")
                return
        else:
            self._is_in_head = False
            self.head.clear()
        super().feed_data(data, size)


class _GuardedConnector(aiohttp.TCPConnector):
    """aiohttp's connector. It checks every address, and records when the current exchange has a connection."""

    def __init__(self, rules: EgressRules, resolver: _GuardedResolver, proxy: HttpProxy | None) -> None:
        super().__init__(
            resolver=resolver,
            socket_factory=self._open_socket,
            limit=0,  # the executor limits each destination
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._rules = rules
        self._proxy = proxy
        # aiohttp has no public way to limit interim responses. A test sends a flood of them.
        self._factory = partial(_ResponseHandler, loop=self._loop)  # type: ignore[assignment]  # a subclass

    def _open_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, proto, _, (ip, port, *_) = address
        if reason := self._rules.check_address(_exchange.get().target.host, int(port), str(ip)):
            raise _Denied(None, reason)
        return socket.socket(family, kind, proto)

    @override
    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[AddrInfoType],
        req: ClientRequest,
        timeout: aiohttp.ClientTimeout,
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """
        Connect through the proxy, if there is one.

        With aiohttp's own proxy support, the proxy would resolve the name, so nothing would check the address. aiohttp
        has no public method for opening a connection, so this overrides a private one. Tests cover it.
        """
        if self._proxy is None:
            return await super()._wrap_create_connection(
                *args, addr_infos=addr_infos, req=req, timeout=timeout, client_error=client_error, **kwargs
            )
        sockets: list[socket.socket] = []
        try:
            sockets.append(await self._connect_through(self._proxy, addr_infos))
            return await self._loop.create_connection(*args, **kwargs, sock=sockets[0])
        except ssl.CertificateError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except OSError as error:
            for sock in sockets:
                sock.close()
            raise client_error(req.connection_key, error) from error

    async def _connect_through(self, proxy: HttpProxy, addr_infos: list[AddrInfoType]) -> socket.socket:
        failure: OSError = OSError(None, "it has no address")
        for *_, (ip, port, *_) in addr_infos:
            if reason := self._rules.check_address(_exchange.get().target.host, int(port), str(ip)):
                raise _Denied(None, reason)
            try:
                return await proxy.connect(str(ip), int(port))
            except ProxyError as error:
                failure = error
        raise failure

    @override
    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        while isinstance(connection.protocol, _ResponseHandler) and connection.protocol.is_stale:
            connection.close()
            connection = await super().connect(req, traces, timeout)
        exchange = _exchange.get()
        exchange.connected = stopwatch()
        if isinstance(connection.protocol, _ResponseHandler):
            exchange.protocol = connection.protocol
        return connection


class GuardedEgress(Egress):
    """
    Sends requests for one worker process, from one event loop.

    The executor limits the number of requests to each destination.

    Args:
        rules: The destinations that can be reached.
        proxy: URL of an HTTP proxy. None connects directly.
    """

    def __init__(self, rules: EgressRules, proxy: str | None = None) -> None:
        self._rules = rules
        self._proxy = HttpProxy(proxy) if proxy else None
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
        request["url"] = str(target.url)
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
            failure = _action_error(error, exchange, timeout_seconds)
            response_so_far = exchange.answer_so_far(stopped=str(failure))
            if response_so_far is None:
                raise failure from error
            return response_so_far
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
            exchange.response = response
            while not response.content.at_eof():
                exchange.keep(await response.content.readany())
                if exchange.received_bytes > MAX_BODY_BYTES:
                    response.close()
                    return exchange.answer(response, f"the body is longer than {MAX_BODY_BYTES // 1024} KB")
        return exchange.answer(response)

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_GuardedConnector(self._rules, self._resolver, self._proxy),
            headers=_DEFAULT_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None),  # `_perform` has one deadline
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_LINE_BYTES,
            max_field_size=MAX_HEADER_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )


def _headers(received: Iterable[tuple[str, str]]) -> dict[str, str]:
    """
    Return headers with names in lower case. Values of repeated headers are joined with a comma.

    aiohttp reads them as UTF-8 and replaces other bytes by surrogates. Such a value is read as Latin-1.
    """
    headers: dict[str, str] = {}
    for received_name, received_value in received:
        name = (received_name if received_name.isascii() else _without_surrogates(received_name)).lower()
        value = received_value if received_value.isascii() else _without_surrogates(received_value)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _without_surrogates(text: str) -> str:
    encoded = text.encode("utf-8", "surrogateescape")
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded.decode("latin-1")


def _parse_head(data: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """Return status, headers and what follows them from a response that breaks HTTP. None without a status line."""
    position = 0
    while (match := _STATUS_LINE.match(data, position)) is not None:
        status = int(match[1])
        end = _END_OF_HEADERS.search(data, match.end() - 2)
        position = end.end() if end else len(data)
        if 100 <= status < 200 and status != _SWITCHING_PROTOCOLS:  # noqa: PLR2004 - the class of interim responses
            continue
        lines = data[match.end() : end.start() if end else data.rindex(b"\n") + 1].split(b"\n")
        fields = (line.partition(b":") for line in lines[: MAX_HEADERS + 1])
        return status, _headers((_text(name), _text(value)) for name, colon, value in fields if colon), data[position:]
    return None


def _text(data: bytes) -> str:
    return data.strip().decode("utf-8", "surrogateescape")


def _decompressed(body: bytes) -> tuple[bytes, bool]:
    """
    Return a body without gzip or zlib compression, which receivers use without being asked.

    Returns:
        At most `MAX_BODY_BYTES`, and whether this is everything. A body that cannot be decompressed stays as it is.
    """
    decompressor = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        plain = decompressor.decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        return body, True
    return plain, decompressor.eof


def _redirect_target(response: HttpResponse, target: Target) -> Target | None:
    """Return the target of a redirect, if it has the same scheme, host and port."""
    location = response.headers.get("location")
    if response.status not in _REDIRECTS or not location:
        return None
    try:
        redirected = parse_url(str(target.url.join(URL(location, encoded=True))))
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
