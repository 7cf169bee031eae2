"""Removes what is older than its retention, without holding up anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import structlog

from upshot.clock import Clock, stopwatch
from upshot.ports.retention import Kept, RetentionStore
from upshot.ports.run_in_thread import RunInThread

log = structlog.get_logger("upshot.retention")

FIRST_BATCH = 50
MIN_BATCH = 5
MAX_BATCH = 500
# A mutation waits for at most one batch. The size of batches follows the time that they take.
FAST_SECONDS = 0.015
SLOW_SECONDS = 0.04
MIN_PAUSE_SECONDS = 0.02  # between batches; a batch is also followed by a pause of twice its duration


class Retention:
    """
    Removes old rows in small batches.

    Args:
        store: Where the rows are.
        ages: How long each kind of row is kept. What is missing here is never removed.
        clock: Returns the current time.
        run_in_thread: Runs blocking calls.
        stopping: Set when the worker stops. No batch follows then.
    """

    def __init__(
        self,
        store: RetentionStore,
        ages: Mapping[Kept, timedelta],
        clock: Clock,
        run_in_thread: RunInThread,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._ages = ages
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._stopping = stopping

    async def remove_old(self) -> Mapping[Kept, int]:
        """Remove everything that is too old, and return the number of removed rows by kind."""
        causes = await self._run_in_thread(self._store.causes_of_unfinished)
        removed: dict[Kept, int] = {}
        # In the order of `Kept`: an execution goes before the event that it answers, and takes its receipts along.
        for kept in (kept for kept in Kept if kept in self._ages):
            before = self._clock.now() - self._ages[kept]
            except_for = causes if kept is Kept.EXECUTIONS else ()
            after_id: str | None = ""
            limit = FIRST_BATCH
            while after_id is not None and not self._stopping.is_set():
                started = stopwatch()
                batch = await self._run_in_thread(
                    self._store.remove, kept, before=before, after_id=after_id, limit=limit, except_for=except_for
                )
                took = stopwatch() - started
                removed[kept] = removed.get(kept, 0) + batch.rows
                after_id = batch.last_id
                limit = next_batch(limit, took)
                await asyncio.sleep(max(MIN_PAUSE_SECONDS, 2 * took))
        if any(removed.values()):
            log.info("retention.removed", **{kept.value: rows for kept, rows in removed.items() if rows})
        return removed


def next_batch(limit: int, took_seconds: float) -> int:
    """Return the size of the next batch, given the size of the last one and how long it took."""
    if took_seconds > SLOW_SECONDS:
        return max(MIN_BATCH, limit // 2)
    return min(MAX_BATCH, 2 * limit) if took_seconds < FAST_SECONDS else limit
