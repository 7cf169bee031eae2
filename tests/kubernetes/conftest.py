"""A fake cluster, and a backend on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kubernetes.cluster import FakeCluster
from tests.kubernetes.driver import BackendDriver


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """Yield a new cluster."""
    with FakeCluster() as cluster:
        yield cluster


@pytest.fixture
async def connect(cluster: FakeCluster, tmp_path: Path) -> AsyncIterator[Callable[..., BackendDriver]]:
    """Yield a function that makes a backend with the given options, written with underscores."""
    kubeconfig = cluster.kubeconfig(tmp_path)
    async with AsyncExitStack() as stack:

        def connect(**options: Any) -> BackendDriver:
            written = {key.replace("_", "-"): value for key, value in options.items()}
            driver = BackendDriver(cluster, {"kubeconfig": kubeconfig, **written})
            stack.push_async_exit(driver)
            return driver

        yield connect


@pytest.fixture
async def driver(connect: Callable[..., BackendDriver]) -> BackendDriver:
    """Return a backend with default options."""
    return connect()
