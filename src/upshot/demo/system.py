"""The `upshot up` of the demo, as a child process. Local receivers stand in for GitHub, Slack and webhooks."""

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
    A context manager that starts `upshot up` and stops it.

    Args:
        data: Its data directory.
        automations: Its directory of automation files.
        receivers: The receivers of all its requests.
        settings: More environment variables.
    """

    endpoint: Endpoint  #: where it listens, once it is started

    def __init__(self, data: Path, automations: Path, receivers: Receivers, settings: Mapping[str, str]) -> None:
        self._data = data
        self._automations = automations
        self._receivers = receivers
        self._settings = settings
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `_stop`

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-m", "upshot", "up", "--port", "0", "--until-stdin-ends"]
        self._process = subprocess.Popen(
            [*command, "--data", str(self._data), "--automations", str(self._automations)],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,  # so that Ctrl-C in the terminal reaches only this process
        )
        try:
            self.endpoint = self._wait_until_started()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_until_started(self) -> Endpoint:
        deadline = stopwatch() + _START_SECONDS
        while (endpoint := read_endpoint(self._data)) is None:
            if self._process.poll() is not None or stopwatch() > deadline:
                self._output.seek(0)
                output = self._output.read().decode("utf-8", "replace").strip()
                raise Unavailable(f"Upshot did not start; its output:\n{output}")
            time.sleep(_POLL_SECONDS)
        return endpoint

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._output.close()

    def _environment(self) -> dict[str, str]:
        inherited = os.environ.items()  # noqa: TID251 - for a child process, which must not have the user's settings
        without_settings = {name: value for name, value in inherited if not name.startswith("UPSHOT_")}
        return without_settings | {
            "UPSHOT_CACHE_DIR": str(self._data.resolve() / "cache"),
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
