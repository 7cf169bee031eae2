"""Programs that use the SDK, with a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.system import System


class Programs:
    """A server, and a directory in which programs run."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self.folder = folder
        self._settings = {
            "UPSHOT_URL": system.url,
            "UPSHOT_CACHE_DIR": str(folder.parent / "cache"),
            "HOME": str(folder.parent),
        }

    def start(self, *arguments: object, **settings: str) -> subprocess.Popen[str]:
        """Start a program."""
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.system.environment | self._settings | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, run_id: str, project: str = "ends") -> dict[str, Any]:
        """Return a run as the server has it."""
        found: dict[str, Any] = self.system.api.get(f"/projects/{project}/runs/{run_id}").json()
        return found

    def rows(self, run_id: str, project: str = "ends") -> list[dict[str, Any]]:
        """Return the rows that a run has logged."""
        query = {"limit": "10000"}
        page = self.system.api.get(f"/projects/{project}/runs/{run_id}/history", params=query).json()
        rows: list[dict[str, Any]] = page["items"]
        return rows

    def __call__(self, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.system.environment | self._settings | settings,
            capture_output=True,
            text=True,
            check=False,
        )
