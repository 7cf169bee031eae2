"""One process of the embedded system, kept alive: started again after a growing pause until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from upshot.clock import stopwatch

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_STABLE_SECONDS = 30.0  # having run so long, the next pause is a short one again
_DRAIN_SECONDS = 1.0  # a dead part's last words are read for so long; a grandchild may hold the pipe open
_LOG_BYTES = 20_000_000  # of one log file; one older one is kept
_LONGEST_LINE_BYTES = 65_536


class ChildProcess:
    """
    A process and its restarts.

    Args:
        name: web, worker or redis.
        command: The command line.
        environment: Variables on top of ours; asked for at each start.
        log: File that gets everything it prints.
        say: Gets what happens to the process, and each line that it prints if `aloud`.
        on_start: Called with its process id at each start.
        inherit: File descriptors that it inherits.
        aloud: Whether what it prints is for people.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Callable[[], Mapping[str, str]] = dict,
        log: Path,
        say: Callable[[str], None],
        on_start: Callable[[int], None],
        inherit: Sequence[int] = (),
        aloud: bool = True,
    ) -> None:
        self.name = name
        self.log_path = log
        self.starts = 0  #: so far
        self.last_line = ""  #: that it printed
        self._command = command
        self._environment = environment
        self._log = logging.handlers.RotatingFileHandler(log, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
        self._say = say
        self._on_start = on_start
        self._inherit = tuple(inherit)
        self._aloud = aloud
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def start(self) -> asyncio.Task[None]:
        """Start it; the task ends after `stop`, or with the error for which it cannot be started at all."""
        self._keeper = asyncio.create_task(self._keep_alive(), name=self.name)
        return self._keeper

    async def stop(self, grace_seconds: float, hurry: asyncio.Event) -> bool:
        """
        Ask it to end; kill it if it has not ended after the grace, or when hurry is set.

        Returns:
            Whether it ended by itself and without an error.
        """
        self._stopping.set()
        if self._keeper is None:
            return True
        self._signal(signal.SIGTERM)
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({self._keeper, hurried}, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not self._keeper.done():
            self._say(f"{self.name} is killed" + ("" if hurry.is_set() else f": not ended after {grace_seconds:g} s"))
            self._signal(signal.SIGKILL)
        await asyncio.wait({self._keeper})
        self._log.close()
        return self._process is not None and self._process.returncode == 0

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _keep_alive(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = stopwatch()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            if stopwatch() - began > _STABLE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self._say(f"{self.name} {_ending(status)}; starting it again in {pause:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self) -> int:
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment()},
            stdin=asyncio.subprocess.PIPE,  # never written to: its end tells the part that we are gone
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we stop the parts in order
            pass_fds=self._inherit,
        )
        self.starts += 1
        self._on_start(process.pid)
        if self._stopping.is_set():  # told to stop while it was being started
            self._signal(signal.SIGTERM)
        reading = asyncio.create_task(self._read(process))
        status = await process.wait()
        await asyncio.wait({reading}, timeout=_DRAIN_SECONDS)
        reading.cancel()
        return status

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - we asked for a pipe
        rest = b""
        while piece := await process.stdout.read(_LONGEST_LINE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LONGEST_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._print(line)
        if rest:
            self._print(rest)

    def _print(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        self.last_line = text or self.last_line
        self._log.emit(logging.makeLogRecord({"msg": text}))
        if self._aloud:
            self._say(f"{self.name:<6} | {text}")


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended (exit {status})"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
