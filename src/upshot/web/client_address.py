"""The address of a client, also behind reverse proxies that the settings name."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope


def client_address(scope: Scope, headers: Headers, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """
    Return the address that a request comes from.

    Args:
        scope: The request.
        headers: Its headers.
        trusted: Networks of the proxies whose `X-Forwarded-For` is believed.
    """
    address, _ = scope.get("client") or ("", None)
    if not trusted:
        return str(address)
    hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
    while hops and _is_within(address, trusted):
        address = hops.pop()
    return str(address)


def _is_within(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)
