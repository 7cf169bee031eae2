"""
A container of the stand-in's node: a process of this machine, in a folder of its own.

There are no namespaces: where a command names a path that is mounted, it gets the path of the
folder that stands for it. What is like in a container: the process is ended as PID 1 is (a signal
that it does not catch does nothing), what it leaves behind is killed with it, beyond its limit of
memory it is killed, and its log has a time for each line.
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

PIECE_BYTES = 16 * 1024  # a longer line is written piece by piece, as container runtimes do
FILE_BYTES = 10 * 1024 * 1024  # a kubelet's containerLogMaxSize, left as it is
KILLED = 137
_WATCH_SECONDS = 0.02
_KUBELETS_SECOND = 1.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Entry:
    """A piece of a log, as a runtime writes it."""

    at: int  #: nanoseconds
    text: bytes  #: with its line break, if it ends a line


@dataclass
class Plan:
    """What is to run."""

    argv: Sequence[str]
    env: Mapping[str, str]
    folders: Mapping[str, Path]  #: by the path that they are mounted at
    root: Path  #: for whatever else
    workdir: str | None = None
    memory_bytes: int | None = None

    def here(self, text: str) -> str:
        """The same with paths of this machine."""
        for path in sorted(self.folders, key=len, reverse=True):
            text = re.sub(rf"(?<![\w.-]){re.escape(path)}(?![\w-])", str(self.folders[path]), text)
        return text


class CannotStart(Exception):
    """The command is not there, or cannot be executed."""


@dataclass
class Container:
    """One that runs, or has."""

    plan: Plan
    log: list[Entry] = field(default_factory=list)
    log_bytes: int = 0
    started_at: str = ""
    finished_at: str = ""
    exit_code: int | None = None
    reason: str | None = None
    _process: asyncio.subprocess.Process | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Run it; CannotStart when that is not possible."""
        plan = self.plan
        workdir = Path(plan.here(plan.workdir)) if plan.workdir else plan.root
        if not workdir.is_dir():
            workdir = plan.root / str(plan.workdir).lstrip("/")
        plan.root.mkdir(parents=True, exist_ok=True)
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(plan.here(word) for word in plan.argv),
                cwd=workdir,
                env={"PATH": _PATH, "HOME": "/", **{key: plan.here(value) for key, value in plan.env.items()}},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            what = "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else "permission denied"
            raise CannotStart(f'OCI runtime create failed: exec: "{plan.argv[0]}": {what}: unknown') from error
        self.started_at = _now()
        self._tasks = [asyncio.create_task(self._see_through()), asyncio.create_task(self._watch_memory())]

    async def wait(self) -> None:
        """Return when it has ended, and its log is whole."""
        await self._ended.wait()

    async def stop(self, grace_seconds: float) -> None:
        """Signal, grace, kill."""
        self.signal()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), grace_seconds)
        self.kill()
        await self.wait()

    async def settled(self) -> None:
        """Return when it listens to a signal; a kubelet takes a second to see that another container has ended."""
        deadline = asyncio.get_running_loop().time() + _KUBELETS_SECOND
        while self._process is not None and not _cares(self._process.pid, signal.SIGTERM):
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(_WATCH_SECONDS)

    def signal(self) -> None:
        """SIGTERM, as PID 1 hears it: only if it cares."""
        if self._process is not None and _cares(self._process.pid, signal.SIGTERM):
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def text(self, *, since: int, tail: int | None, stamps: bool) -> bytes:
        """The log, as a kubelet gives it."""
        lines: list[list[Entry]] = []
        for entry in self.log:
            if lines and not lines[-1][-1].text.endswith(b"\n"):
                lines[-1].append(entry)
            else:
                lines.append([entry])
        if tail is not None:
            lines = lines[len(lines) - tail :] if tail < len(lines) else lines
        wanted = [line for line in lines if line[0].at >= since]
        return b"".join(
            (_stamp(line[0].at) if stamps else b"") + b"".join(entry.text for entry in line) for line in wanted
        )

    # --- inside -----------------------------------------------------------------------------------

    async def _see_through(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [asyncio.create_task(self._read(stream)) for stream in (process.stdout, process.stderr)]
        # Not `wait`, which waits for whoever else holds the pipes, too: what PID 1 leaves behind ends with it.
        while (code := process.returncode) is None:
            await asyncio.sleep(_WATCH_SECONDS)
        self.kill()
        await asyncio.wait(readers)
        self.exit_code = code if code >= 0 else 128 - code
        self.finished_at = _now()
        if self.reason is None:
            self.reason = "Completed" if self.exit_code == 0 else "Error"
        for task in self._tasks[1:]:
            task.cancel()
        self._ended.set()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while piece := await stream.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._write(line + b"\n")
            while len(rest) >= PIECE_BYTES:
                self._write(rest[:PIECE_BYTES])
                rest = rest[PIECE_BYTES:]
        if rest:
            self._write(rest)

    def _write(self, text: bytes) -> None:
        self.log.append(Entry(time.time_ns(), text))
        self.log_bytes += len(text)
        if self.log_bytes > FILE_BYTES:  # a kubelet goes on in a new file, and gives the newest alone
            self.log, self.log_bytes = [], 0

    async def _watch_memory(self) -> None:
        while self.plan.memory_bytes is not None and self.exit_code is None:
            assert self._process is not None
            by_size = _memory_of(self._process.pid)
            if sum(by_size.values()) > self.plan.memory_bytes:
                self.reason = "OOMKilled"
                with suppress(ProcessLookupError):
                    os.kill(max(by_size, key=lambda pid: by_size[pid]), signal.SIGKILL)
            await asyncio.sleep(_WATCH_SECONDS)


def _cares(pid: int, number: int) -> bool:
    """Whether a process catches a signal; PID 1 of a container is spared those that it does not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (number - 1) & 1)


def _memory_of(pid: int) -> dict[int, int]:
    """Bytes of a process and of all below it, by their ids."""
    found: dict[int, int] = {}
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                found[one.pid] = one.memory_info().rss
    return found


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stamp(at: int) -> bytes:
    seconds, rest = divmod(at, 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%09dZ " % rest
