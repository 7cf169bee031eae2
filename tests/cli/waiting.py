"""Waiting for what happens in other processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], *, seconds: float = 20.0, every: float = 0.02) -> T:
    """What `look` gives as soon as it is true; AssertionError when it is not in time."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {look}"
        time.sleep(every)


async def eventually(look: Callable[[], Awaitable[bool]], *, seconds: float = 20.0) -> None:
    """Return as soon as `look` is true; TimeoutError when it is not in time."""
    async with asyncio.timeout(seconds):
        while True:
            if await look():
                return
            await asyncio.sleep(0.01)
