"""A Kubernetes backend on a fake cluster, with short calls for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, cast

from tests.container_requests import INSTALLATION_ID, NAME, container_request
from tests.fakes.kubernetes.cluster import IMAGE, FakeCluster
from tests.waiting import TIMEOUT_SECONDS, eventually
from upshot.backends.kubernetes import make
from upshot.backends.protocol import ContainerRequest, ContainerStatus, LogRead, Phase, StartedContainer

LONG_RUNNING = "echo started; while :; do sleep 0.1; done"


def request(script: str = "true", **options: Any) -> ContainerRequest:
    """Return a request that runs a script in an image of the fake cluster."""
    return container_request(script, **{"image": IMAGE, **options})


class BackendDriver:
    """
    A backend on a fake cluster. Most methods are about the container `NAME` unless they get another name.

    Args:
        cluster: The fake cluster.
        options: Options of the backend.
    """

    def __init__(self, cluster: FakeCluster, options: dict[str, Any]) -> None:
        self.cluster = cluster
        self.backend = make(options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.backend.close()

    async def start(self, script: str = "true", **options: Any) -> StartedContainer:
        """Start a script."""
        return await self.backend.start(request(script, **options))

    async def start_and_wait(self, script: str = LONG_RUNNING, **options: Any) -> None:
        """Start a script, and wait until it has written to its log."""
        await self.start(script, **options)

        async def has_log() -> bool:
            return bool((await self.read_log()).data)

        await eventually(has_log)

    async def run(self, script: str, **options: Any) -> ContainerStatus:
        """Start a script, and return its status after it has exited."""
        await self.start(script, **options)
        return await self.wait_for_exit()

    async def statuses(self) -> dict[str, ContainerStatus]:
        """Return the status of all containers."""
        return dict(await self.backend.list_containers(INSTALLATION_ID))

    async def status(self) -> ContainerStatus | None:
        """Return the current status."""
        return (await self.statuses()).get(NAME)

    async def wait_for(self, condition: Callable[[ContainerStatus], object]) -> ContainerStatus:
        """Wait until the status meets a condition, and return it."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while (status := await self.status()) is None or not condition(status):
                await asyncio.sleep(0.02)
        return status

    async def wait_for_note(self, text: str) -> ContainerStatus:
        """Wait until the status has a note with a text, and return it."""
        return await self.wait_for(lambda status: text in (status.note or ""))

    async def wait_for_exit(self) -> ContainerStatus:
        """Wait until the container has exited, and return its status."""
        return await self.wait_for(lambda status: status.phase is Phase.EXITED)

    async def read_log(self, position: str | None = None) -> LogRead:
        """Read the log from a position on."""
        return await self.backend.read_log(NAME, position, limit_bytes=2**20)

    async def read_outputs(self) -> bytes | None:
        """Return the content of the outputs."""
        return await self.backend.read_outputs(NAME, limit_bytes=2**20)

    async def stop(self, *, grace_seconds: float = 10) -> None:
        """Stop the container."""
        await self.backend.stop(NAME, grace_seconds=grace_seconds)

    async def remove(self) -> None:
        """Remove the container."""
        await self.backend.remove(NAME)

    def watch(self) -> aclosing[AsyncGenerator[str, None]]:
        """Watch the events of all containers."""
        return aclosing(cast("AsyncGenerator[str, None]", self.backend.watch_events(INSTALLATION_ID)))
