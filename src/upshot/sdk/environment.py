"""
Where and what a run runs: the program, its code in Git, Python and its packages, the machine.

What is known at once is recorded when the run starts. Git, packages and graphics cards are looked up in the background.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from upshot.clock import SystemClock, format_time
from upshot.sdk.connection import say_once
from upshot.sdk.media.media_file import AddFile
from upshot.sdk.notebook import after_each_cell, cells_as_notebook, in_notebook, read_cells
from upshot.unicode_text import to_storable_text

_COMMAND_SECONDS = 20.0
_MAX_DIFF_BYTES = 10_000_000
_MAX_ARGUMENT_CHARS = 1_000
_MAX_ARGUMENTS = 100
_MEBIBYTE = 1024 * 1024
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Environment:
    """
    What a run records about where it runs.

    Args:
        add_file: Adds a file to the run.
        on_change: Called when more is known than when the run started.
        save_code: Whether to keep the file of the program.
    """

    def __init__(
        self, add_file: AddFile, on_change: Callable[[dict[str, Any]], None], *, save_code: bool | None
    ) -> None:
        self.info = read_at_once()
        self._add_file = add_file
        self._on_change = on_change
        self._save_code = save_code
        self._lock = threading.RLock()
        self._cells: list[str] = []  # those of the notebook that were recorded
        self._thread = threading.Thread(target=self._record, name="upshot-environment", daemon=True)

    def start(self) -> None:
        """Find the rest in the background."""
        self._thread.start()
        after_each_cell(self.record_cells)

    def add(self, **values: Any) -> None:
        """Record more values."""
        with self._lock:
            self.info = {**self.info, **values}
            self._on_change(self.info)

    def record_cells(self) -> None:
        """Record the cells of the notebook, if there are new ones."""
        if in_notebook():
            cells = read_cells()
            if cells != self._cells:
                self._cells = cells
                self._add_file("code/notebook.ipynb", cells_as_notebook(cells).encode())

    def finish(self, seconds: float) -> None:
        """Wait until everything is recorded, up to so many seconds."""
        self._thread.join(seconds)
        self.record_cells()

    def _record(self) -> None:
        try:
            values, files = read_slowly()
            self.add(**values)
            if self._save_code and (program := read_program_file()) is not None:
                files[f"code/{program[0]}"] = program[1]
            for path, content in files.items():
                self._add_file(path, content)
        except Exception as error:  # noqa: BLE001 - nothing of this is worth an error in the program
            say_once(f"the environment of the run was not recorded: {error!r}")


def read_at_once() -> dict[str, Any]:
    """Return what a run records when it starts."""
    return {
        "argv": [to_storable_text(argument[:_MAX_ARGUMENT_CHARS]) for argument in sys.argv[:_MAX_ARGUMENTS]],
        "program": _program(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "os": platform.platform(),
        "hostname": socket.gethostname(),
        "user": _user(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "started_at": format_time(SystemClock().now()),
        "notebook": in_notebook(),
    }


def read_slowly() -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what takes longer to find: values, and the content of files by their path in the run."""
    git, diff = _read_git()
    values: dict[str, Any] = {"git": git, "gpus": _read_gpus()}
    files = {"environment/requirements.txt": "".join(f"{line}\n" for line in read_packages()).encode()}
    conda = read_conda_environment(Path(sys.prefix))
    if conda is not None:
        files["environment/environment.yaml"] = conda.encode()
    if diff:
        if len(diff) <= _MAX_DIFF_BYTES:
            files["code/diff.patch"] = diff
        else:
            values["git"] = {**(git or {}), "diff_bytes": len(diff)}
    return values, files


def read_program_file() -> tuple[str, bytes] | None:
    """Return name and content of the program, or None if it is not a file."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return (Path(path).name, Path(path).read_bytes()) if path else None
    except OSError:
        return None


def read_packages() -> list[str]:
    """Return the installed packages as lines of a requirements file."""
    found: dict[str, str] = {}
    for distribution in distributions():
        fields: Any = distribution.metadata  # None for a damaged package
        if fields is not None and fields["Name"] and distribution.version:
            found.setdefault(str(fields["Name"]), str(distribution.version))  # the first on the path is imported
    return [f"{name}=={found[name]}" for name in sorted(found, key=str.lower)]


def read_conda_environment(prefix: Path) -> str | None:
    """Return the conda environment as a file for `conda env create`, or None if it is not one."""
    folder = prefix / "conda-meta"
    if not folder.is_dir():
        return None
    packages, channels = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            packages.append(f"{record['name']}={record['version']}={record['build']}")
            channel = str(record.get("channel", "")).rstrip("/").split("/")
        except (OSError, ValueError, KeyError):
            continue
        name = channel[-2] if len(channel) > 1 else channel[0]
        if name and name not in channels:
            channels.append(name)
    lines = [f"name: {prefix.name}", "channels:", *(f"  - {name}" for name in channels)]
    lines += ["dependencies:", *(f"  - {package}" for package in packages)]
    return "\n".join(lines) + "\n"


def _program() -> str | None:
    """Return the path of the program, relative to the working directory if it is in it."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if not path:
        return None
    try:
        return Path(path).resolve().relative_to(Path.cwd().resolve()).as_posix()
    except (ValueError, OSError):
        return str(path)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # the account has no name
        return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _output(command: Sequence[str]) -> bytes | None:
    """Return what a command prints, or None if it does not exist, fails, or takes too long."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _read_git() -> tuple[dict[str, Any] | None, bytes | None]:
    """Return the remote, the commit and whether there are changes, and the difference from the commit."""
    git = ["git", "--no-optional-locks"]
    commit = _text(_output([*git, "rev-parse", "HEAD"]))
    if commit is None:
        return None, None
    remote = _text(_output([*git, "config", "--get", "remote.origin.url"]))
    branch = _text(_output([*git, "rev-parse", "--abbrev-ref", "HEAD"]))
    diff = _output([*git, "diff", "--no-ext-diff", "--no-color", "--submodule=diff", "HEAD"])
    found = {
        "remote": without_credentials(remote) if remote else None,
        "commit": commit,
        "branch": branch,
        "dirty": bool(diff),
    }
    return found, diff


def without_credentials(address: str) -> str:
    """Return the address of a repository without user and password."""
    if not _SCHEME.match(address):
        return address  # such as git@example.com:team/project.git
    parts = urlsplit(address)
    if "@" not in parts.netloc or parts.scheme == "ssh":
        return address
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _text(output: bytes | None) -> str | None:
    return output.decode("utf-8", "replace").strip() or None if output is not None else None


def _read_gpus() -> list[dict[str, Any]]:
    """Return the graphics cards that NVIDIA's driver reports."""
    output = _text(
        _output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"])
    )
    cards = []
    for line in (output or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3:  # noqa: PLR2004 - the three that were asked for
            name, mebibytes, driver = fields
            memory = int(mebibytes) * _MEBIBYTE if mebibytes.isdigit() else None
            cards.append({"name": name, "memory_bytes": memory, "driver": driver})
    return cards
