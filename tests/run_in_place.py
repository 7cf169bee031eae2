"""`RunInThread` without a thread, for tests."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_in_place(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of a call, after other tasks had a turn."""
    await asyncio.sleep(0)
    return work(*args, **kwargs)
