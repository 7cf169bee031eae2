"""
Make the embedded server reachable for containers of this machine.

The server listens on loopback, and a container has a loopback of its own. The machine and its
containers both reach the address of Docker's bridge, so the web process listens there as well. Requests
from there need the token.
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
_TIMEOUT_SECONDS = 2.0
_DOCKER_DESKTOP_HOST = "host.docker.internal"  # with Docker Desktop, this name leads to the machine's loopback


def listen_on_bridge(port: int) -> tuple[socket.socket | None, str | None]:
    """
    Listen where containers of this machine's Docker reach it.

    Args:
        port: Port on which the server listens on loopback.

    Returns:
        The socket, or None if no additional socket is necessary or possible, and the host name that
        containers use, or None if they cannot reach this machine.
    """
    address = bridge_address()
    if address is None:
        return None, None
    try:
        return socket.create_server((address, port)), address
    except OSError:
        # Docker Desktop runs Docker in a virtual machine, so the address is not one of this machine's.
        is_docker_desktop = "Docker Desktop" in str((_get("/info") or {}).get("OperatingSystem"))
        return None, _DOCKER_DESKTOP_HOST if is_docker_desktop else None


def bridge_address() -> str | None:
    """Return the machine's address on Docker's default network, or None if Docker does not answer."""
    network = _get("/networks/bridge")
    for config in ((network or {}).get("IPAM") or {}).get("Config") or ():
        if gateway := config.get("Gateway"):
            return str(gateway)
        with contextlib.suppress(KeyError, ValueError, StopIteration):
            return str(next(ip_network(config["Subnet"]).hosts()))  # Docker takes the first address for itself
    return None


def _get(path: str) -> Any:
    """Send a GET request to the local Docker engine. Return its JSON response, or None if there is none."""
    host = os.environ.get("DOCKER_HOST", f"unix://{_SOCKET}")
    if not host.startswith("unix://"):
        return None
    connection = http.client.HTTPConnection("localhost", timeout=_TIMEOUT_SECONDS)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_TIMEOUT_SECONDS)
        connection.sock.connect(host.removeprefix("unix://"))
        connection.request("GET", path)
        response = connection.getresponse()
        return json.loads(response.read()) if response.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
