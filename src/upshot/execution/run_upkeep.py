"""Packs what runs have logged, and removes old runs, without holding up anything else."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from upshot.clock import stopwatch
from upshot.ports.run_in_thread import RunInThread
from upshot.registry.service import Registry

log = structlog.get_logger("upshot.runs")

RUNS = 100  # looked at in one call
ROWS = 200  # of a history, removed in one transaction
MIN_PAUSE_SECONDS = 0.02  # between batches; a batch is also followed by a pause of twice its duration


class RunUpkeep:
    """
    Packs the log entries of runs, and removes old runs. Several workers can do it at the same time.

    Args:
        registry: Holds the runs.
        age: How long runs are kept after their end. None keeps all.
        run_in_thread: Runs blocking calls.
        stopping: Set when the worker stops. No batch follows then.
    """

    def __init__(
        self, registry: Registry, age: timedelta | None, run_in_thread: RunInThread, stopping: asyncio.Event
    ) -> None:
        self._registry = registry
        self._age = age
        self._run_in_thread = run_in_thread
        self._stopping = stopping

    async def pack(self) -> None:
        """Pack what is due, until nothing is."""
        packed = 1
        while packed:
            packed = 0
            for run in await self._run_in_thread(self._registry.runs_to_pack, limit=RUNS):
                if self._stopping.is_set():
                    return
                started = stopwatch()
                packed += await self._run_in_thread(self._registry.pack_run, run)
                await asyncio.sleep(max(MIN_PAUSE_SECONDS, 2 * (stopwatch() - started)))

    async def remove_old(self) -> None:
        """Remove runs that are too old, or what of them is not needed for their artifact versions."""
        runs = rows = 0
        after_id: str | None = ""
        while self._age is not None and after_id is not None and not self._stopping.is_set():
            found = await self._run_in_thread(self._registry.ended_runs, self._age, after_id=after_id, limit=RUNS)
            for run in found:
                removed = ROWS
                while removed == ROWS and not self._stopping.is_set():
                    started = stopwatch()
                    removed = await self._run_in_thread(self._registry.remove_history_of_run, run, limit=ROWS)
                    rows += removed
                    await asyncio.sleep(max(MIN_PAUSE_SECONDS, 2 * (stopwatch() - started)) if removed else 0)
                if not self._stopping.is_set():
                    runs += await self._run_in_thread(self._registry.remove_unneeded_run, run)
            after_id = found[-1].id if len(found) == RUNS else None
        if runs or rows:
            log.info("runs.removed", runs=runs, rows_of_history=rows)
