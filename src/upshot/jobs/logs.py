"""Copy the log of a job from its engine to the store, with secrets masked and a limit on its size."""

from __future__ import annotations

from datetime import datetime

from upshot.backends.protocol import Backend
from upshot.domain.job import LOG_TAIL_BYTES, Job
from upshot.masking import Mask
from upshot.ports.jobs import JobStore
from upshot.ports.run_in_thread import RunInThread

MAX_CHUNK_BYTES = 256 * 1024  # size of one read; if a job writes more in a second, its oldest lines are left out
MAX_LINE_BYTES = 16 * 1024  # a secret is found within one line; a longer line is cut
_SKIPPED = f"--- lines are left out here: the job wrote more than {MAX_CHUNK_BYTES // 1024} KB at once ---\n"
_MAX_LAST_READS = 16  # so that a job that has written a gigabyte ends soon


class LogCollector:
    """
    Copies the log of one attempt.

    Args:
        job: The job.
        backend: Reaches its engine.
        jobs: Stores the chunks of the log.
        mask: Hides the job's secrets.
        run_in_thread: Runs the store's blocking calls.
        keep_bytes: Maximum size of the stored log of the job.
    """

    def __init__(
        self, job: Job, backend: Backend, jobs: JobStore, mask: Mask, run_in_thread: RunInThread, *, keep_bytes: int
    ) -> None:
        self._job = job
        self._backend = backend
        self._jobs = jobs
        self._mask = mask
        self._run_in_thread = run_in_thread
        self._keep_bytes = keep_bytes
        self._position: str | None = None
        self._is_resumed = False
        self._incomplete_line = b""

    async def tail(self) -> str:
        """Return the last 64 KB, including what another worker has stored before."""
        read = await self._backend.read_log(self._job.container_name, None, limit_bytes=LOG_TAIL_BYTES)
        data = read.data
        if read.skipped or len(data) >= LOG_TAIL_BYTES:
            data = _without_incomplete_line(data)
        text = await self._run_in_thread(self._mask.text, data.decode("utf-8", "replace"))
        return text.encode()[-LOG_TAIL_BYTES:].decode("utf-8", "ignore")

    async def store_new(self, now: datetime) -> bool:
        """Store what the job has written since the last call. Return whether there was anything."""
        if not self._is_resumed:
            await self._resume()
        read = await self._backend.read_log(self._job.container_name, self._position, limit_bytes=MAX_CHUNK_BYTES)
        if not read.data and read.position == self._position:
            return False
        new = read.data
        if read.skipped:
            self._incomplete_line = b""
            new = _without_incomplete_line(new)
        data = self._incomplete_line + new
        end = data.rfind(b"\n") + 1
        if len(data) - end > MAX_LINE_BYTES:
            end = await self._run_in_thread(self._end_before_secret, data)
        self._incomplete_line = data[end:]
        await self._store(data[:end], read.position, now, skipped=read.skipped)
        return bool(read.data)

    def _end_before_secret(self, data: bytes) -> int:
        """Return where a long line can be cut: at its end, or before a secret that may continue."""
        text = data.decode("utf-8", "surrogateescape")
        return len(text[: self._mask.start_of_cut_secret(text)].encode("utf-8", "surrogateescape"))

    async def store_rest(self, now: datetime) -> None:
        """Store the rest of the log of an exited job."""
        for _ in range(_MAX_LAST_READS):
            if not await self.store_new(now):
                break
        if self._incomplete_line:
            line, self._incomplete_line = self._incomplete_line, b""
            await self._store(line, self._position or "", now)

    async def _resume(self) -> None:
        """Continue where another worker, or this worker before a restart, stopped reading."""
        stored = await self._run_in_thread(self._jobs.log_position, self._job.id)
        attempt, _, position = (stored or "").partition(":")
        if position and attempt == str(self._job.attempt):
            self._position = position
        elif stored is not None:
            await self._store(f"--- attempt {self._job.attempt} ---\n".encode(), "", self._job.created_at)
        self._is_resumed = True

    async def _store(self, data: bytes, position: str, now: datetime, *, skipped: bool = False) -> None:
        def mask_and_append() -> None:  # a hostile log takes long to mask
            text = self._mask.text(data.decode("utf-8", "replace"))
            self._jobs.append_log(
                self._job.id,
                _SKIPPED + text if skipped else text,
                position=f"{self._job.attempt}:{position}",
                now=now,
                keep_bytes=self._keep_bytes,
            )

        await self._run_in_thread(mask_and_append)
        self._position = position or None


def _without_incomplete_line(data: bytes) -> bytes:
    """Return a log without its first line, which may begin within a secret, unless there is no other line."""
    return data[data.find(b"\n") + 1 :] or data
