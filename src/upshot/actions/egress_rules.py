"""
Which destinations actions can reach: public ones, and those that the operator allows.

These are pure rules. `adapters.egress` applies them to every address that it connects to. Upshot has its own
lists, because the result of `ipaddress.is_global` changes between Python releases. Sources: IANA's IPv4 and
IPv6 Special-Purpose Address Registries, and the cloud vendors' pages about their metadata services.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

from yarl import URL

from upshot.errors import ConfigError

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

_DENIED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")  # global unicast; everything else is special
_DENIED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, including Teredo, which embeds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds an IPv4 address
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
_ISATAP = 0x00005EFE  # RFC 5214: an address with one of these third quarters ends in an IPv4 address
_ISATAP_GLOBAL_BIT = 0x02000000

_METADATA_ADDRESSES = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, DigitalOcean, Hetzner, OpenStack, Oracle
        "169.254.170.2",  # AWS ECS credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's WireServer
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fd00:a9fe:a9fe::1",  # Linode
        "fe80::a9fe:a9fe",  # OpenStack
    )
)
_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.tencentyun.com",
    }
)

_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMBER_LIKE = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)\.?")  # hosts that browsers and C libraries parse as IPv4
_MAX_PORT = 65535
_AUTHORITY = re.compile(r"[^/?#]*")


class InvalidUrl(ValueError):
    """An action cannot use this URL. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of a URL, from the same parser that the HTTP client uses."""

    url: URL  #: as it is sent: path and query as written, except that characters beyond ASCII are encoded
    host: str  #: lower case, IDNA, without brackets or a final dot
    port: int

    @property
    def destination(self) -> str:
        """`scheme://host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.url.scheme}://{host}:{self.port}"


@lru_cache(maxsize=4096)
def parse_url(text: str) -> Target:
    """
    Parse a URL to which a request can be sent.

    Raises:
        InvalidUrl: It is not http or https, or it has no host, an invalid port, credentials, or a disguised address.
    """
    if any(char <= " " or char == "\x7f" for char in text):
        raise InvalidUrl("the URL contains a space or a control character; remove it or write it as %XX")
    try:
        url = _as_written(text)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise InvalidUrl(f"this is not a URL ({error}); write https://host/path") from error
    if url.scheme not in {"http", "https"} or not host:
        raise InvalidUrl("this URL cannot be used; it must begin with https:// or http:// and contain a host")
    if url.raw_user is not None or url.raw_password is not None:
        raise InvalidUrl("the URL contains credentials; move them to an Authorization header")
    if not port:
        raise InvalidUrl("the URL's port must be between 1 and 65535")
    host = host.lower()
    if address := _literal(host):
        return Target(url, str(address), port)
    if _NUMBER_LIKE.fullmatch(host):
        raise InvalidUrl(f"host {host!r} is an address in an unusual form; write four decimal numbers, as in 192.0.2.7")
    host = host.removesuffix(".")
    if not _HOST_NAME.fullmatch(host):
        raise InvalidUrl(f"{host!r} is not a host name")
    return Target(url, host, port)


def _as_written(text: str) -> URL:
    """
    Return a URL whose path and query stay as written, because a signature can cover their spelling.

    yarl would decode `%2F`, `%28` and `%7E` where they are optional. It parses and encodes the host only.
    """
    parsed = URL(text)
    _, _, after_scheme = text.partition("://")
    rest = after_scheme[_AUTHORITY.match(after_scheme).end() :].partition("#")[0]  # type: ignore[union-attr]  # it always matches
    if not rest.startswith("/"):
        rest = f"/{rest}"
    # Surrogates are bytes of a header, such as `Location`, that are not UTF-8.
    encoded = (
        "".join(char if char.isascii() else quote(char.encode("utf-8", "surrogateescape"), safe="") for char in rest)
        if not rest.isascii()
        else rest
    )
    url = URL(f"{parsed.scheme}://{parsed.raw_authority}{encoded}", encoded=True)
    if (url.raw_host, url.port) != (parsed.raw_host, parsed.port):
        raise ValueError("its host is ambiguous")
    return url


def _literal(text: str) -> IpAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _unmapped(address: IpAddress) -> IpAddress:
    """Return an IPv4-mapped address as the IPv4 address to which a socket connects. A zone is dropped."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _is_public(address: IpAddress) -> bool:
    if address in _METADATA_ADDRESSES:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _DENIED_V4)
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    third_quarter = (int(address) >> 32) & 0xFFFFFFFF
    return (
        address in _PUBLIC_V6
        and not any(address in network for network in _DENIED_V6)
        and third_quarter & ~_ISATAP_GLOBAL_BIT != _ISATAP
    )


@dataclass(frozen=True, slots=True)
class _Allowed:
    """One entry of `UPSHOT_EGRESS_ALLOW`. Exactly one of `network`, `address` and `host` is set."""

    network: IpNetwork | None = None
    address: IpAddress | None = None
    host: str | None = None
    port: int | None = None  #: None allows every port

    def covers(self, host: str, port: int, address: IpAddress) -> bool:
        if self.port is not None and self.port != port:
            return False
        if address in _METADATA_ADDRESSES:
            return self.address == address or (self.host == host and host in _METADATA_NAMES)
        if self.host is not None:
            return self.host == host
        return self.address == address or (self.network is not None and address in self.network)


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What actions can reach besides the public internet. An entry allows a metadata service only by its exact name."""

    allowed: tuple[_Allowed, ...] = ()

    @staticmethod
    def parse(text: str) -> EgressRules:
        """
        Parse the setting `UPSHOT_EGRESS_ALLOW`.

        Args:
            text: Networks, addresses and host names, each with an optional port, separated by commas:
                `127.0.0.0/8, ::1/128, hooks.internal:8443, 10.0.0.0/8:9000, [fd00::]/8, [fd00::7]:9000`.

        Raises:
            ConfigError: An entry is invalid.
        """
        entries = (entry.strip() for entry in text.split(","))
        return EgressRules(tuple(_parse_entry(entry) for entry in entries if entry))

    def check_address(self, host: str, port: int, address: str) -> str | None:
        """
        Return why a connection to this address is forbidden, or None if it is allowed.

        Args:
            host: `Target.host`.
            port: Port of the connection.
            address: Address of the connection: the host itself, or a result of the name lookup.
        """
        literal = _literal(address)
        if literal is None:
            return f"{address!r} is not an address"
        plain = _unmapped(literal)
        name = host.lower().removesuffix(".")
        if _is_public(plain) and name not in _METADATA_NAMES:
            return None
        if any(entry.covers(name, port, plain) for entry in self.allowed):
            return None
        what = "a metadata service" if plain in _METADATA_ADDRESSES or name in _METADATA_NAMES else "not public"
        shown = f"{name} ({plain})" if name != str(plain) else name
        entry = f"[{name}]" if ":" in name else name
        return f"{shown} is {what}; to allow it, add {entry}:{port} to UPSHOT_EGRESS_ALLOW"

    def check_addresses(self, host: str, port: int, addresses: Iterable[str]) -> str | None:
        """
        Return why a host is forbidden, or None if it is allowed.

        One forbidden address makes the whole host forbidden. Otherwise another attempt could choose that address.
        """
        return next((reason for address in addresses if (reason := self.check_address(host, port, address))), None)

    def check_url(self, url: str) -> str | None:
        """
        Return what is wrong with a URL as far as is known without a name lookup, or None.

        `upshot doctor` checks this. Each delivery checks the addresses.
        """
        try:
            target = parse_url(url)
        except InvalidUrl as error:
            return str(error)
        if _literal(target.host) is not None:
            return self.check_address(target.host, target.port, target.host)
        if target.host in _METADATA_NAMES and not any(entry.host == target.host for entry in self.allowed):
            return f"{target.host} is a metadata service; to allow it, add it to UPSHOT_EGRESS_ALLOW"
        return None


def _parse_entry(entry: str) -> _Allowed:
    body, port = _split_port(entry)
    bare = body.replace("[", "").replace("]", "")
    try:
        if "/" in bare:
            return _Allowed(network=_network(bare), port=port)
        if address := _literal(bare):
            return _Allowed(address=_unmapped(address), port=port)
    except ValueError as error:
        raise _invalid_entry(entry, str(error)) from error
    host = body.lower().removesuffix(".")
    if "*" in host:
        raise _invalid_entry(entry, "patterns are not allowed; name each host")
    if _NUMBER_LIKE.fullmatch(host) or not _HOST_NAME.fullmatch(host):
        raise _invalid_entry(entry, "this is neither a network, nor an address, nor a host name")
    return _Allowed(host=host, port=port)


def _network(text: str) -> IpNetwork:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped):
        return IPv4Network((mapped, max(0, network.prefixlen - 96)))
    return network


def _split_port(entry: str) -> tuple[str, int | None]:
    """Split `host:port`. An IPv6 address or network with a port needs brackets."""
    body, colon, digits = entry.rpartition(":")
    if not colon or (":" in body and not body.startswith("[")) or "]" in digits:
        return entry, None
    if not re.fullmatch(r"[0-9]{1,5}", digits) or not 0 < int(digits) <= _MAX_PORT:
        raise _invalid_entry(entry, f"{digits!r} is not a port between 1 and {_MAX_PORT}")
    return body, int(digits)


def _invalid_entry(entry: str, reason: str) -> ConfigError:
    return ConfigError(
        f"UPSHOT_EGRESS_ALLOW: {entry!r}: {reason}; "
        "write entries such as 10.0.0.0/8, [fd00::]/8, 192.168.1.7:9000 or hooks.internal:8443, separated by commas"
    )
