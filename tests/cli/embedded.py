"""`upshot up` as a user runs it: a real process with real child processes, in a directory of its own."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from tests.waiting import until

_START_SECONDS = 60.0
_STOP_SECONDS = 40.0

AUTOMATION = """\
name: {name}
on:
  custom: {{name: {name}}}
steps:
  - uses: webhook
    with: {{url: "{url}"}}
"""


class Up:
    """
    One `upshot up`, which is stopped at the end of a `with` block.

    Args:
        directory: Directory for its data, its automations and its output.
        options: More options of the command.
        environment: More environment variables.
    """

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.data = directory / "data"
        self.automations = directory / "automations"
        self.automations.mkdir(exist_ok=True)
        self._output = directory / "output.txt"
        self._options = options
        self._environment = environment

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def start(self) -> None:
        """Start it, and wait until it has written endpoint.json."""
        started_at = time.time()
        command = [sys.executable, "-m", "upshot", "up", "--port", "0"]
        command += ["--data", str(self.data), "--automations", str(self.automations), *self._options]
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **self._environment}
            )
        until(lambda: self._is_up(started_at), "`upshot up` is ready", seconds=_START_SECONDS)

    def _is_up(self, started_at: float) -> bool:
        assert self.process.poll() is None, self.output
        endpoint = self.data / "endpoint.json"
        return endpoint.exists() and endpoint.stat().st_mtime > started_at  # an older one is from a killed supervisor

    @property
    def output(self) -> str:
        """Everything that it has printed."""
        return self._output.read_text()

    @property
    def endpoint(self) -> Mapping[str, Any]:
        """The present content of endpoint.json."""
        endpoint: Mapping[str, Any] = json.loads((self.data / "endpoint.json").read_text())
        return endpoint

    @property
    def endpoint_mode(self) -> int:
        """Permissions of endpoint.json."""
        return stat.S_IMODE((self.data / "endpoint.json").stat().st_mode)

    def pid(self, name: str) -> int:
        """Return the present process id of a child process: web, worker or redis."""
        pid: int = self.endpoint["processes"][name]
        return pid

    def children(self) -> list[psutil.Process]:
        """Return the child processes."""
        return [psutil.Process(pid) for pid in self.endpoint["processes"].values()]

    def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(_STOP_SECONDS)

    def api(self) -> httpx.Client:
        """Return a client that sends the token."""
        return httpx.Client(
            base_url=f"{self.endpoint['url']}/api/v1",
            headers={"Authorization": f"Bearer {self.endpoint['token']}"},
            timeout=30,
        )

    def emit(self, name: str) -> str:
        """Emit a custom event, and return its id."""
        with self.api() as api:
            response = api.post("/events", json={"name": name, "data": {}})
            response.raise_for_status()
            event_id: str = response.json()["id"]
            return event_id

    def is_matched(self, event_id: str) -> bool:
        """Return whether a worker has matched the event."""
        with self.api() as api:
            return api.get(f"/events/{event_id}").json()["matched_at"] is not None


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
