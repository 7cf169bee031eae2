"""Writes what happened, in batches: whoever comes while a commit is under way shares the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import structlog

from upshot.domain.execution import ExecutionState
from upshot.errors import Unavailable
from upshot.ports.executions import ExecutionUpdate

log = structlog.get_logger("upshot.execution")

LARGEST_BATCH = 500
LONGEST_PAUSE_SECONDS = 5.0


class Recorder:
    """
    Group commit for the engine's loop.

    Args:
        write: Writes one batch durably and returns the ids that were refused (`ExecutionStore.record`).
    """

    def __init__(self, write: Callable[[Sequence[ExecutionUpdate]], Awaitable[frozenset[str]]]) -> None:
        self._write = write
        self._queue: list[tuple[ExecutionUpdate, asyncio.Future[bool]]] = []
        self._arrived = asyncio.Event()

    async def record(self, progress: ExecutionUpdate) -> bool:
        """
        Write durably.

        Returns:
            False when the state was refused, since the lease is held by another now.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((progress, done))
        self._arrived.set()
        return await done

    async def run(self) -> None:
        """Write until cancelled; a database that does not answer delays and loses nothing."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                batch, self._queue = self._queue[:LARGEST_BATCH], self._queue[LARGEST_BATCH:]
                refused = await self._write_until_done([progress for progress, _ in batch])
                for progress, done in batch:
                    if not done.done():
                        done.set_result(progress.execution.id not in refused)

    async def _write_until_done(self, batch: Sequence[ExecutionUpdate]) -> frozenset[str]:
        try:
            return await self._write_when_possible(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, these records must not come to nothing
            return await self._write_apart(batch, error)

    async def _write_when_possible(self, batch: Sequence[ExecutionUpdate]) -> frozenset[str]:
        pause_seconds = 0.1
        while True:
            try:
                return await self._write(batch)
            except Unavailable as error:
                log.warning("recorder.waits", error=str(error), batch=len(batch), pause_seconds=pause_seconds)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _write_apart(self, batch: Sequence[ExecutionUpdate], error: Exception) -> frozenset[str]:
        """
        Keep one record that the database will not take from holding up, or repeating, any other.

        Left unwritten it would be sent again each time its lease runs out, for ever: so its
        execution fails, with the reason, and without the receipts that could not be kept.
        """
        if len(batch) > 1:
            refused = [await self._write_until_done([progress]) for progress in batch]
            return frozenset().union(*refused)
        execution = batch[0].execution
        log.error("recorder.unwritable", execution=execution.id, error=repr(error))
        failed = replace(
            execution,
            state=ExecutionState.FAILED,
            reason=f"what happened could not be recorded: {type(error).__name__}",
            steps=tuple(replace(step, outputs=None, reason=None) for step in execution.steps),
            due_at=None,
            lease_owner=None,
            lease_until=None,
        )
        try:
            return await self._write_when_possible([ExecutionUpdate(failed)])
        except Exception:
            # Not even that: it comes again when its lease runs out. Whoever else waits must be written all the same.
            log.exception("recorder.gave_up", execution=execution.id)
            return frozenset({execution.id})
