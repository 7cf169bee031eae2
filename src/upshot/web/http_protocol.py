"""
Limits of the HTTP server that apply before authentication: connections, request heads, and silent clients. uvicorn has
none of these limits. An ASGI application cannot have them, because it is called only after a complete head.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import structlog
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from upshot.clock import stopwatch
from upshot.web.body import MAX_BODY_BYTES
from upshot.web.problems import Problem

log = structlog.get_logger("upshot.web")

MAX_HEAD_BYTES = 32 * 1024  #: size of the request line and all headers; nginx's default, four buffers of 8 KB
MAX_HEAD_FIELDS = 100  #: Apache's default
HEAD_SECONDS = 10.0  #: time for a complete head, from its first byte or from the start of the connection
BODY_SECONDS = 30.0  #: time without a byte of the body, or in which the client reads nothing of the response
MAX_CONNECTIONS = 1000
MAX_CONNECTIONS_PER_ADDRESS = 100
MAX_PIPELINED = 100  #: requests that a client sends before it has read the previous responses
_LINGER_SECONDS = 1.0  # time for a client that is still sending to read why it was refused
_WARNING_SECONDS = 60.0  # between log lines about refused connections
_IPV6_PREFIX_BITS = 64  # network prefix of one site; its owner chooses the other bits

IpNetwork = IPv4Network | IPv6Network


class ConnectionCounter:
    """
    Counts connections, in total and per address.

    Args:
        trusted: Networks of proxies, which pass on the requests of many clients. Like loopback, they have no limit per
            address.
        total: Maximum number of connections.
        per_address: Maximum number of connections of one IPv4 address, or one IPv6 network of 64 bits.
    """

    def __init__(
        self,
        trusted: Sequence[IpNetwork] = (),
        *,
        total: int = MAX_CONNECTIONS,
        per_address: int = MAX_CONNECTIONS_PER_ADDRESS,
    ) -> None:
        self._trusted = trusted
        self._total = total
        self._per_address = per_address
        self._by_source: Counter[str] = Counter()
        self._warned_at: float | None = None

    def add(self, address: str) -> str | None:
        """
        Count a new connection.

        Args:
            address: The client's address.

        Returns:
            The reason to refuse the connection, or None. A refused connection is not counted.
        """
        source = self._source(address)
        if self._by_source.total() >= self._total:
            return self._refuse(address, f"the server has {self._total} connections, its maximum")
        if self._by_source[source] >= self._per_address and not self._is_unlimited(address):
            return self._refuse(
                address,
                f"{source} has {self._per_address} connections, the maximum of one address; if it is a proxy, name it "
                "in UPSHOT_TRUSTED_PROXIES",
            )
        self._by_source[source] += 1
        return None

    def remove(self, address: str) -> None:
        """Stop counting a connection."""
        source = self._source(address)
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]

    @staticmethod
    def _source(address: str) -> str:
        try:
            parsed = _parse(address)
        except ValueError:
            return address  # a Unix socket has no address
        if isinstance(parsed, IPv6Address):
            return str(IPv6Network((parsed, _IPV6_PREFIX_BITS), strict=False))
        return str(parsed)

    def _is_unlimited(self, address: str) -> bool:
        try:
            parsed = _parse(address)
        except ValueError:
            return True
        return parsed.is_loopback or any(parsed in network for network in self._trusted)

    def _refuse(self, address: str, reason: str) -> str:
        now = stopwatch()
        if self._warned_at is None or now - self._warned_at >= _WARNING_SECONDS:
            self._warned_at = now
            log.warning("connection.refused", address=address, reason=reason)
        return reason


def _parse(address: str) -> Any:
    parsed = ip_address(address.partition("%")[0])  # `fe80::1%eth0` also names an interface
    return (isinstance(parsed, IPv6Address) and parsed.ipv4_mapped) or parsed


class _HeadRefused(Exception):
    """Ends parsing. The protocol has recorded the problem."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """
    uvicorn's protocol for one connection, with limits.

    A client that exceeds a limit gets a problem response if it can still read it. Then its connection is closed.

    Args:
        counter: Counts the connections of the whole server.
        arguments: As uvicorn passes them.
    """

    def __init__(self, *, counter: ConnectionCounter, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._counter = counter
        self._counted_address: str | None = None
        self._problem: Problem | None = None
        self._is_refused = False
        self._in_head = False
        self._in_body = False
        self._fields = 0
        # Bytes of a head, of trailers or between the chunks of a body, since the last byte of a body.
        self._overhead_bytes = 0
        self._discarded_bytes = 0  # bytes of the body of a request that already has its response
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def _newest(self) -> RequestResponseCycle | None:
        """The newest request with a complete head, or None. uvicorn's annotation lacks None."""
        return self.cycle

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        reason = self._counter.add(address)
        if reason is not None:
            self._refuse(Problem(503, "too-many-connections", reason, headers={"Retry-After": "1"}), linger=False)
            return
        self._counted_address = address
        self._start_timer(HEAD_SECONDS)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted_address is not None:
            self._counter.remove(self._counted_address)
            self._counted_address = None
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        while data and not self._is_refused and not self.transport.is_closing():
            # A head is read in pieces, so that memory never holds more than the maximum.
            end = len(data) if self._in_body else MAX_HEAD_BYTES - self._overhead_bytes
            piece, data = data[:end], data[end:]
            self._overhead_bytes += len(piece)
            super().data_received(piece)
            if self._overhead_bytes >= MAX_HEAD_BYTES:
                self._refuse(_head_too_large(f"{MAX_HEAD_BYTES} bytes"))
        if not self._is_refused:
            self._watch_progress()

    def _watch_progress(self) -> None:
        """Start the timer for the missing part of the client's request."""
        if self._in_body:
            self._stop_timer()
            self._start_timer(BODY_SECONDS)
        elif self._in_head or self._newest is None:
            if self._timer is None:
                self._start_timer(HEAD_SECONDS)
        else:
            self._stop_timer()
            # uvicorn has stopped its own timer, but empty lines or the rest of a body do not begin a request.
            if self.cycle.response_complete and self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _start_timer(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._on_timeout, seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self, seconds: float) -> None:
        self._timer = None
        if self.flow.read_paused:  # the server has paused reading
            self._start_timer(seconds)
        elif self._in_head or self._in_body:
            missing = "more of the body" if self._in_body else "the end of the headers"
            self._refuse(Problem(408, "timeout", f"{missing} did not arrive within {seconds:g} seconds; send it again"))
        else:
            self.transport.close()

    # The parser's callbacks.

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._fields = self._discarded_bytes = 0
        if len(self.pipeline) >= MAX_PIPELINED:
            self._problem = Problem(400, "bad-request", f"more than {MAX_PIPELINED} requests wait for their responses")
            raise _HeadRefused

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_HEAD_FIELDS:
            self._problem = _head_too_large(f"{MAX_HEAD_FIELDS} fields")
            raise _HeadRefused
        super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self._overhead_bytes = 0
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        self._overhead_bytes = 0
        if self.cycle.response_complete:
            self._discarded_bytes += len(body)
            if self._discarded_bytes > MAX_BODY_BYTES and not self._is_refused:
                self._close_after_reading()
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        self._in_body = False
        self._overhead_bytes = 0
        super().on_message_complete()

    # The transport's callbacks.

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._watch_reader(None)

    def _watch_reader(self, waiting_bytes: int | None) -> None:
        """Disconnect the client if it has read nothing since the last call, when this many bytes waited for it."""
        now_waiting_bytes = self.transport.get_write_buffer_size()
        if waiting_bytes is not None and now_waiting_bytes >= waiting_bytes:
            self._write_timer = None
            self.transport.abort()
        else:
            self._write_timer = self.loop.call_later(BODY_SECONDS, self._watch_reader, now_waiting_bytes)

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(self._problem or Problem(400, "bad-request", "this is not an HTTP request"))

    def _refuse(self, problem: Problem, *, linger: bool = True) -> None:
        """Send a problem if the client expects the response to this request now, and close the connection."""
        if self._is_refused:
            return
        self._is_refused = True
        self._stop_timer()
        cycle = self._newest
        if cycle is not None and not cycle.response_complete:
            is_expected = not (self._in_head or self.pipeline or cycle.response_started)
            cycle.disconnected = True  # later output of the application is dropped
            cycle.message_event.set()
        else:
            is_expected = cycle is None or not self._in_body
        if not is_expected or self.transport.is_closing():
            self.transport.close()
            return
        response = problem.response()
        headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[problem.status_code], head, response.body))
        if linger:
            self._close_after_reading()
        else:
            self.transport.close()

    def _close_after_reading(self) -> None:
        """
        Close the connection soon. Closing it now would reset the connection of a client that is still sending, and drop
        the response.
        """
        self._is_refused = True
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)


def limited_protocol(trusted: Sequence[IpNetwork]) -> Any:
    """Return the protocol class that uvicorn uses for connections. All connections share one counter."""
    return partial(LimitedHttpProtocol, counter=ConnectionCounter(trusted))


def _head_too_large(maximum: str) -> Problem:
    return Problem(431, "head-too-large", f"head: more than {maximum}; send fewer or shorter headers")
