"""
How containers of this machine reach the embedded server, which listens on loopback.

A container has a loopback of its own. The address of Docker's bridge on the machine is the one that
both see: the web process listens there as well, and answers bearers of a token only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from ipaddress import ip_network
from typing import Any

_SOCKET = "/var/run/docker.sock"
_SECONDS = 2.0
_DESKTOP = "host.docker.internal"  # Docker Desktop's name for the machine; it leads to its loopback


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._path)


def listen_on_bridge(port: int) -> tuple[socket.socket | None, str | None]:
    """
    Listen where containers of this machine's Docker reach it.

    Args:
        port: That the server has on loopback.

    Returns:
        The socket, where one more is needed, and the host that containers use; None where no Docker
        answers, or nothing can be listened on there.
    """
    address = _bridge_address()
    if address is None:
        return None, None
    try:
        return socket.create_server((address, port)), address
    except OSError:
        # Docker runs in a machine of its own, as Docker Desktop's does, or the port is taken there.
        return None, _DESKTOP if _is_desktop() else None


def _bridge_address() -> str | None:
    network = _ask("/networks/bridge")
    for config in ((network or {}).get("IPAM") or {}).get("Config") or ():
        if gateway := config.get("Gateway"):
            return str(gateway)
        with contextlib.suppress(KeyError, ValueError, StopIteration):
            return str(next(ip_network(config["Subnet"]).hosts()))  # Docker takes the first for itself
    return None


def _is_desktop() -> bool:
    return "Docker Desktop" in str((_ask("/info") or {}).get("OperatingSystem"))


def _ask(path: str) -> Any:
    """What the local engine answers; None when none does."""
    host = os.environ.get("DOCKER_HOST", f"unix://{_SOCKET}")
    if not host.startswith("unix://"):
        return None
    connection = _OverSocket(host.removeprefix("unix://"))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read()) if answer.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
