"""
`upshot demo`: a version is promoted, and everything that happens because of it is shown.

Everything is real but the receivers: `upshot up` in a folder of its own, the sample automations, the
REST API. Stand-ins for GitHub, Slack and a receiver of signed webhooks run in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

import upshot
from upshot.cli.client import Client, path_of
from upshot.cli.demo_story import Mutation, Story, print_story, shortcomings, watch
from upshot.cli.output import Output
from upshot.clock import SystemClock, stopwatch
from upshot.embedded.endpoint import Endpoint, read_endpoint
from upshot.errors import ConfigError, Unavailable
from upshot.receivers import GITHUB_TOKEN, SIGNING_SECRET, SLACK_TOKEN, Receivers, ReceiversThread

_START_SECONDS = 60.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 30.0


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the data here, to look at it afterwards with `upshot up --data DIR`.",
)
def demo(data: Path | None) -> None:
    """
    Watch a version being promoted, and what happens because of it.

    Starts Upshot with its sample automations beside local stand-ins for GitHub, Slack and a receiver
    of signed webhooks; logs an artifact, links it, and gives it the alias `production`. Exits 0 only if
    everything that should arrive has arrived and was verified.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped like that, it cleans up as after Ctrl-C
    began = stopwatch()
    with contextlib.ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="upshot-demo-")))
        receivers = stack.enter_context(ReceiversThread())
        output = Output(as_json=False)
        output.line(
            "starting Upshot with its sample automations, and stand-ins for GitHub, Slack and a webhook receiver"
        )
        system = stack.enter_context(_System(folder, samples(), receivers))
        output.line(f"it listens on {system.endpoint.url} after {stopwatch() - began:.1f} s")
        with Client(system.endpoint.url, system.endpoint.token, is_local=True) as client:
            story = Story(SystemClock().now(), receivers)
            _promote(client, story)
            watch(client, story)
        print_story(output, story)
    missing = shortcomings(story)
    for line in missing:
        output.line(output.state("fail"), f"  {line}")
    if not missing:
        output.line()
        output.line(
            output.state("ok"), f"  all of it arrived and was verified; it took {stopwatch() - began:.1f} s in all"
        )
        if data:
            output.line(f"look at it again: upshot up --data {data}, then upshot events list --data {data}")
    sys.exit(1 if missing else 0)


def _promote(client: Client, story: Story) -> None:
    """What a person or a training script would do, through the REST API."""

    def note(words: str, change: Mapping[str, Any], moment: datetime) -> None:
        story.mutations.append(Mutation(moment, words, tuple(change["events"])))

    now = SystemClock().now
    moment = now()
    artifact = client.post(
        path_of("projects", "fraud", "artifacts"),
        {
            "name": "xgb",
            "type": "model",
            "metadata": {"format": "onnx", "accuracy": 0.94},
            "digest": f"sha256:{hashlib.sha256(story.began.isoformat().encode()).hexdigest()}",  # always something new
        },
    )
    note(f"a model is logged as {artifact['reference']}, accuracy 0.94", artifact, moment)
    versions = path_of("registries", "model", "collections", "fraud", "versions")
    moment = now()
    version = client.post(versions, {"artifact": artifact["reference"], "aliases": ["candidate"]})
    note(f"it is linked to the registry as {version['reference']}, a candidate", version, moment)
    alias = path_of("registries", "model", "collections", "fraud", "aliases", "production")
    moment = now()
    moved = client.put(alias, {"version": version["version"]})
    note(f"the alias `production` is moved to {version['reference']}", moved, moment)


def samples() -> Path:
    """
    The sample automations: of the installed package, or of the checkout.

    Raises:
        ConfigError: They are in neither.
    """
    package = Path(upshot.__file__).parent
    for folder in (package / "_samples", package.parents[1] / "automations"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the sample automations are not in {package}; install Upshot again")


class _System:
    """`upshot up` as a process, with the stand-ins for all receivers."""

    def __init__(self, folder: Path, automations: Path, receivers: Receivers) -> None:
        self._data = folder
        self._automations = automations
        self._receivers = receivers
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
        }
