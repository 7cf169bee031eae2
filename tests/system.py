"""A whole Upshot for tests: a real Redis, a database, the web process and workers, each a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.servers import Redis, free_port
from tests.waiting import until

TOKEN = "test-token"


class System:
    """
    One installation.

    Args:
        folder: Empty folder for its files.
        redis: A running server, which the test may kill and start again.
        database_url: None for SQLite in the folder.
        automations: Text of automation files, by name.
        host: Address that the web process listens on; that of Docker's bridge is one that containers reach.
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
        """Start the web process, and wait until it answers."""
        self._start("web", "serve")
        until(self._web_answers, "the web process answers")

    def start_worker(self, name: str = "worker", **settings: str) -> None:
        """Start a worker, and wait until it is seen; settings are environment variables for it alone."""
        started = self.log(name).count("worker.started")
        self._start(name, "worker", **settings)
        until(lambda: self._alive(name) and self.log(name).count("worker.started") > started, f"{name} has started")

    def kill(self, name: str) -> None:
        """End a process without a warning (kill -9)."""
        self._processes[name].kill()
        self._processes.pop(name).wait()

    def stop(self, name: str, *, seconds: float = 30) -> int:
        """Ask a process to stop; returns its exit code."""
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(seconds)

    def pause(self, name: str) -> None:
        """Let a process stand still (SIGSTOP)."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let it go on."""
        self._processes[name].send_signal(signal.SIGCONT)

    def is_alive(self, name: str) -> bool:
        """Tell whether a process runs."""
        return self._processes[name].poll() is None

    def log(self, name: str) -> str:
        """What a process printed."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _alive(self, name: str) -> bool:
        assert self.is_alive(name), f"{name} ended:\n{self.log(name)}"
        return True

    def _start(self, name: str, command: str, **settings: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "upshot", command],
                env=self.environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _web_answers(self) -> bool:
        self._alive("web")
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    # --- what a user does -------------------------------------------------------------------------

    def emit(self, name: str, *data: Mapping[str, Any]) -> list[str]:
        """Accept custom events; returns their ids."""
        answer = self.api.post("/events", json=[{"name": name, "data": one} for one in data])
        assert answer.is_success, answer.text
        ids: list[str] = answer.json()["ids"]
        return ids

    def executions(self, **query: str) -> list[dict[str, Any]]:
        """All executions, newest first."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.api.get(
                "/executions", params={"limit": "200", **query, **({"cursor": cursor} if cursor else {})}
            )
            items += page.json()["items"]
            cursor = page.json()["next"]
            if cursor is None:
                return items

    def states(self) -> dict[str, int]:
        """How many executions are in each state."""
        counted: dict[str, int] = {}
        for execution in self.executions():
            counted[execution["state"]] = counted.get(execution["state"], 0) + 1
        return counted
