"""A child process of `upshot up`, which is restarted after a growing delay until `stop` is called."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from typing_extensions import override

from upshot.clock import stopwatch

_FIRST_DELAY_SECONDS = 0.2
_MAX_DELAY_SECONDS = 5.0
_STABLE_SECONDS = 30.0  # after a process has run for so long, the next restart has the first delay again
_DRAIN_SECONDS = 1.0  # for reading the rest of a dead process's output, because a grandchild may keep the pipe open
_LOG_BYTES = 20_000_000  # of the log file, and of the older file that is kept
_MAX_LINE_BYTES = 65_536


class ChildProcess:
    """
    A process and its restarts.

    Args:
        name: web, worker or redis.
        command: The command line.
        environment: Returns variables to add to this process's environment. Called at each start.
        log: File that gets all output of the process.
        report: Called with each restart and kill, and with each line of output if `show_output` is true.
        on_start: Called with the process id at each start.
        inherit_fds: File descriptors that the process inherits.
        show_output: Whether people see the output.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Callable[[], Mapping[str, str]] = dict,
        log: Path,
        report: Callable[[str], None],
        on_start: Callable[[int], None],
        inherit_fds: Sequence[int] = (),
        show_output: bool = True,
    ) -> None:
        self.name = name
        self.log_path = log
        self.start_count = 0
        self.last_line = ""  #: the last line of output that is not empty
        self._command = command
        self._environment = environment
        self._log = _LogFile(log, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
        self._report = report
        self._on_start = on_start
        self._inherit_fds = tuple(inherit_fds)
        self._show_output = show_output
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> asyncio.Task[None]:
        """Start the process. The returned task ends after `stop`, or with an error if the process cannot be started."""
        self._task = asyncio.create_task(self._keep_running(), name=self.name)
        return self._task

    def kill(self) -> None:
        """Kill the process with SIGKILL. It is restarted."""
        self._send_signal(signal.SIGKILL)

    async def stop(self, grace_seconds: float, force: asyncio.Event) -> bool:
        """
        Send SIGTERM, and SIGKILL after the grace period or as soon as `force` is set.

        Returns:
            Whether the process ended by itself and without an error.
        """
        self._stopping.set()
        if self._task is None:
            return True
        self._send_signal(signal.SIGTERM)
        forced = asyncio.create_task(force.wait())
        await asyncio.wait({self._task, forced}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not self._task.done():
            reason = "" if force.is_set() else f": it did not stop within {grace_seconds:g} s"
            self._report(f"killing {self.name}{reason}")
            self._send_signal(signal.SIGKILL)
        await asyncio.wait({self._task})
        with contextlib.suppress(OSError):  # the disk is full
            self._log.close()
        return self._process is not None and self._process.returncode == 0

    def _send_signal(self, signum: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signum)

    async def _keep_running(self) -> None:
        delay = _FIRST_DELAY_SECONDS
        while not self._stopping.is_set():
            started_at = stopwatch()
            try:
                status = await self._run_once()
            except OSError as error:  # the disk is full, or the machine has no memory or processes left
                self._report(f"{self.name} cannot be started: {error}; trying again in {delay:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                delay = min(2 * delay, _MAX_DELAY_SECONDS)
                continue
            if self._stopping.is_set():
                return
            if stopwatch() - started_at > _STABLE_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            self._report(f"{self.name} {_describe_exit(status)}; restarting it in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, _MAX_DELAY_SECONDS)

    async def _run_once(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment()},
            stdin=asyncio.subprocess.PIPE,  # never written to; its end tells the child that this process is gone
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops its children in order
            pass_fds=self._inherit_fds,
        )
        self.start_count += 1
        self._on_start(process.pid)
        if self._stopping.is_set():  # `stop` was called during the start
            self._send_signal(signal.SIGTERM)
        reading = asyncio.create_task(self._read_output(process))
        status = await process.wait()
        await asyncio.wait({reading}, timeout=_DRAIN_SECONDS)
        reading.cancel()
        return status

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        rest = b""
        while data := await process.stdout.read(_MAX_LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._on_line(line)
        if rest:
            self._on_line(rest)

    def _on_line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        self.last_line = text or self.last_line
        self._log.emit(logging.makeLogRecord({"msg": text}))
        if self._show_output:
            self._report(f"{self.name:<6} | {text}")


class _LogFile(logging.handlers.RotatingFileHandler):
    """A log file that drops lines while the disk is full, and raises no error."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing."""


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exited with code {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
