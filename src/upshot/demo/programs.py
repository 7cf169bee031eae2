"""The programs that the user of the demo runs: the training script of the samples, and `upshot lineage`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from upshot.client.endpoint import Endpoint
from upshot.demo.sample_files import examples
from upshot.errors import Unavailable

_MAX_SECONDS = 60.0


def train(endpoint: Endpoint, *options: str) -> list[str]:
    """
    Run the training script, which logs its checkpoints and links the best one.

    Returns:
        The lines that it printed.

    Raises:
        Unavailable: It failed.
    """
    done = _run(endpoint, str(examples() / "train" / "train.py"), *options)
    if done.returncode:
        raise Unavailable(f"the training script failed: {done.stdout.strip()}")
    return done.stdout.splitlines()


def lineage(endpoint: Endpoint, reference: str, direction: str) -> list[str]:
    """Run `upshot lineage`, and return the lines that it printed."""
    return _run(endpoint, "-P", "-m", "upshot", "lineage", reference, direction).stdout.splitlines()


def _run(endpoint: Endpoint, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program as a user would, with the demo's server, in an empty directory."""
    inherited = os.environ.items()  # noqa: TID251 - for a child process, which must not have the user's settings
    environment = {name: value for name, value in inherited if not name.startswith("UPSHOT_")}
    environment |= {"UPSHOT_URL": endpoint.url, "UPSHOT_TOKEN": endpoint.token or "", "NO_PROXY": "*"}
    with tempfile.TemporaryDirectory(prefix="upshot-demo-") as directory:
        try:
            return subprocess.run(  # only the samples and the command of this program
                [sys.executable, *arguments],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=_MAX_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"`python {' '.join(arguments)}` did not finish within {_MAX_SECONDS:g} s") from error
