"""Jobs as processes of the worker's machine, each under a shim that outlives the worker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from upshot.backends.process import shim
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable
from upshot.backends.process.directories import OUTPUTS, JobDirectories, JobDirectory, ShimRecord
from upshot.backends.process.logs import read_log
from upshot.backends.process.options import ProcessOptions
from upshot.backends.process.orphans import end_survivors
from upshot.backends.process.request import errand, mark, refuse
from upshot.backends.process.safe_files import NotRegularFile
from upshot.backends.process.shim import ShimRequest, ShimResult
from upshot.backends.protocol import (
    ContainerRequest,
    ContainerStatus,
    EngineUnavailable,
    LogRead,
    OutputUnreadable,
    Phase,
    StartedContainer,
    StartRefused,
)
from upshot.clock import Clock, SystemClock
from upshot.domain.job import FailureKind

T = TypeVar("T")

log = structlog.get_logger("upshot.jobs")

_ANSWER_SECONDS = 10.0  # for a shim to say that the command runs; it takes a tenth of one
_STARTS = 3  # while somebody removes what we make
_END_SECONDS = 5.0  # for a shim to end what runs, before it is killed itself
_POLL_SECONDS = 0.02
_HINT_SECONDS = 0.5
_SWEEP = timedelta(minutes=1)
_THREADS = 8  # a removal may wait seconds for what hangs


class ProcessBackend:
    """
    `Backend` whose engine is a folder of this machine, and a shim for each command.

    Args:
        options: What the operator chose.
        clock: Tells the time.
    """

    def __init__(self, options: ProcessOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._folders = JobDirectories(options.folder, options.account)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="upshot-process")
        self._turns: dict[str, asyncio.Future[Any]] = {}
        self._swept_at: datetime | None = None

    # --- Backend ----------------------------------------------------------------------------------

    async def engine_id(self) -> str:
        """This machine and this folder; neither of them alone is the same engine."""
        return await self._do(self._identify)

    async def start(self, request: ContainerRequest) -> StartedContainer:
        """Have a shim run the command; one that has the name already is left as it is."""
        refuse(request, self._options)
        return await self._in_turn(request.name, partial(self._start, request))

    async def list_containers(self, installation: str) -> Mapping[str, ContainerStatus]:
        """What lies in the folder."""
        return await self._do(partial(self._look, installation))

    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        """What it said since; a position counts the bytes of all that was ever said."""
        return await self._do(partial(self._read_log, name, position, limit_bytes))

    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        """What lies in its output folder."""
        return await self._do(partial(self._read_outputs, name, limit_bytes))

    async def stop(self, name: str, *, grace_seconds: float) -> None:
        """Tell its shim, which sees to the rest though we die."""
        await self._in_turn(name, partial(self._stop, name, grace_seconds))

    async def remove(self, name: str) -> None:
        """End what runs, and remove its folder."""
        await self._in_turn(name, partial(self._remove, name))

    async def watch_events(self, installation: str) -> AsyncIterator[str]:
        """Names of jobs that began or ended within the last half second."""
        before = await self._do(self._marks)
        while True:
            await asyncio.sleep(_HINT_SECONDS)
            now = await self._do(self._marks)
            for name in dict(now.items() ^ before.items()):
                yield name
            before = now

    async def close(self) -> None:
        """Let go of the threads; the shims go on."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- off the loop -----------------------------------------------------------------------------

    async def _do(self, work: Callable[[], T]) -> T:
        """Do blocking work in a thread; what the file system refuses is an engine that cannot be used for now."""

        def reach_and_work() -> T:
            self._folders.prepare()
            return work()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, reach_and_work)
        except OSError as error:
            raise EngineUnavailable(f"{self._options.folder}: {error}") from error

    async def _in_turn(self, name: str, work: Callable[[], T]) -> T:
        """Do work on a job when the work before has ended, and to its end, though whoever asked has gone."""
        before = self._turns.get(name)

        async def take_turn() -> T:
            if before is not None:
                await asyncio.wait([before])
            return await self._do(work)

        turn = self._turns[name] = asyncio.ensure_future(take_turn())
        turn.add_done_callback(partial(self._turn_is_over, name))
        return await asyncio.shield(turn)

    def _turn_is_over(self, name: str, turn: asyncio.Future[Any]) -> None:
        if self._turns.get(name) is turn:
            del self._turns[name]
        if not turn.cancelled():
            turn.exception()  # somebody has asked for it, or nobody is there any more

    # --- what a thread does -----------------------------------------------------------------------

    def _identify(self) -> str:
        return f"process:{_machine()}:{self._folders.identity()}"

    def _start(self, order: ContainerRequest) -> StartedContainer:
        for _ in range(_STARTS):
            self._folders.make(order)
            with self._folders.open(order.name) as job:
                claim = _claim_of(job, order) if job else None
            answer = {} if claim else self._spawn(order)
            if claim or "taken" in answer:
                return StartedContainer(self._handle(order.name))
            if "pid" in answer:
                return StartedContainer(_handle(answer["pid"]))
            if "failed" in answer:
                raise EngineUnavailable(f"{self._options.folder / order.name}: {answer['failed']}")
            if "refused" in answer:
                self._remove(order.name)
                raise StartRefused(FailureKind.REFUSED, answer["refused"])
        raise EngineUnavailable(f"{self._options.folder / order.name} is removed as often as it is made")

    def _spawn(self, order: ContainerRequest) -> dict[str, Any]:
        """Have a shim run the command; returns its answer."""
        group = self._group(order.name)
        if group is not None:
            try:
                group.make(order.spec)
            except CgroupsUnavailable as error:
                self._remove(order.name)
                raise StartRefused(FailureKind.REFUSED, str(error)) from error
        return _ask_shim(errand(order, self._options, self._options.folder / order.name, group))

    def _handle(self, name: str) -> str:
        with self._folders.open(name) as job:
            claim = job.claim() if job else None
        return _handle(claim.pid if claim else None)

    def _group(self, name: str) -> Cgroup | None:
        if self._options.hierarchies is None or self._options.group is None:
            return None
        return Cgroup(self._options.hierarchies, self._options.group, name)

    # --- seen -------------------------------------------------------------------------------------

    def _look(self, installation: str) -> dict[str, ContainerStatus]:
        self._sweep()
        found = {}
        for name in self._folders.names():
            with self._folders.open(name) as job:
                label = job.label() if job else None
                if job and label and label.get("installation") == installation:
                    found[name] = self._sight(job, str(label.get("job")))
        return found

    def _sweep(self) -> None:
        now = self._clock.now()
        if self._swept_at is None or now - self._swept_at > _SWEEP:
            self._swept_at = now
            self._folders.sweep(now)

    def _sight(self, job: JobDirectory, label: str) -> ContainerStatus:
        claim = job.claim()
        if claim is None:
            return ContainerStatus(job.name, label, Phase.CREATED, _handle(None))
        # Asked in this order: a shim writes the end while it is still seen to watch.
        is_watched = job.is_watched()
        end = job.end()
        sighting = partial(ContainerStatus, job.name, label, handle=_handle(claim.pid), started_at=claim.started_at)
        if end is None and is_watched:
            return sighting(phase=Phase.RUNNING)
        end = end or self._bury(job, claim)
        return sighting(
            phase=Phase.EXITED,
            finished_at=datetime.fromtimestamp(end.finished_at, UTC),
            exit_code=end.exit_code,
            failure=FailureKind(end.failure) if end.failure else None,
            note=end.note,
        )

    def _bury(self, job: JobDirectory, claim: ShimRecord) -> ShimResult:
        """End what a killed shim has left running, and say so."""
        is_over = True
        if claim.is_of_this_boot:
            group = self._group(job.name)
            is_over = end_survivors(mark(job.path), group.folders if group else [])
            note = "its watcher was killed, and the command with it"
        else:
            note = "the machine was started again while it ran"
        if not is_over:
            note += "; processes of it could not be killed"
        end = ShimResult(None, self._clock.now().timestamp(), FailureKind.ENGINE_LOST.value, note)
        with contextlib.suppress(OSError):  # the disk is full: the next look says it again
            job.finish(end)
        return job.end() or end

    def _marks(self) -> dict[str, tuple[bool, bool]]:
        """How far each job is: begun, ended."""
        jobs = [self._options.folder / name for name in self._folders.names()]
        return {job.name: ((job / shim.CLAIM).exists(), (job / shim.END).exists()) for job in jobs}

    # --- read -------------------------------------------------------------------------------------

    def _read_log(self, name: str, position: str | None, limit_bytes: int) -> LogRead:
        with self._folders.open(name) as job:
            if job is None:
                return LogRead(b"", position or "0")
            try:
                return read_log(job.folder, position, limit_bytes=limit_bytes)
            except FileNotFoundError:
                return LogRead(b"", position or "0")

    def _read_outputs(self, name: str, limit_bytes: int) -> bytes | None:
        with self._folders.open(name) as job:
            if job is None:
                return None
            try:
                return job.read_outputs(limit_bytes=limit_bytes)
            except NotRegularFile as error:
                raise OutputUnreadable(f"{OUTPUTS} {error}; write a plain file of your own") from error
            except OSError as error:
                raise OutputUnreadable(f"{OUTPUTS} cannot be read: {error.strerror}") from error

    # --- ended ------------------------------------------------------------------------------------

    def _stop(self, name: str, grace_seconds: float) -> None:
        with self._folders.open(name) as job:
            if job is None:
                return
            now = self._clock.now()
            if job.take_unbegun(now):
                job.finish(ShimResult(None, now.timestamp(), note="it was stopped before it began"))
            elif grace_seconds <= 0:
                self._end_now(job)  # also where the shim itself hangs
            elif job.is_watched() and job.end() is None:
                job.wish_end(grace_seconds)

    def _remove(self, name: str) -> None:
        with self._folders.open(name) as job:
            if job is None:
                return
            if not job.take_unbegun(self._clock.now()):
                self._end_now(job)
        group = self._group(name)
        if group is not None:
            group.remove()
        if (left := self._folders.take_away(name)) is not None:
            log.warning("process.left_behind", job=name, left=left, remedy="remove it yourself, as root if need be")

    def _end_now(self, job: JobDirectory) -> None:
        """Return when nothing of it runs any more, as far as that can be had."""
        if job.is_watched():
            job.wish_end(0)
            _wait_while(job.is_watched)
        claim = job.claim()
        if claim is not None and job.is_watched():
            claim.poke(signal.SIGKILL)
            _wait_while(job.is_watched)
        if claim is not None and job.end() is None:
            self._bury(job, claim)


def _claim_of(job: JobDirectory, order: ContainerRequest) -> ShimRecord | None:
    """Who runs it; StartRefused where it is somebody else's."""
    label = job.label()
    if label and label.get("installation") != order.installation:
        reason = (
            f"there is a job {job.name} of another installation in {job.path.parent}; give each a folder of its own"
        )
        raise StartRefused(FailureKind.REFUSED, reason)
    return job.claim()


def _wait_while(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + _END_SECONDS
    while holds() and time.monotonic() < give_up_at:
        time.sleep(_POLL_SECONDS)


def _handle(pid: int | None) -> str:
    """The shim's number: who sends it SIGTERM ends the job in good order."""
    return "not begun" if pid is None else f"pid {pid}"


def _machine() -> str:
    """Names this machine, the same after it was started again."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


def _ask_shim(told: ShimRequest) -> dict[str, Any]:
    """
    Start a shim, which goes on as nobody's child.

    Raises:
        EngineUnavailable: It did not answer; whether it runs the command, a look says.
    """
    command = [sys.executable, "-I", "-S", "-X", "utf8", shim.__file__, told.folder]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
    ) as process:
        try:
            answer, _ = process.communicate(json.dumps(told._asdict()).encode(), timeout=_ANSWER_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()  # it has a child by now, or never will
            raise EngineUnavailable(f"no word from the watcher of {told.folder} in {_ANSWER_SECONDS:g} s") from error
    try:
        said: dict[str, Any] = json.loads(answer)
    except ValueError as error:
        raise EngineUnavailable(f"the watcher of {told.folder} died before the command began") from error
    return said
