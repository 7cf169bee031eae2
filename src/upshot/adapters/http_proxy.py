"""Connections through an HTTP proxy (`UPSHOT_EGRESS_PROXY`). The proxy gets addresses, never names."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from urllib.parse import unquote, urlsplit

_MAX_HEAD_BYTES = 16 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] +([0-9]{3})[^\r\n]*\r?\n")
_END_OF_HEAD = b"\r\n\r\n"
_UNAUTHORIZED = b"407"


class ProxyError(OSError):
    """The proxy did not connect. The receiver got nothing."""


class HttpProxy:
    """
    An HTTP proxy that tunnels connections (CONNECT).

    Args:
        url: `http://user:password@host:port`, with or without user and password.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._authorization = ""
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._authorization = f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}\r\n"

    async def connect(self, address: str, port: int) -> socket.socket:
        """
        Return a connection to an address, through the proxy.

        Raises:
            ProxyError: The proxy cannot be reached, or refuses the connection.
        """
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        loop = asyncio.get_running_loop()
        try:
            sock = await self._open_socket(loop)
        except OSError as error:
            raise self._error(f"cannot be reached: {error.strerror or error}") from None
        try:
            head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self._authorization}\r\n"
            await loop.sock_sendall(sock, head.encode())
            await self._check_answer(loop, sock, target)
        except ProxyError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            raise self._error(f"broke the connection: {error.strerror or error}") from None
        except BaseException:
            sock.close()
            raise
        return sock

    async def _open_socket(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """
        Return a connection to the proxy itself. The egress rules do not apply, because the operator has chosen
        it.
        """
        addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)  # noqa: FBT003 - its only argument
            try:
                await loop.sock_connect(sock, address)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure or OSError(None, "it has no address")

    async def _check_answer(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, target: str) -> None:
        head = b""
        while _END_OF_HEAD not in head:
            part = await loop.sock_recv(sock, 4096)
            head += part
            if not part or len(head) > _MAX_HEAD_BYTES:
                raise self._error(f"did not answer the request for {target}")
        status = _STATUS_LINE.match(head)
        if status is None or not head.endswith(_END_OF_HEAD):
            raise self._error("is not an HTTP proxy")
        if not status[1].startswith(b"2"):
            remedy = "; check the user and password in UPSHOT_EGRESS_PROXY" if status[1] == _UNAUTHORIZED else ""
            raise self._error(f"answered {status[1].decode()} to the request for {target}{remedy}")

    def _error(self, reason: str) -> ProxyError:
        return ProxyError(None, f"the proxy {self._host}:{self._port} {reason}")
