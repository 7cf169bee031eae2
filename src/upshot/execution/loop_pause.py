"""Long work on the event loop, in short pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from upshot.clock import stopwatch

MAX_SECONDS = 0.002  #: of work without a pause


class LoopPause:
    """
    Returns control to the event loop when the work since the last pause took long enough.

    Args:
        seconds: Returns a time that grows.
    """

    def __init__(self, seconds: Callable[[], float] = stopwatch) -> None:
        self._seconds = seconds
        self._started_at = seconds()

    async def if_due(self) -> None:
        """Let other coroutines run if it is their turn. Call this between two pieces of work."""
        if self._seconds() - self._started_at >= MAX_SECONDS:
            await asyncio.sleep(0)
            self._started_at = self._seconds()
