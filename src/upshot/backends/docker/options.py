"""What an operator writes of a Docker backend: where its engine is, and what all its containers get."""

from __future__ import annotations

import difflib
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from upshot.errors import ConfigError
from upshot.schema.quantities import InvalidQuantity, read_bytes, read_duration

DEFAULT_SOCKET = "/var/run/docker.sock"
DEFAULT_LOG_BYTES = 64 * 1024 * 1024  # of one container, in the engine; the oldest quarter goes first
DEFAULT_TIMEOUT_SECONDS = 10.0
PLAIN_PORT, TLS_PORT = 2375, 2376  # of Docker's API, as registered with IANA

_MIN_LOG_BYTES = 1024 * 1024
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_OURS = "upshot."
_HOST_REMEDY = "write unix:///var/run/docker.sock, tcp://HOST:2376 with `tls`, or ssh://USER@HOST"


class Transport(StrEnum):
    """How an engine is reached."""

    UNIX = "unix"
    TCP = "tcp"
    TLS = "tls"
    SSH = "ssh"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine is."""

    transport: Transport
    socket: str = ""  #: path of its socket, here or on the machine that SSH reaches; empty over TCP
    host: str = ""
    port: int = 0  #: over SSH, 0: as the ssh configuration has it
    user: str | None = None  #: over SSH; None: as the ssh configuration has it

    @property
    def base_url(self) -> str:
        """What requests begin with; behind a socket, a name that nobody looks up."""
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


def read_address(host: str, *, with_tls: bool = False) -> Address:
    """
    Read an engine's address as `DOCKER_HOST` has it, or the path of a socket.

    Raises:
        ValueError: It is none; the text says what to write.
    """
    if host.startswith("/"):
        return Address(Transport.UNIX, host)
    parts = urlsplit(host)
    port = parts.port  # ValueError for one that is no number
    if parts.scheme == "unix" and not parts.netloc and parts.path:
        return Address(Transport.UNIX, unquote(parts.path))
    if parts.scheme in ("tcp", "http", "https") and parts.hostname and parts.path in ("", "/"):
        is_tls = with_tls or parts.scheme == "https"
        transport = Transport.TLS if is_tls else Transport.TCP
        return Address(transport, host=parts.hostname, port=port or (TLS_PORT if is_tls else PLAIN_PORT))
    if parts.scheme == "ssh" and parts.hostname:
        return _ssh_address(parts, port)
    raise ValueError(f"{host!r} is no address of an engine; {_HOST_REMEDY}")


def _ssh_address(parts: SplitResult, port: int | None) -> Address:
    host, user = parts.hostname or "", unquote(parts.username) if parts.username else None
    if parts.password:
        raise ValueError("a password has no place in an address; let the worker's user have an SSH key")
    if host.startswith("-") or (user or "").startswith("-"):
        raise ValueError("ssh would take a name that begins with `-` for an option")
    socket = unquote(parts.path) if parts.path not in ("", "/") else DEFAULT_SOCKET
    if ":" in socket:
        raise ValueError("the path of the socket holds a `:`, which ssh cannot forward")
    return Address(Transport.SSH, socket, host, port or 0, user)


# --- the record -----------------------------------------------------------------------------------


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=_kebab)


def _quantity(read: Callable[[Any], float]) -> BeforeValidator:
    """Takes what people write, and the number itself, which is what the default is."""

    def read_one(value: Any) -> Any:
        try:
            return read(value)
        except InvalidQuantity as error:
            raise PydanticCustomError("quantity", "{finding}", {"finding": str(error)}) from error

    return BeforeValidator(read_one)


def _check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    for name in labels:
        if name.startswith(_OURS) or not _LABEL.fullmatch(name):
            finding = f"{name!r} is no name that a label can have here; {_OURS}* are Upshot's own"
            raise PydanticCustomError("label", "{finding}", {"finding": finding})
    return labels


class TlsFiles(_Record):
    """With what an engine behind TLS is recognised, and by what it recognises us."""

    ca: str | None = None  #: of the engine's certificate; None: those that this machine trusts
    cert: str | None = None
    key: str | None = None  #: None: it is in `cert`
    verify: bool = True  #: false: any engine is believed


def _usual_host() -> str:
    """As Docker's own command finds its engine: the environment names it, or it is this machine's."""
    return os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"  # noqa: TID251 - no setting of ours


class DockerSettings(_Record):
    """Options of a Docker backend; keys are written in kebab-case."""

    host: Annotated[str, Field(min_length=1)] = Field(default_factory=_usual_host)
    tls: TlsFiles | None = None  #: for tcp:// addresses; None: not encrypted, save with https://
    labels: Annotated[Mapping[str, str], AfterValidator(_check_labels)] = Field(default_factory=dict)
    log_size: Annotated[int, _quantity(read_bytes), Field(ge=_MIN_LOG_BYTES)] = DEFAULT_LOG_BYTES  #: bytes
    timeout: Annotated[float, _quantity(read_duration), Field(ge=1, le=600)] = DEFAULT_TIMEOUT_SECONDS  #: seconds
    init: bool = True  #: a small first process, which passes signals on and reaps; not every Podman has one

    @property
    def address(self) -> Address:
        """Where the engine is."""
        return read_address(self.host, with_tls=self.tls is not None)


def read_settings(options: Mapping[str, Any]) -> DockerSettings:
    """
    Read what stands under the backend's name in the operator's file.

    Raises:
        ConfigError: A key or value that cannot be meant.
    """
    try:
        settings = DockerSettings.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(_finding(error)) from error
    try:
        address = settings.address
    except ValueError as error:
        raise ConfigError(f"host: {error}") from error
    if settings.tls is not None and address.transport is not Transport.TLS:
        raise ConfigError(f"tls: {settings.host} is not reached over TLS; leave it out, or {_HOST_REMEDY}")
    tls_context(settings)  # now, where a person sees it
    return settings


def tls_context(settings: DockerSettings) -> ssl.SSLContext | None:
    """
    What the engine's TLS is spoken with; None where it is not.

    Raises:
        ConfigError: A file is not there, or is not what it should be.
    """
    if settings.address.transport is not Transport.TLS:
        return None
    files = settings.tls or TlsFiles()
    for name, path in (("ca", files.ca), ("cert", files.cert), ("key", files.key)):
        if path is not None and not Path(path).expanduser().is_file():
            raise ConfigError(f"tls.{name}: there is no file {path}")
    if files.key is not None and files.cert is None:
        raise ConfigError("tls.key: a key without its certificate; name that under tls.cert")
    try:
        context = ssl.create_default_context(cafile=_path(files.ca))
        if files.cert is not None:
            context.load_cert_chain(str(_path(files.cert)), _path(files.key))
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"tls: the files cannot be used, they should be PEM and belong together: {error}") from error
    if not files.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _path(name: str | None) -> str | None:
    return None if name is None else str(Path(name).expanduser())


def _finding(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    *above, key = [str(part) for part in first["loc"]]
    place = ".".join([*above, key])
    if first["type"] == "extra_forbidden":
        record = TlsFiles if above == ["tls"] else DockerSettings
        known = [_kebab(name) for name in record.model_fields]
        near = difflib.get_close_matches(_kebab(key), known, n=1)
        return f"{place}: unknown key" + (f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}")
    joint = " " if first["type"] == "quantity" else ": "
    return f"{place}: {first['input']!r}{joint}{first['msg']}"
