"""Run jobs as processes of the worker's machine. Each job has a shim, which outlives the worker."""

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
from threading import Event as Flag
from typing import Any, TypeVar

import structlog
from typing_extensions import override

from upshot.backends.process import shim
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable
from upshot.backends.process.directories import OUTPUTS, JobDirectories, JobDirectory, ShimRecord
from upshot.backends.process.logs import read_log
from upshot.backends.process.options import ProcessOptions
from upshot.backends.process.orphans import kill_orphans
from upshot.backends.process.request import build_request, environ_marker, validate
from upshot.backends.process.safe_files import NotRegularFile
from upshot.backends.process.shim import ShimRequest, ShimResult
from upshot.backends.protocol import (
    INSTALLATION_LABEL,
    JOB_LABEL,
    Backend,
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
from upshot.ids import JobId

T = TypeVar("T")

log = structlog.get_logger("upshot.jobs")

_ANSWER_SECONDS = 10.0  # for a shim to report that the command runs, which takes about 0.1 s
_START_ATTEMPTS = 3  # while another process keeps removing the job directory
_END_SECONDS = 5.0  # for a shim to end the command, before the shim itself is killed
_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.5
_CLEANUP_INTERVAL = timedelta(minutes=1)
_COPIES = 2  # of inputs at the same time, in threads of their own, because a copy can take minutes
_THREADS = 8  # a removal can block a thread for seconds if a shim hangs


class ProcessBackend(Backend):
    """
    `Backend` whose engine is a directory of this machine, with one shim per command.

    Args:
        options: Options from the operator's file.
        clock: Replaces the system clock in tests.
    """

    def __init__(self, options: ProcessOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._directories = JobDirectories(options.directory, options.account)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="upshot-process")
        self._copies = ThreadPoolExecutor(_COPIES, thread_name_prefix="upshot-copy")
        self._last_call: dict[str, asyncio.Future[Any]] = {}
        self._cleaned_up_at: datetime | None = None

    # --- Backend ----------------------------------------------------------------------------------

    @override
    async def engine_id(self) -> str:
        # Neither the machine nor the directory alone identifies the engine: a directory can be copied.
        return await self._in_thread(lambda: f"process:{_machine_id()}:{self._directories.identity()}")

    @override
    async def start(self, request: ContainerRequest) -> StartedContainer:
        validate(request, self._options)
        copied_input = await self._copy_input(request)
        try:
            return await self._in_sequence(request.name, partial(self._start, request, copied_input))
        finally:
            if copied_input is not None:
                await self._in_sequence(request.name, partial(self._directories.discard, copied_input))

    @override
    async def list_containers(self, installation_id: str) -> Mapping[str, ContainerStatus]:
        return await self._in_thread(partial(self._list, installation_id))

    @override
    async def read_log(self, name: str, position: str | None, *, limit_bytes: int) -> LogRead:
        return await self._in_thread(partial(self._read_log, name, position, limit_bytes))

    @override
    async def read_outputs(self, name: str, *, limit_bytes: int) -> bytes | None:
        return await self._in_thread(partial(self._read_outputs, name, limit_bytes))

    @override
    async def stop(self, name: str, *, grace_seconds: float) -> None:
        await self._in_sequence(name, partial(self._stop, name, grace_seconds))

    @override
    async def remove(self, name: str) -> None:
        await self._in_sequence(name, partial(self._remove, name))

    @override
    async def watch_events(self, installation_id: str) -> AsyncIterator[str]:
        before = await self._in_thread(self._progress)
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = await self._in_thread(self._progress)
            for name in dict(now.items() ^ before.items()):
                yield name
            before = now

    @override
    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._copies.shutdown(wait=False, cancel_futures=True)

    # --- threads ----------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[[], T], threads: ThreadPoolExecutor | None = None) -> T:
        """Run a blocking call in a thread. Raise EngineUnavailable in place of an OSError."""

        def prepare_and_call() -> T:
            self._directories.prepare()
            return call()

        try:
            return await asyncio.get_running_loop().run_in_executor(threads or self._threads, prepare_and_call)
        except OSError as error:
            raise EngineUnavailable(f"{self._options.directory}: {error}") from error

    async def _in_sequence(self, name: str, call: Callable[[], T]) -> T:
        """Run a blocking call after the previous one for the same job. It completes even if its caller is cancelled."""
        previous = self._last_call.get(name)

        async def wait_and_call() -> T:
            if previous is not None:
                await asyncio.wait([previous])
            return await self._in_thread(call)

        def on_done(task: asyncio.Future[Any]) -> None:
            if self._last_call.get(name) is task:
                del self._last_call[name]
            if not task.cancelled():
                task.exception()  # mark it as retrieved, since a cancelled caller does not

        task = self._last_call[name] = asyncio.ensure_future(wait_and_call())
        task.add_done_callback(on_done)
        return await asyncio.shield(task)

    # --- start ------------------------------------------------------------------------------------

    async def _copy_input(self, request: ContainerRequest) -> Path | None:
        """Copy the input of a job. If nobody waits for it any more, the copy ends."""
        cancelled = Flag()

        def check() -> None:
            if cancelled.is_set():
                raise OSError("the start of the job was cancelled")

        def copy() -> Path | None:
            try:
                return self._directories.copy_input(request, check)
            except OSError as error:
                reason = f"the job's input cannot be copied to {self._options.directory}: {error}"
                raise StartRefused(FailureKind.INPUT_UNAVAILABLE, reason) from error

        if request.input is None:
            return None
        try:
            return await self._in_thread(copy, self._copies)
        finally:
            cancelled.set()

    def _start(self, request: ContainerRequest, copied_input: Path | None) -> StartedContainer:
        directory = self._options.directory / request.name
        for _ in range(_START_ATTEMPTS):
            self._directories.create(request, copied_input)
            with self._directories.open(request.name) as job:
                record = _record_of_own_job(job, request) if job else None
            if record:
                return StartedContainer(_handle(record.pid))
            answer = self._start_shim(request, directory)
            if "pid" in answer:
                return StartedContainer(_handle(answer["pid"]))
            if "already_claimed" in answer:
                with self._directories.open(request.name) as job:
                    record = job.shim_record() if job else None
                return StartedContainer(_handle(record.pid if record else None))
            if "error" in answer:
                raise EngineUnavailable(f"{directory}: {answer['error']}")
            if "refused" in answer:
                self._remove(request.name)
                raise StartRefused(FailureKind.REFUSED, answer["refused"])
        raise EngineUnavailable(f"another process keeps removing {directory}")

    def _start_shim(self, request: ContainerRequest, directory: Path) -> dict[str, Any]:
        """Create the job's cgroup, if the backend uses cgroups, start a shim, and return its answer."""
        cgroup = self._cgroup(request.name)
        if cgroup is not None:
            try:
                cgroup.create(request.spec)
            except CgroupsUnavailable as error:
                self._remove(request.name)
                raise StartRefused(FailureKind.REFUSED, str(error)) from error
        return _run_shim(build_request(request, self._options, directory, cgroup))

    def _cgroup(self, name: str) -> Cgroup | None:
        return self._options.cgroup.child(name) if self._options.cgroup else None

    # --- status -----------------------------------------------------------------------------------

    def _list(self, installation_id: str) -> dict[str, ContainerStatus]:
        now = self._clock.now()
        if self._cleaned_up_at is None or now - self._cleaned_up_at > _CLEANUP_INTERVAL:
            self._cleaned_up_at = now
            self._directories.remove_stale(now)
        statuses = {}
        for name in self._directories.names():
            with self._directories.open(name) as job:
                labels = job.labels() if job else None
                if job and labels and labels.get(INSTALLATION_LABEL) == installation_id:
                    statuses[name] = self._status(job, JobId(str(labels.get(JOB_LABEL))))
        return statuses

    def _status(self, job: JobDirectory, job_id: JobId) -> ContainerStatus:
        record = job.shim_record()
        if record is None:
            return ContainerStatus(job.name, job_id, Phase.CREATED, _handle(None))
        # The order matters: a shim writes the result while it still holds its lock.
        has_shim = job.has_shim()
        result = job.result()
        status = partial(ContainerStatus, job.name, job_id, handle=_handle(record.pid), started_at=record.started_at)
        if result is None and has_shim:
            return status(phase=Phase.RUNNING)
        result = result or self._reap(job, record)
        return status(
            phase=Phase.EXITED,
            finished_at=datetime.fromtimestamp(result.finished_at, UTC),
            exit_code=result.exit_code,
            failure=FailureKind(result.failure) if result.failure else None,
            note=result.note,
        )

    def _reap(self, job: JobDirectory, record: ShimRecord) -> ShimResult:
        """Kill what a killed shim has left running, and write the result that the shim could not write."""
        if record.is_from_this_boot:
            note = "its shim was killed, and the command with it"
            cgroup = self._cgroup(job.name)
            if not kill_orphans(environ_marker(job.path), str(cgroup.directory) if cgroup else None):
                note += "; some of its processes could not be killed"
        else:
            note = "the machine was restarted while it ran"
        result = ShimResult(None, self._clock.now().timestamp(), FailureKind.ENGINE_LOST.value, note)
        with contextlib.suppress(OSError):  # If the disk is full, the next call writes the result.
            job.write_result(result)
        return job.result() or result

    def _progress(self) -> dict[str, tuple[bool, bool]]:
        """Return for each job whether it has started, and whether it has ended."""
        paths = [self._options.directory / name for name in self._directories.names()]
        return {path.name: ((path / shim.SHIM_RECORD).exists(), (path / shim.RESULT).exists()) for path in paths}

    # --- log and outputs --------------------------------------------------------------------------

    def _read_log(self, name: str, position: str | None, limit_bytes: int) -> LogRead:
        with self._directories.open(name) as job:
            if job is not None:
                with contextlib.suppress(FileNotFoundError):
                    return read_log(job.fd, position, limit_bytes=limit_bytes)
        return LogRead(b"", position or "0")

    def _read_outputs(self, name: str, limit_bytes: int) -> bytes | None:
        with self._directories.open(name) as job:
            if job is None:
                return None
            try:
                return job.read_outputs(limit_bytes=limit_bytes)
            except NotRegularFile as error:
                raise OutputUnreadable(f"{OUTPUTS} {error}; write a regular file of the job's own") from error
            except OSError as error:
                raise OutputUnreadable(f"{OUTPUTS} cannot be read: {error.strerror}") from error

    # --- stop and remove --------------------------------------------------------------------------

    def _stop(self, name: str, grace_seconds: float) -> None:
        with self._directories.open(name) as job:
            if job is None:
                return
            now = self._clock.now()
            if job.claim_unstarted(now):
                job.write_result(ShimResult(None, now.timestamp(), note="it was stopped before it started"))
            elif grace_seconds <= 0:
                self._end_now(job)  # this works even if the shim hangs
            elif job.has_shim() and job.result() is None:
                job.request_stop(grace_seconds)

    def _remove(self, name: str) -> None:
        with self._directories.open(name) as job:
            if job is None:
                return
            if not job.claim_unstarted(self._clock.now()):
                self._end_now(job)
        if (cgroup := self._cgroup(name)) is not None:
            cgroup.remove()
        if (reason := self._directories.remove(name)) is not None:
            log.warning(
                "process.files_left", container=name, reason=reason, remedy="delete them yourself, if necessary as root"
            )

    def _end_now(self, job: JobDirectory) -> None:
        """Kill the job's processes, and return when they have ended or after a few seconds."""
        if job.has_shim():
            job.request_stop(0)
            _wait_while(job.has_shim)
        record = job.shim_record()
        if record is not None and job.has_shim():
            record.signal(signal.SIGKILL)
            _wait_while(job.has_shim)
        if record is not None and job.result() is None:
            self._reap(job, record)


def _record_of_own_job(job: JobDirectory, request: ContainerRequest) -> ShimRecord | None:
    """Return the shim's record. Raise StartRefused if the job belongs to another installation."""
    labels = job.labels()
    if labels and labels.get(INSTALLATION_LABEL) != request.installation_id:
        raise StartRefused(
            FailureKind.REFUSED,
            f"the job {job.name} in {job.path.parent} belongs to another installation; "
            "give each installation a directory of its own",
        )
    return job.shim_record()


def _wait_while(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + _END_SECONDS
    while condition() and time.monotonic() < give_up_at:
        time.sleep(_POLL_SECONDS)


def _handle(pid: int | None) -> str:
    """Return the shim's pid as text. SIGTERM to that process ends the job cleanly."""
    return "not started" if pid is None else f"pid {pid}"


def _machine_id() -> str:
    """Return the id of this machine, which stays the same when it is restarted."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


def _run_shim(request: ShimRequest) -> dict[str, Any]:
    """
    Start a shim, which detaches itself from this process, and return its answer.

    Raises:
        EngineUnavailable: It did not answer. Whether it runs the command shows in the job directory.
    """
    command = [sys.executable, "-I", "-S", "-X", "utf8", shim.__file__, request.directory]
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
            output, _ = process.communicate(json.dumps(request._asdict()).encode(), timeout=_ANSWER_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()  # the detached shim is another process, which exists by now or never will
            raise EngineUnavailable(f"{request.directory}: its shim did not answer in {_ANSWER_SECONDS:g} s") from error
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError as error:
        raise EngineUnavailable(f"{request.directory}: its shim died before it started the command") from error
    return answer
