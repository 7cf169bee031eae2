"""Wait until something happens in another thread or process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0  #: enough on a busy machine


def until(condition: Callable[[], T | None], what: str = "", *, seconds: float = TIMEOUT_SECONDS) -> T:
    """
    Poll the condition until its result is true, and return the result.

    Args:
        condition: Called again and again.
        what: Describes the condition in the message of the AssertionError after the timeout.
        seconds: Timeout.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.02)
    return found


async def eventually(condition: Callable[[], Awaitable[bool]], *, seconds: float = TIMEOUT_SECONDS) -> None:
    """Poll the condition until it is true; raise TimeoutError after the timeout."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)
