"""Removes versions that expired and files that nothing needs any more, without holding up anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from upshot.blobs.service import Blobs
from upshot.clock import stopwatch
from upshot.ports.run_in_thread import RunInThread
from upshot.registry.service import Registry

log = structlog.get_logger("upshot.files")

BATCH = 50  # pending versions, blobs or uploads
ORPHAN_BATCH = 1_000  # files to look at
MIN_PAUSE_SECONDS = 0.02  # between batches; a batch is also followed by a pause of twice its duration


class FileCleanup:
    """
    Removes versions, pending versions and uploads that expired, blobs that no version needs, and orphan files.

    Several workers can do it at the same time.

    Args:
        registry: Knows the versions.
        blobs: The bytes of files.
        run_in_thread: Runs blocking calls.
        stopping: Set when the worker stops. No batch follows then.
    """

    def __init__(self, registry: Registry, blobs: Blobs, run_in_thread: RunInThread, stopping: asyncio.Event) -> None:
        self._registry = registry
        self._blobs = blobs
        self._run_in_thread = run_in_thread
        self._stopping = stopping

    async def remove_unneeded(self) -> None:
        """Remove what expired, then the blobs that no version needs."""
        await self._delete_expired()
        versions = await self._in_batches(self._registry.remove_expired_versions)
        blobs = await self._in_batches(self._blobs.remove_unreachable)
        if versions or blobs:
            log.info("files.removed", pending_versions=versions, blobs=blobs)

    async def _delete_expired(self) -> None:
        total = 0
        after: str | None = ""
        while after is not None and not self._stopping.is_set():
            started = stopwatch()
            deleted, after = await self._run_in_thread(self._registry.delete_expired, after=after, limit=BATCH)
            total += deleted
            await asyncio.sleep(max(MIN_PAUSE_SECONDS, 2 * (stopwatch() - started)))
        if total:
            log.info("versions.expired", versions=total)

    async def _in_batches(self, remove: Callable[..., int]) -> int:
        total, removed = 0, BATCH
        while removed == BATCH and not self._stopping.is_set():
            started = stopwatch()
            removed = await self._run_in_thread(remove, limit=BATCH)
            total += removed
            await asyncio.sleep(max(MIN_PAUSE_SECONDS, 2 * (stopwatch() - started)))
        return total

    async def remove_orphans(self) -> None:
        """Look at all files once, and remove those that a process has left behind when it died."""
        total = 0
        after: str | None = ""
        while after is not None and not self._stopping.is_set():
            started = stopwatch()
            removed, after = await self._run_in_thread(self._blobs.remove_orphans, after=after, limit=ORPHAN_BATCH)
            total += removed
            await asyncio.sleep(max(MIN_PAUSE_SECONDS, 2 * (stopwatch() - started)))
        if total:
            log.info("files.orphans_removed", files=total)
