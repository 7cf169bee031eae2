"""`upshot up` as a process of the demo's own, with the stand-ins for all receivers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from upshot.client.endpoint import Endpoint, read_endpoint
from upshot.clock import stopwatch
from upshot.errors import Unavailable
from upshot.receivers import GITHUB_TOKEN, SIGNING_SECRET, SLACK_TOKEN, Receivers

_START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 30.0


class DemoSystem:
    """
    Started on entering, stopped on leaving.

    Args:
        folder: Its data.
        automations: What it answers events with.
        receivers: What stands in for the outside world.
        settings: More environment variables.
    """

    def __init__(self, folder: Path, automations: Path, receivers: Receivers, settings: Mapping[str, str]) -> None:
        self._data = folder
        self._automations = automations
        self._receivers = receivers
        self._settings = settings
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed at exit

    @property
    def endpoint(self) -> Endpoint:
        """Where it answers."""
        endpoint = read_endpoint(self._data)
        if endpoint is None:
            raise Unavailable(f"Upshot has stopped; it said:\n{self._said()}")
        return endpoint

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "upshot", "up", "--port", "0", "--until-stdin-ends"),
                *("--data", str(self._data), "--automations", str(self._automations)),
            ],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,  # the terminal's Ctrl-C reaches us alone
        )
        try:
            self._wait_until_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_until_up(self) -> None:
        deadline = stopwatch() + _START_SECONDS
        while read_endpoint(self._data) is None:
            if self._process.poll() is not None or stopwatch() > deadline:
                raise Unavailable(f"Upshot did not start; it said:\n{self._said()}")
            time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._output.close()

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode("utf-8", "replace").strip()

    def _environment(self) -> dict[str, str]:
        inherited = os.environ.items()  # noqa: TID251 - for a process of its own, without the user's settings
        own = {name: value for name, value in inherited if not name.startswith("UPSHOT_")}
        return own | {
            "UPSHOT_EGRESS_ALLOW": "127.0.0.0/8,::1/128",
            "UPSHOT_GITHUB_API_URL": self._receivers.github_api_url,
            "UPSHOT_SLACK_API_URL": self._receivers.slack_api_url,
            "UPSHOT_SECRET_GITHUB_TOKEN": GITHUB_TOKEN,
            "UPSHOT_SECRET_SLACK_WEBHOOK": self._receivers.slack_webhook_url,
            "UPSHOT_SECRET_SLACK_TOKEN": SLACK_TOKEN,
            "UPSHOT_SECRET_HOOK_URL": f"{self._receivers.url}/hooks/models",
            "UPSHOT_SECRET_HOOK_SECRET": SIGNING_SECRET,
            **self._settings,
        }
