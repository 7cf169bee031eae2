"""The embedded Redis: a Valkey server with an append-only file and a password, on a private Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from urllib.parse import quote

from upshot.embedded.data_dir import DataDir
from upshot.errors import ConfigError
from upshot.private_files import is_private_directory, make_private_directory, write_private

MAX_SOCKET_PATH_BYTES = 100  # the system's limit is 108 on Linux and 104 on macOS, including the terminating byte
_ANSWER_SECONDS = 2.0
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")
_SOCKET = "redis.sock"


class Valkey:
    """
    The configuration of the embedded server.

    Args:
        data_dir: Directory of the server's files. The address and the password never change. The exception: the path of
            the socket is too long, and another user owns the directory that replaces it.

    Raises:
        ConfigError: There is no directory with a short path for the socket.
    """

    def __init__(self, data_dir: DataDir) -> None:
        self._directory = data_dir.redis
        self._password = data_dir.redis_password()
        self.socket = _socket_path(data_dir)
        self.configuration = data_dir.redis / "valkey.conf"

    @property
    def url(self) -> str:
        """URL for redis-py. `make_app` translates it for Celery."""
        return f"unix://:{self._password}@{quote(os.fsencode(self.socket))}?db=0"

    def configure(self) -> None:
        """Write the configuration to a file, because every user can read a command line."""
        write_private(
            self.configuration,
            "\n".join(
                [
                    "port 0",
                    f"unixsocket {_quoted(self.socket)}",
                    "unixsocketperm 600",
                    f"requirepass {self._password}",
                    f"dir {_quoted(self._directory)}",
                    "appendonly yes",
                    "appendfsync everysec",
                    'save ""',
                    "maxmemory-policy noeviction",
                    "daemonize no",
                    "",
                ]
            ),
        )

    async def ping(self) -> bool:
        """Return whether the server accepts the password and has loaded its files."""
        request = f"AUTH {self._password}\r\nPING\r\n"
        return "+PONG" in await _send(self.socket, request, until="PONG")

    def remove_socket(self) -> None:
        """Remove the directory that was created for the socket. Call this after the server has ended."""
        if self.socket.parent != self._directory:
            shutil.rmtree(self.socket.parent, ignore_errors=True)


async def stop_orphan(data_dir: DataDir) -> None:
    """Stop the server that a killed supervisor left behind on this data directory, if one is still running."""
    request = f"AUTH {data_dir.redis_password()}\r\nSHUTDOWN\r\n"
    for directory in (data_dir.redis, *_short_directories(data_dir)):
        if is_private_directory(directory):  # otherwise, another user's server could receive the password
            await _send(directory / _SOCKET, request, until="ERR")


def _socket_path(data_dir: DataDir) -> Path:
    if _can_have_socket(data_dir.redis):
        return data_dir.redis / _SOCKET
    for directory in _short_directories(data_dir):
        with contextlib.suppress(OSError):
            if not _is_short(directory):
                continue
            make_private_directory(directory)
            if is_private_directory(directory) and _can_have_socket(directory):
                return directory / _SOCKET
    raise ConfigError(
        f"{data_dir.path}: a socket cannot be made in it, or its path is too long, and none can be made in "
        f"{' or '.join(str(directory.parent) for directory in _short_directories(data_dir))}; choose a data directory "
        "with a shorter path, or set XDG_RUNTIME_DIR to one of your directories"
    )


def _can_have_socket(directory: Path) -> bool:
    """Return whether a socket can be created in a directory. Some file systems, such as shared folders, have none."""
    probe = directory / "test.sock"
    if not _is_short(directory):
        return False
    try:
        probe.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.fsencode(probe))
    except OSError:
        return False
    probe.unlink()
    return True


def _is_short(directory: Path) -> bool:
    return len(os.fsencode(directory / _SOCKET)) <= MAX_SOCKET_PATH_BYTES


def _short_directories(data_dir: DataDir) -> list[Path]:
    """Return the directories that can replace the data directory. Their names are derived from its path."""
    digest = hashlib.sha256(os.fsencode(data_dir.path.resolve())).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parents = [runtime, f"/run/user/{os.geteuid()}", tempfile.gettempdir(), "/tmp"]  # noqa: S108 - checked before use
    return [
        Path(parent) / f"upshot-{digest}" for parent in dict.fromkeys(parents) if parent and Path(parent).is_absolute()
    ]


def _quoted(path: Path) -> str:
    """Return a path quoted for the server's configuration. It can contain any characters."""
    return '"' + "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in os.fsencode(path)) + '"'


async def _send(path: Path, request: str, *, until: str) -> str:
    """Send inline commands, and return the answer up to a word, an error, the end of the connection or a timeout."""
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(request.encode())
                while until.encode() not in answer and b"\n-" not in answer:
                    if not (data := await reader.read(4096)):
                        break
                    answer += data
            finally:
                writer.close()
    return answer.decode("utf-8", "replace")
