"""Carries what a job says from its engine into the store, secrets masked, at a bearable pace."""

from __future__ import annotations

from datetime import datetime

from upshot.backends.protocol import Backend
from upshot.domain.job import LOG_TAIL_BYTES, Job
from upshot.masking import Mask
from upshot.ports.concurrency import RunInThread
from upshot.ports.jobs import JobStore

PIECE_BYTES = 256 * 1024  # at a time; a job that says more within a second has its oldest lines of it left out
LONGEST_LINE_BYTES = 16 * 1024  # a secret within one line is found; a longer line is cut
_SKIPPED = f"--- lines are left out here: the job said more than {PIECE_BYTES // 1024} KB at once ---\n"
_LAST_PIECES = 16  # read at the end at most, so that a job that has said a gigabyte ends soon


class JobLog:
    """
    The log of one try.

    Args:
        job: Whose.
        backend: Its engine.
        jobs: Where pieces are kept.
        mask: Of the job's secrets.
        run_in_thread: Runs the store's blocking calls.
        keep_bytes: Of the whole log.
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
        self._is_begun = False
        self._rest = b""  # the beginning of a line whose end has not come

    async def tail(self) -> str:
        """The last 64 KB, whoever has read what was before."""
        read = await self._backend.read_log(self._job.container, None, limit_bytes=LOG_TAIL_BYTES)
        text = self._mask.text(read.data.decode("utf-8", "replace"))
        return text.encode()[-LOG_TAIL_BYTES:].decode("utf-8", "ignore")

    async def read_on(self, now: datetime) -> bool:
        """Keep what was said since the last time; tells whether there was anything."""
        if not self._is_begun:
            await self._begin()
        read = await self._backend.read_log(self._job.container, self._position, limit_bytes=PIECE_BYTES)
        if not read.data and read.position == self._position:
            return False
        whole, self._rest = _lines(self._rest + read.data)
        await self._keep(whole, read.position, now, skipped=read.skipped)
        return bool(read.data)

    async def read_to_the_end(self, now: datetime) -> None:
        """Keep the rest of what an ended job has said."""
        for _ in range(_LAST_PIECES):
            if not await self.read_on(now):
                break
        if self._rest:
            rest, self._rest = self._rest, b""
            await self._keep(rest, self._position or "", now)

    async def _begin(self) -> None:
        """Go on from where another worker, or this one before a restart, has read."""
        kept = await self._run_in_thread(self._jobs.log_position, self._job.id)
        number, _, position = (kept or "").partition(":")
        if position and number == str(self._job.attempt):
            self._position = position
        elif kept is not None:
            await self._keep(f"--- try {self._job.attempt} ---\n".encode(), "", self._job.created_at)
        self._is_begun = True

    async def _keep(self, data: bytes, position: str, now: datetime, *, skipped: bool = False) -> None:
        text = self._mask.text(data.decode("utf-8", "replace"))
        if skipped:
            text = _SKIPPED + text
        await self._run_in_thread(
            self._jobs.append_log,
            self._job.id,
            text,
            position=f"{self._job.attempt}:{position}",
            now=now,
            keep_bytes=self._keep_bytes,
        )
        self._position = position or None


def _lines(data: bytes) -> tuple[bytes, bytes]:
    """Whole lines, and the beginning of one whose end has not come; a line that is too long is cut."""
    end = data.rfind(b"\n") + 1
    return (data, b"") if len(data) - end > LONGEST_LINE_BYTES else (data[:end], data[end:])
