"""
Make docs/assets/first-steps.svg, the screenshot in README, from the output of real commands.

The script follows README's first steps in a temporary directory: `upshot init`, `upshot up`, `upshot receivers`, and
the commands that change the registry. Call it with `make screenshot`.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from upshot.receivers import DEFAULT_PORT

TARGET = Path(__file__).parents[1] / "docs" / "assets" / "first-steps.svg"
COMMANDS = (
    "upshot registry artifacts log fraud/xgb --type model --set accuracy:=0.93",
    "upshot registry link fraud/xgb:v0 model/fraud",
    "upshot registry alias set model/fraud:v0 production --wait",
    "upshot events list --limit 3",
    "upshot executions show latest",
)
COLUMNS = 112
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_FONT_FACE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)  # rich's fonts would come from another host
_TRAILING_SPACE = re.compile(r"[ \t]+$", re.MULTILINE)


def record() -> str:
    """Follow the first steps, and return the terminal as SVG."""
    port = _free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UPSHOT_")}
    environment = {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "UPSHOT_PORT": "0",
        "LOGNAME": "ada",
    }
    console = Console(record=True, width=COLUMNS, file=StringIO(), highlight=False)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _run("upshot init", directory, environment)
        for path in (directory / "automations" / "first.yaml", directory / ".upshot" / "settings.env"):
            path.write_text(path.read_text().replace(str(DEFAULT_PORT), str(port)))
        with (
            _background(["upshot", "receivers", "--port", str(port)], directory, environment),
            _background(["upshot", "up"], directory, environment),
        ):
            deadline = time.monotonic() + _START_SECONDS
            while not (directory / ".upshot" / "endpoint.json").exists():
                if time.monotonic() > deadline:
                    raise TimeoutError("`upshot up` did not start")
                time.sleep(_POLL_SECONDS)
            for command in COMMANDS:
                output = _run(command, directory, environment).replace(f":{port}/", f":{DEFAULT_PORT}/")
                console.print(Text.assemble(("$ ", "bold green"), (command, "bold")), soft_wrap=True)
                console.print(Text.from_ansi(output.rstrip()), soft_wrap=True)
    svg = console.export_svg(title="upshot", unique_id="first-steps")
    return _TRAILING_SPACE.sub("", _FONT_FACE.sub("", svg)) + "\n"


def _run(command: str, directory: Path, environment: Mapping[str, str]) -> str:
    """Run a command on a terminal of its own, and return its output."""
    reader, terminal = pty.openpty()
    variables = {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command.split(), cwd=directory, env={**environment, **variables}, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # on Linux, the end of the output is an error
        while chunk := os.read(reader, 65536):
            output += chunk
    os.close(reader)
    if process.wait():
        raise RuntimeError(f"{command} failed: {output.decode()}")
    return output.decode().replace("\r\n", "\n")


@contextmanager
def _background(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(40)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET).write_text(record())
