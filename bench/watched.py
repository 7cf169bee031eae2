"""
Run a command of Upshot, and record how long the pieces of work on its event loop take.

Run as `python -m bench.watched worker` or `serve`. A piece is what runs without a pause for other coroutines. The
environment variable `BENCH_PIECES` names a file, to which each piece of more than a millisecond is written: when it
ended (CLOCK_MONOTONIC), milliseconds of processor time, and a description. Garbage collection is written as a piece of
its own. The event loop is asyncio's own instead of
uvloop, because it can be observed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from upshot.cli import main

PIECES = "BENCH_PIECES"
MIN_SECONDS = 0.001
COLLECTION = "garbage collection"


def watch(path: Path) -> None:
    """Record the pieces of every event loop that this process creates."""
    # asyncio has no public way to observe callbacks, and its tasks in C do not show their coroutine.
    asyncio.tasks.Task = asyncio.Task = asyncio.tasks._PyTask  # type: ignore[attr-defined,misc]  # noqa: SLF001 - as above
    original = asyncio.Handle._run  # noqa: SLF001 - as above

    collection = _Collection()
    gc.callbacks.append(collection.on_change)

    def run(handle: asyncio.Handle) -> None:
        description = _describe(handle)
        # Processor time of this thread. Time that other threads and processes take is not the piece's own.
        collection.seconds = 0.0
        started = time.thread_time()
        original(handle)
        took = time.thread_time() - started - collection.seconds
        for seconds, what in ((took, description), (collection.seconds, COLLECTION)):
            if seconds > MIN_SECONDS:
                with path.open("a") as file:
                    file.write(f"{time.monotonic():.6f} {seconds * 1000:.3f} {what}\n")

    asyncio.Handle._run = run  # type: ignore[method-assign,assignment]  # noqa: SLF001 - as above
    uvloop.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]  # as this module says


class _Collection:
    """The time that garbage collection takes on the threads of the process. It interrupts a piece anywhere."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def on_change(self, phase: str, info: Mapping[str, int]) -> None:
        """Note the start or the end of a collection."""
        if phase == "start":
            self._started = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._started


def _describe(handle: asyncio.Handle) -> str:
    """Return the coroutines that the handle continues, the outermost first, or the name of its callback."""
    callback: Any = handle._callback  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return getattr(callback, "__qualname__", type(callback).__name__)
    names: list[str] = []
    coroutine: Any = task.get_coro()
    while (name := getattr(coroutine, "__qualname__", None)) is not None:
        names.append(name)
        coroutine = getattr(coroutine, "cr_await", None)
    return " > ".join(names)


if __name__ == "__main__":
    watch(Path(os.environ[PIECES]))
    main(prog_name="upshot")
