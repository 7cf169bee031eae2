"""Packs what runs have logged, without holding up anything else."""

from __future__ import annotations

import asyncio

from upshot.clock import stopwatch
from upshot.ports.run_in_thread import RunInThread
from upshot.registry.service import Registry

RUNS = 100  # looked at in one call
MIN_PAUSE_SECONDS = 0.02  # between batches; a batch is also followed by a pause of twice its duration


class RunUpkeep:
    """
    Packs the log entries of runs. Several workers can do it at the same time.

    Args:
        registry: Holds the runs.
        run_in_thread: Runs blocking calls.
        stopping: Set when the worker stops. No batch follows then.
    """

    def __init__(self, registry: Registry, run_in_thread: RunInThread, stopping: asyncio.Event) -> None:
        self._registry = registry
        self._run_in_thread = run_in_thread
        self._stopping = stopping

    async def pack(self) -> None:
        """Pack what is due."""
        for run in await self._run_in_thread(self._registry.runs_to_pack, limit=RUNS):
            if self._stopping.is_set():
                return
            started = stopwatch()
            await self._run_in_thread(self._registry.pack_run, run)
            await asyncio.sleep(max(MIN_PAUSE_SECONDS, 2 * (stopwatch() - started)))
