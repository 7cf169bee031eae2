"""A proxy between a worker and the Docker engine. Tests can hold requests back, or cut the connection."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

ENGINE = "/var/run/docker.sock"
_CHUNK_BYTES = 65536


class EngineProxy:
    """
    A socket that forwards to the engine.

    Requests whose first line matches a pattern can be held back, before they reach the engine or with the engine's
    response. All other data passes unchanged.

    Args:
        path: Path of the socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_holding = threading.Event()  #: a request or a response is held back
        self._pattern: re.Pattern[bytes] | None = None
        self._holds_response = False
        self._released = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.start()

    @property
    def url(self) -> str:
        """The `host` of a backend that uses the proxy."""
        return f"unix://{self.path}"

    def start(self) -> None:
        """Accept connections."""
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Make the engine unreachable: refuse new connections, and cut the open ones."""
        if self._listener is not None:
            self._listener.close()
        self.path.unlink(missing_ok=True)
        for connection in tuple(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def hold(self, pattern: str, *, response: bool = False) -> Iterator[None]:
        """Hold back the first matching request, or its response, until the end of the block. It is then dropped."""
        self._released.clear()
        self.is_holding.clear()
        self._holds_response = response
        self._pattern = re.compile(pattern.encode())
        try:
            yield
        finally:
            self._pattern = None
            self._released.set()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(ENGINE)
            self._sockets |= {client, engine}
            hold_response = threading.Event()
            threading.Thread(target=self._forward_requests, args=(client, engine, hold_response), daemon=True).start()
            threading.Thread(target=self._forward_responses, args=(engine, client, hold_response), daemon=True).start()

    def _forward_requests(self, client: socket.socket, engine: socket.socket, hold_response: threading.Event) -> None:
        with self._closing(client, engine):
            while data := client.recv(_CHUNK_BYTES):
                if self._pattern is not None and self._pattern.search(data.partition(b"\r\n")[0]):
                    self._pattern = None
                    if not self._holds_response:
                        self._hold()
                        return
                    hold_response.set()
                engine.sendall(data)

    def _forward_responses(self, engine: socket.socket, client: socket.socket, hold_response: threading.Event) -> None:
        with self._closing(engine, client):
            while data := engine.recv(_CHUNK_BYTES):
                if hold_response.is_set():
                    self._hold()
                    return
                client.sendall(data)

    def _hold(self) -> None:
        self.is_holding.set()
        self._released.wait()

    @contextlib.contextmanager
    def _closing(self, *connections: socket.socket) -> Iterator[None]:
        try:
            with contextlib.suppress(OSError):
                yield
        finally:
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
                self._sockets.discard(connection)
