"""Addresses: of the web process's socket, which the supervisor binds before it starts the process, and base URLs."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from upshot.errors import ConfigError

_BACKLOG = 1024  # connections that wait to be accepted


def listen(host: str, port: int) -> socket.socket:
    """
    Open a listening socket.

    Raises:
        ConfigError: The address is invalid or in use.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another address with --host and --port, "
            "or UPSHOT_HOST and UPSHOT_PORT (--port 0 takes any free port)"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(listener: socket.socket) -> str:
    """Return the URL at which programs on this machine reach the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - this compares, and does not bind
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_base_url(url: str) -> bool:
    """Return whether a path can be appended: an HTTP URL without user, query or fragment."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for an invalid port
    except ValueError:
        return False
    is_plain = url.isprintable() and not any(character in url for character in " ?#@")
    return is_plain and parts.scheme in {"http", "https"} and bool(parts.hostname)
