"""A door between a worker and the Docker engine, which a test can hold shut, or take away."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

ENGINE = "/var/run/docker.sock"
_CHUNK_BYTES = 65536


class EngineDoor:
    """
    A socket that leads to the engine.

    Requests whose first line fits a pattern can be held: before they reach the engine, or with the
    engine's answer on its way back. Nothing else is looked at or changed.

    Args:
        path: Of the socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = threading.Event()  #: something is held now
        self._pattern: re.Pattern[bytes] | None = None
        self._holds_answer = False
        self._go_on = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.open()

    @property
    def url(self) -> str:
        """As a backend's `host`."""
        return f"unix://{self.path}"

    def open(self) -> None:
        """Let everybody in."""
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """The engine is away: nobody gets in, and who is in is thrown out."""
        if self._listener is not None:
            self._listener.close()
        self.path.unlink(missing_ok=True)
        for one in tuple(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def holding(self, pattern: str, *, answer: bool = False) -> Iterator[None]:
        """Hold the first request that fits, or its answer, until the end of the block; what was held is then lost."""
        self._go_on.clear()
        self.held.clear()
        self._holds_answer = answer
        self._pattern = re.compile(pattern.encode())
        try:
            yield
        finally:
            self._pattern = None
            self._go_on.set()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(ENGINE)
            self._sockets |= {client, engine}
            stop = threading.Event()  # the answer is held
            threading.Thread(target=self._pass, args=(client, engine, stop, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(engine, client, stop, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, stop: threading.Event, is_request: bool) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                if is_request and self._pattern is not None and self._pattern.search(data.partition(b"\r\n")[0]):
                    self._pattern = None
                    if not self._holds_answer:
                        self.held.set()
                        self._go_on.wait()
                        return  # whoever asked is dead
                    stop.set()
                if not is_request and stop.is_set():
                    self.held.set()
                    self._go_on.wait()
                    return
                target.sendall(data)
        except OSError:
            return
        finally:
            for one in (source, target):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
                self._sockets.discard(one)
