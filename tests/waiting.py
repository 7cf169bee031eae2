"""Waiting for what happens elsewhere: in other threads, in other processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0  #: for a busy machine; nothing that works takes so long


def until(look: Callable[[], T | None], what: str = "", *, seconds: float = PATIENCE_SECONDS) -> T:
    """What `look` gives as soon as it is true; AssertionError, with what was waited for, when it is not in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or look}"
        time.sleep(0.02)
    return found


async def eventually(look: Callable[[], Awaitable[bool]], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as `look` is true; TimeoutError when it is not in time."""
    async with asyncio.timeout(seconds):
        while not await look():
            await asyncio.sleep(0.01)
