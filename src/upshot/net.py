"""Where the web process listens; light, for the supervisor takes the address before the web process is loaded."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from upshot.errors import ConfigError

_BACKLOG = 1024  # connections that may wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """
    Take an address to listen on.

    Raises:
        ConfigError: It cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --host and --port, "
            "or UPSHOT_HOST and UPSHOT_PORT (--port 0 takes any free port)"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(listener: socket.socket) -> str:
    """Where programs of this machine reach the server."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
