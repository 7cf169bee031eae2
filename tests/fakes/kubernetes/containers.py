"""
A container on the fake node: a process of this machine, in its own directory.

There are no namespaces. If a command contains the path of a mount, it gets the path of the directory that backs it.
These things are as in a container: the process ends like PID 1 (it ignores a signal that it does not handle), the
processes that it leaves behind are killed with it, a process that exceeds the memory limit is killed, and each line of
the log has a timestamp.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tests.fakes.kubernetes.store import now

CHUNK_BYTES = 16 * 1024  # container runtimes write a longer line in chunks
LOG_FILE_BYTES = 10 * 1024 * 1024  # a kubelet's default containerLogMaxSize
KILLED = 137
_POLL_SECONDS = 0.02
_KUBELET_SECONDS = 1.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class LogEntry:
    """An entry of a log, as a container runtime writes it."""

    time: int  #: nanoseconds
    text: bytes  #: with a line break if it ends a line


@dataclass
class ProcessSpec:
    """What a container runs."""

    argv: Sequence[str]
    env: Mapping[str, str]
    mounts: Mapping[str, Path]  #: directories of this machine, by mount path
    root: Path  #: for all other files
    workdir: str | None = None
    memory_bytes: int | None = None

    def translate(self, text: str) -> str:
        """Replace mount paths in a text by paths of this machine."""
        for path in sorted(self.mounts, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?![\w-])", str(self.mounts[path]), text)
        return text


class CannotStart(Exception):
    """The command does not exist, or it cannot be executed."""


@dataclass
class FakeContainer:
    """A container that runs or has run."""

    spec: ProcessSpec
    log: list[LogEntry] = field(default_factory=list)
    log_bytes: int = 0
    started_at: str = ""
    finished_at: str = ""
    exit_code: int | None = None
    reason: str | None = None
    _process: asyncio.subprocess.Process | None = None
    _exited: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Start the process; raise CannotStart if that is impossible."""
        spec = self.spec
        workdir = Path(spec.translate(spec.workdir)) if spec.workdir else spec.root
        if not workdir.is_dir():
            workdir = spec.root / str(spec.workdir).lstrip("/")
        spec.root.mkdir(parents=True, exist_ok=True)
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(spec.translate(word) for word in spec.argv),
                cwd=workdir,
                env={"PATH": _PATH, "HOME": "/", **{key: spec.translate(value) for key, value in spec.env.items()}},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            what = "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else "permission denied"
            raise CannotStart(f'OCI runtime create failed: exec: "{spec.argv[0]}": {what}: unknown') from error
        self.started_at = now()
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._enforce_memory_limit())]

    async def wait(self) -> None:
        """Wait until the process has exited and its log is complete."""
        await self._exited.wait()

    async def stop(self, grace_seconds: float) -> None:
        """Send the signal, wait for the grace period, and kill."""
        self.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), grace_seconds)
        self.kill()
        await self.wait()

    async def wait_for_signal_handler(self) -> None:
        """Wait until the process handles SIGTERM. A kubelet also takes a second to notice another container's exit."""
        deadline = asyncio.get_running_loop().time() + _KUBELET_SECONDS
        while self._process is not None and not _handles_sigterm(self._process.pid):
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(_POLL_SECONDS)

    def terminate(self) -> None:
        """Send SIGTERM. Like PID 1, the process gets it only if it handles it."""
        if self._process is not None and _handles_sigterm(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill all processes of the container."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def read_log(self, *, since: int, tail: int | None, timestamps: bool) -> bytes:
        """Return the log as a kubelet does."""
        lines: list[list[LogEntry]] = []
        for entry in self.log:
            if lines and not lines[-1][-1].text.endswith(b"\n"):
                lines[-1].append(entry)
            else:
                lines.append([entry])
        if tail is not None:
            lines = lines[len(lines) - tail :] if tail < len(lines) else lines
        return b"".join(
            (_timestamp(line[0].time) if timestamps else b"") + b"".join(entry.text for entry in line)
            for line in lines
            if line[0].time >= since
        )

    async def _supervise(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [asyncio.create_task(self._read(stream)) for stream in (process.stdout, process.stderr)]
        # Not `wait`, which also waits for other processes with the pipes: what PID 1 leaves behind ends with it.
        while (code := process.returncode) is None:
            await asyncio.sleep(_POLL_SECONDS)
        self.kill()
        await asyncio.wait(readers)
        self.exit_code = code if code >= 0 else 128 - code
        self.finished_at = now()
        if self.reason is None:
            self.reason = "Completed" if self.exit_code == 0 else "Error"
        for task in self._tasks[1:]:
            task.cancel()
        self._exited.set()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._write(line + b"\n")
            while len(rest) >= CHUNK_BYTES:
                self._write(rest[:CHUNK_BYTES])
                rest = rest[CHUNK_BYTES:]
        if rest:
            self._write(rest)

    def _write(self, text: bytes) -> None:
        self.log.append(LogEntry(time.time_ns(), text))
        self.log_bytes += len(text)
        if self.log_bytes > LOG_FILE_BYTES:  # a kubelet starts a new file then, and returns only the newest
            self.log, self.log_bytes = [], 0

    async def _enforce_memory_limit(self) -> None:
        while self.spec.memory_bytes is not None and self.exit_code is None:
            assert self._process is not None
            bytes_by_pid = _memory_of(self._process.pid)
            if sum(bytes_by_pid.values()) > self.spec.memory_bytes:
                self.reason = "OOMKilled"
                with suppress(ProcessLookupError):
                    os.kill(max(bytes_by_pid, key=lambda pid: bytes_by_pid[pid]), signal.SIGKILL)
            await asyncio.sleep(_POLL_SECONDS)


def _handles_sigterm(pid: int) -> bool:
    """Return whether a process handles SIGTERM. PID 1 of a container ignores signals that it does not handle."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _memory_of(pid: int) -> dict[int, int]:
    """Return the memory of a process and its descendants in bytes, by process id."""
    found: dict[int, int] = {}
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                found[member.pid] = member.memory_info().rss
    return found


def _timestamp(time: int) -> bytes:
    seconds, rest = divmod(time, 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%09dZ " % rest
