"""Run a task of the worker's event loop periodically."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from upshot.errors import Unavailable

log = structlog.get_logger("upshot.worker")


async def run_periodically(
    name: str, interval_seconds: float, work: Callable[[], Awaitable[object]], *, until: asyncio.Event
) -> None:
    """
    Call `work` again and again. A stop waits for the current call.

    An outage is logged as a warning, any other error with its traceback. The next call follows in either
    case, because a worker whose loop ended silently would look alive and do nothing.

    Args:
        name: Name of the loop, for the log.
        interval_seconds: Pause between the end of a call and the next one.
        work: The function to call.
        until: Set to stop.
    """
    while not until.is_set():
        try:
            await work()
        except Unavailable as error:
            log.warning("loop.unavailable", loop=name, error=str(error))
        except Exception:
            log.exception("loop.failed", loop=name)
        with suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), interval_seconds)
