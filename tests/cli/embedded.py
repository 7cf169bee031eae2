"""`upshot up` as a user runs it: a real process with real parts, in a folder of its own."""

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
    """One `upshot up`; stopped, and its parts with it, when the block ends."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.data = folder / "data"
        self.automations = folder / "automations"
        self.automations.mkdir(exist_ok=True)
        self._output = folder / "output.txt"
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
        """Start it; returns when its endpoint is written."""
        started = time.time()
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "upshot", "up", "--port", "0"),
                    *("--data", str(self.data), "--automations", str(self.automations)),
                    *self._options,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
            )
        until(lambda: self._is_up(started), seconds=_START_SECONDS)

    def _is_up(self, started: float) -> bool:
        assert self.process.poll() is None, self.output
        endpoint = self.data / "endpoint.json"
        return endpoint.exists() and endpoint.stat().st_mtime > started  # not one that a killed supervisor left

    @property
    def output(self) -> str:
        """All that it printed."""
        return self._output.read_text()

    @property
    def endpoint(self) -> Mapping[str, Any]:
        """What endpoint.json says now."""
        endpoint: Mapping[str, Any] = json.loads((self.data / "endpoint.json").read_text())
        return endpoint

    @property
    def endpoint_mode(self) -> int:
        """Permissions of endpoint.json."""
        return stat.S_IMODE((self.data / "endpoint.json").stat().st_mode)

    def pid(self, part: str) -> int:
        """Process id of a part now."""
        pid: int = self.endpoint["processes"][part]
        return pid

    def parts(self) -> list[psutil.Process]:
        """Its processes."""
        return [psutil.Process(pid) for pid in self.endpoint["processes"].values()]

    def interrupt(self) -> int:
        """Ctrl-C; gives the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(_STOP_SECONDS)

    def api(self) -> httpx.Client:
        """A client that bears the token."""
        return httpx.Client(
            base_url=f"{self.endpoint['url']}/api/v1",
            headers={"Authorization": f"Bearer {self.endpoint['token']}"},
            timeout=30,
        )

    def emit(self, name: str) -> str:
        """Accept a custom event; gives its id."""
        with self.api() as api:
            answer = api.post("/events", json={"name": name, "data": {}})
            answer.raise_for_status()
            event: str = answer.json()["id"]
            return event

    def matched(self, event: str) -> bool:
        """Whether a worker has seen the event."""
        with self.api() as api:
            return api.get(f"/events/{event}").json()["matched_at"] is not None


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
