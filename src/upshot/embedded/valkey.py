"""The embedded Redis: a Valkey server with its append-only file on, on a loopback port, with a password."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket

from upshot.client.endpoint import write_private
from upshot.embedded.data_dir import DataDir

# Below the ports that systems give to outgoing connections (32768 and above): a client that tries
# again and again to reach a server that is down could otherwise be given the server's own port.
_PORTS = range(16400, 32000)
_ANSWER_SECONDS = 2.0


class Valkey:
    """
    The configuration of the embedded server, and whether it answers.

    Args:
        folder: Where its files live; the port is chosen now and stays, the password stays for ever.
    """

    def __init__(self, folder: DataDir) -> None:
        self._folder = folder
        self._password = folder.redis_password()
        self._port = free_port()
        self.configuration = folder.redis / "valkey.conf"

    @property
    def url(self) -> str:
        """As redis-py and Celery read it."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def configure(self) -> None:
        """Write the configuration; a file, since anybody can read a command line."""
        write_private(
            self.configuration,
            "\n".join(
                [
                    "bind 127.0.0.1",
                    f"port {self._port}",
                    f"requirepass {self._password}",
                    f"dir {_quoted(str(self._folder.redis))}",
                    "appendonly yes",
                    "appendfsync everysec",
                    'save ""',
                    "maxmemory-policy noeviction",
                    "daemonize no",
                    "",
                ]
            ),
        )

    async def answers(self) -> bool:
        """Tell whether it answers to its password and has read its files."""
        request = f"AUTH {self._password}\r\nPING\r\n"
        return "+PONG" in await _ask(self._port, request, until="PONG")


async def stop_orphan(folder: DataDir) -> None:
    """Stop the server that a killed supervisor left behind on this data, if one still answers to our password."""
    with contextlib.suppress(FileNotFoundError):
        text = (folder.redis / "valkey.conf").read_text()
        words = dict(line.split(" ", 1) for line in text.splitlines() if line)
        await _ask(int(words["port"]), f"AUTH {words['requirepass']}\r\nSHUTDOWN\r\n", until="ERR")


async def _ask(port: int, request: str, *, until: str) -> str:
    """What the server says to inline commands, up to that word, an error, its hanging up or a moment's silence."""
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request.encode())
                while until.encode() not in answer and b"\n-" not in answer:
                    if not (piece := await reader.read(4096)):
                        break
                    answer += piece
            finally:
                writer.close()
    return answer.decode("utf-8", "replace")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    for port in random.sample(_PORTS, 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port on 127.0.0.1 between 16400 and 32000")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
