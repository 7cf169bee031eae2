"""The embedded Redis: a Valkey server with an append-only file and a password, on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket

from upshot.client.endpoint import write_private
from upshot.embedded.data_dir import DataDir

# Outgoing connections get ports from 32768 up. If the server's port were one of those, a client that keeps
# trying to reach a server that is down could be given the server's own port.
_PORTS = range(16400, 32000)
_ANSWER_SECONDS = 2.0


class Valkey:
    """
    The configuration of the embedded server.

    Args:
        data_dir: Directory of the server's files. The port is chosen at each start of `upshot up`; the
            password never changes.
    """

    def __init__(self, data_dir: DataDir) -> None:
        self._directory = data_dir.redis
        self._password = data_dir.redis_password()
        self._port = _free_port()
        self.configuration = data_dir.redis / "valkey.conf"

    @property
    def url(self) -> str:
        """URL for redis-py and Celery."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def configure(self) -> None:
        """Write the configuration to a file, because every user can read a command line."""
        directory = str(self._directory).replace("\\", "\\\\").replace('"', '\\"')
        write_private(
            self.configuration,
            "\n".join(
                [
                    "bind 127.0.0.1",
                    f"port {self._port}",
                    f"requirepass {self._password}",
                    f'dir "{directory}"',
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
        return "+PONG" in await _send(self._port, request, until="PONG")


async def stop_orphan(data_dir: DataDir) -> None:
    """Stop the server that a killed supervisor left behind on this data directory, if one is still running."""
    with contextlib.suppress(FileNotFoundError):
        text = (data_dir.redis / "valkey.conf").read_text()
        settings = dict(line.split(" ", 1) for line in text.splitlines() if line)
        await _send(int(settings["port"]), f"AUTH {settings['requirepass']}\r\nSHUTDOWN\r\n", until="ERR")


async def _send(port: int, request: str, *, until: str) -> str:
    """Send inline commands, and return the answer up to a word, an error, the end of the connection or a timeout."""
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request.encode())
                while until.encode() not in answer and b"\n-" not in answer:
                    if not (data := await reader.read(4096)):
                        break
                    answer += data
            finally:
                writer.close()
    return answer.decode("utf-8", "replace")


def _free_port() -> int:
    """Return a loopback port on which nobody listens."""
    for port in random.sample(_PORTS, 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("there is no free port on 127.0.0.1 between 16400 and 32000")
