"""A complete Upshot for tests: Redis, a database, the web process and workers, each a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.servers import Redis, free_port
from tests.waiting import until

TOKEN = "token-of-the-test-system"


class System:
    """
    One installation.

    Args:
        folder: Empty directory for its files.
        redis: A running server, which the test may kill and restart.
        database_url: None for SQLite in the directory.
        automations: Text of automation files, by name.
        host: Address that the web process listens on. Containers reach it at the address of Docker's bridge.
        settings: More environment variables, `UPSHOT_…`.
    """

    def __init__(
        self,
        folder: Path,
        redis: Redis,
        *,
        database_url: str | None = None,
        automations: Mapping[str, str],
        host: str = "127.0.0.1",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.module = "upshot"  #: what the processes run
        self.redis = redis
        self.automations = folder / "automations"
        self.automations.mkdir(parents=True)
        for name, text in automations.items():
            (self.automations / name).write_text(text)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"http://{host}:{free_port()}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")},
            "UPSHOT_DATA": str(folder / "data"),
            "UPSHOT_AUTOMATIONS": str(self.automations),
            "UPSHOT_REDIS_URL": redis.url,
            "UPSHOT_EGRESS_ALLOW": "127.0.0.0/8",
            "UPSHOT_TOKEN": TOKEN,
            "UPSHOT_HOST": host,
            "UPSHOT_PORT": self.url.rpartition(":")[2],
            "UPSHOT_LEASE_SECONDS": "3",
            "UPSHOT_SWEEP_SECONDS": "0.2",
            "UPSHOT_RELAY_SECONDS": "1",
            "UPSHOT_STOP_SECONDS": "3",
            **({"UPSHOT_DATABASE_URL": database_url} if database_url else {}),
            **(settings or {}),
        }
        self.api = httpx.Client(base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.api.close()
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if error is not None:
            for name in self._processes:
                print(f"--- {name}\n{self.log(name)}", file=sys.stderr)

    # --- processes --------------------------------------------------------------------------------

    def start_web(self) -> None:
        """Start the web process, and wait until it is ready."""
        self._start("web", "serve")
        until(self._is_web_ready, "the web process is ready")

    def start_worker(self, name: str = "worker", **settings: str) -> None:
        """Start a worker with these environment variables, and wait until it has started."""
        started = self.log(name).count("worker.started")
        self._start(name, "worker", **settings)

        def has_started() -> bool:
            self._assert_alive(name)
            return self.log(name).count("worker.started") > started

        until(has_started, f"{name} has started")

    def kill(self, name: str) -> None:
        """Kill a process with SIGKILL."""
        self._processes[name].kill()
        self._processes.pop(name).wait()

    def stop(self, name: str, *, seconds: float = 30) -> int:
        """Stop a process with SIGTERM, and return its exit code."""
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(seconds)

    def pause(self, name: str) -> None:
        """Pause a process with SIGSTOP."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Continue a paused process."""
        self._processes[name].send_signal(signal.SIGCONT)

    def is_alive(self, name: str) -> bool:
        """Return whether the process is running."""
        return self._processes[name].poll() is None

    def log(self, name: str) -> str:
        """Return the output of a process."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _assert_alive(self, name: str) -> None:
        assert self.is_alive(name), f"{name} ended:\n{self.log(name)}"

    def _start(self, name: str, command: str, **settings: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", self.module, command],
                env=self.environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_web_ready(self) -> bool:
        self._assert_alive("web")
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    # --- actions of a user ------------------------------------------------------------------------

    def emit(self, name: str, *data: Mapping[str, Any]) -> list[str]:
        """Emit a custom event for each item of `data`, and return their ids."""
        response = self.api.post("/events", json=[{"name": name, "data": item} for item in data])
        assert response.is_success, response.text
        event_ids: list[str] = response.json()["event_ids"]
        return event_ids

    def executions(self, **query: str) -> list[dict[str, Any]]:
        """Return all executions, newest first."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            params = {"limit": "200", **query} | ({"cursor": cursor} if cursor else {})
            page = self.api.get("/executions", params=params).json()
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items

    def states(self) -> dict[str, int]:
        """Return the number of executions in each state."""
        return Counter(execution["state"] for execution in self.executions())


def forward_automation(receiver_url: str, *, retry: str = "{first: 200ms, cap: 1s}") -> str:
    """Return an automation that posts the number of each custom event `made` to `/hook` of a receiver."""
    return f"""\
name: forward
on:
  custom:
    name: made
steps:
  - id: send
    uses: webhook
    with:
      url: "{receiver_url}/hook"
      json:
        number: "{{{{= event.data.number }}}}"
    retry: {retry}
"""
