"""The options of a Docker backend: where its engine is, and what all its containers get."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, Field

from upshot.backends.options import BackendOptions, Duration, Size, validate_options
from upshot.errors import ConfigError
from upshot.validation import invalid

DEFAULT_SOCKET = "/var/run/docker.sock"
DEFAULT_LOG_BYTES = 64 * 1024 * 1024  # per container, kept by the engine; the oldest quarter is dropped first
DEFAULT_TIMEOUT_SECONDS = 10.0
PLAIN_PORT, TLS_PORT = 2375, 2376  # IANA registers both for Docker's API

_MIN_LOG_BYTES = 1024 * 1024
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_RESERVED_PREFIX = "upshot."
_HOST_REMEDY = "write unix:///var/run/docker.sock, tcp://HOST:2376 with `tls`, or ssh://USER@HOST"


class Transport(StrEnum):
    """How the engine is reached."""

    UNIX = "unix"
    TCP = "tcp"
    TLS = "tls"
    SSH = "ssh"


@dataclass(frozen=True, slots=True)
class Address:
    """Address of an engine."""

    transport: Transport
    socket: str = ""  #: path of its socket, on this machine or behind SSH; empty over TCP
    host: str = ""
    port: int = 0  #: over SSH, 0 leaves the port to the ssh configuration
    user: str | None = None  #: over SSH, None leaves the user to the ssh configuration

    @property
    def base_url(self) -> str:
        """The beginning of each request's URL. Behind a socket the host is a placeholder that is never resolved."""
        if self.socket:
            return "http://docker"
        scheme = "https" if self.transport is Transport.TLS else "http"
        return f"{scheme}://{_bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        if self.transport is Transport.UNIX:
            return f"unix://{self.socket}"
        place = _bracketed(self.host) + (f":{self.port}" if self.port else "")
        if self.transport is Transport.SSH:
            return f"ssh://{f'{self.user}@' if self.user else ''}{place}{self.socket}"
        return f"tcp://{place}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def parse_address(host: str, *, with_tls: bool = False) -> Address:
    """
    Parse an engine's address in the syntax of `DOCKER_HOST`, or the path of a socket.

    Raises:
        ValueError: It is invalid. The text says what to write.
    """
    if host.startswith("/"):
        return Address(Transport.UNIX, host)
    parts = urlsplit(host)
    port = parts.port  # raises ValueError if it is not a number
    if parts.scheme == "unix" and not parts.netloc and parts.path:
        return Address(Transport.UNIX, unquote(parts.path))
    if parts.scheme in ("tcp", "http", "https") and parts.hostname and parts.path in ("", "/"):
        is_tls = with_tls or parts.scheme == "https"
        transport = Transport.TLS if is_tls else Transport.TCP
        return Address(transport, host=parts.hostname, port=port or (TLS_PORT if is_tls else PLAIN_PORT))
    if parts.scheme == "ssh" and parts.hostname:
        return _parse_ssh_address(parts, port)
    raise ValueError(f"{host!r} is not an address of an engine; {_HOST_REMEDY}")


def _parse_ssh_address(parts: SplitResult, port: int | None) -> Address:
    host, user = parts.hostname or "", unquote(parts.username) if parts.username else None
    if parts.password:
        raise ValueError("the address contains a password; give the worker's user an SSH key instead")
    if host.startswith("-") or (user or "").startswith("-"):
        raise ValueError("ssh would read a host or user that begins with `-` as an option; use another name")
    socket = unquote(parts.path) if parts.path not in ("", "/") else DEFAULT_SOCKET
    if ":" in socket:
        raise ValueError("ssh cannot forward a socket whose path contains `:`; use another path")
    return Address(Transport.SSH, socket, host, port or 0, user)


def _check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    for name in labels:
        if name.startswith(_RESERVED_PREFIX) or not _LABEL.fullmatch(name):
            raise invalid(
                f"{name!r} is not allowed as a label; use letters, digits, `.`, `_`, `/` and `-`, "
                f"and a name that does not begin with {_RESERVED_PREFIX}"
            )
    return labels


class TlsFiles(BackendOptions):
    """Files for TLS between the worker and the engine."""

    ca: str | None = None  #: verifies the engine's certificate; None: the authorities that this machine trusts
    cert: str | None = None
    key: str | None = None  #: None: `cert` contains it
    verify: bool = True  #: false accepts any certificate of the engine


def _default_host() -> str:
    """Return the address that Docker's own command uses."""
    return os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"  # noqa: TID251 - Docker's variable, not ours


class DockerOptions(BackendOptions):
    """Options of a Docker backend."""

    host: Annotated[str, Field(min_length=1)] = Field(default_factory=_default_host)
    tls: TlsFiles | None = None  #: for tcp:// addresses; None: not encrypted, except over https://
    labels: Annotated[Mapping[str, str], AfterValidator(_check_labels)] = Field(default_factory=dict)
    log_size: Annotated[Size, Field(ge=_MIN_LOG_BYTES)] = DEFAULT_LOG_BYTES
    timeout: Annotated[Duration, Field(ge=1, le=600)] = DEFAULT_TIMEOUT_SECONDS
    init: bool = True  #: run a small init process that forwards signals and reaps; some Podman versions lack one

    @property
    def address(self) -> Address:
        """Address of the engine."""
        return parse_address(self.host, with_tls=self.tls is not None)


def read_options(options: Mapping[str, Any]) -> DockerOptions:
    """
    Parse the options of a Docker backend in the operator's file.

    Raises:
        ConfigError: An option is invalid.
    """
    parsed = validate_options(DockerOptions, options)
    try:
        address = parsed.address
    except ValueError as error:
        raise ConfigError(f"host: {error}") from error
    if parsed.tls is not None and address.transport is not Transport.TLS:
        raise ConfigError(f"tls: {parsed.host} is not reached over TLS; remove `tls`, or {_HOST_REMEDY}")
    tls_context(parsed)  # Report invalid files at startup, where a person sees it.
    return parsed


def tls_context(options: DockerOptions) -> ssl.SSLContext | None:
    """
    Return the TLS context for the engine; None if it is not reached over TLS.

    Raises:
        ConfigError: A file does not exist, or its content is invalid.
    """
    if options.address.transport is not Transport.TLS:
        return None
    files = options.tls or TlsFiles()
    ca, cert, key = (None if path is None else Path(path).expanduser() for path in (files.ca, files.cert, files.key))
    for name, path in (("ca", ca), ("cert", cert), ("key", key)):
        if path is not None and not path.is_file():
            raise ConfigError(f"tls.{name}: there is no file {path}")
    if key is not None and cert is None:
        raise ConfigError("tls.key: a key needs its certificate; name it under tls.cert")
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"tls: the files must be PEM, and key and certificate must match: {error}") from error
    if not files.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
