"""A Kubernetes backend in a test's hand, on a cluster that is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Self, TypeVar, cast

from tests.kubernetes.stand_in import IMAGE, StandIn
from tests.waiting import PATIENCE_SECONDS
from upshot.backends.kubernetes import make
from upshot.backends.protocol import ContainerRequest, ContainerStatus, LogRead, Phase, StartedContainer
from upshot.domain.job import JobSpec, Pull

T = TypeVar("T")

INSTALLATION = "inst"
NAME = "upshot-01-1"
FOR_LONG = "echo begun; while :; do sleep 0.1; done"


def order(
    script: str = "true", *, name: str = NAME, env: dict[str, str] | None = None, **spec: Any
) -> ContainerRequest:
    """An order for a shell script."""
    given = {"image": IMAGE, "command": ("/bin/sh", "-c", script), "pull": Pull.MISSING, **spec}
    return ContainerRequest(
        name=name,
        installation=INSTALLATION,
        job_id=f"job_{name}",
        spec=JobSpec(**given),
        env=env or {},
        event=b'{"kind": "alias-added"}',
        fields={"job": {"id": f"job_{name}", "name": "evaluate", "container": name, "outputs": None}},
    )


class Hand:
    """
    A backend on a loop of its own.

    Args:
        cluster: Where it works.
        options: Of the backend.
    """

    def __init__(self, cluster: StandIn, options: dict[str, Any]) -> None:
        self.cluster = cluster
        self.backend = make(options)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.backend.close())
        self._runner.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end."""
        return self._runner.run(work)

    def start(self, script: str = "true", **how: Any) -> StartedContainer:
        return self.do(self.backend.start(order(script, **how)))

    def hints(self) -> aclosing[AsyncGenerator[str, None]]:
        """What it hears of all its jobs."""
        return aclosing(cast("AsyncGenerator[str, None]", self.backend.watch_events(INSTALLATION)))

    def look(self) -> dict[str, ContainerStatus]:
        return dict(self.do(self.backend.list_containers(INSTALLATION)))

    def seen(self, name: str = NAME) -> ContainerStatus | None:
        return self.look().get(name)

    def seen_as(self, wanted: Phase | Callable[[ContainerStatus], object], name: str = NAME) -> ContainerStatus:
        """What the cluster says as soon as it is so far."""

        async def wait() -> ContainerStatus:
            sighting = None
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    sighting = (await self.backend.list_containers(INSTALLATION)).get(name)
                    if sighting and (sighting.phase is wanted if isinstance(wanted, Phase) else wanted(sighting)):
                        return sighting
                    await asyncio.sleep(0.02)

        return self.do(wait())

    def ended(self, name: str = NAME) -> ContainerStatus:
        return self.seen_as(Phase.EXITED, name)

    def run(self, script: str, **how: Any) -> ContainerStatus:
        self.start(script, **how)
        return self.ended(how.get("name", NAME))

    def begin(self, script: str = FOR_LONG, **how: Any) -> None:
        """Start it, and wait until it has said something."""
        self.start(script, **how)
        self.until(lambda: self._has_said(how.get("name", NAME)))

    async def _has_said(self, name: str) -> bool:
        return bool((await self.backend.read_log(name, None, limit_bytes=100)).data)

    def until(self, look: Callable[[], Awaitable[object]]) -> None:
        """Return as soon as it is true."""

        async def wait() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await look():
                    await asyncio.sleep(0.02)

        self.do(wait())

    def log(self, name: str = NAME, position: str | None = None, *, limit_bytes: int = 2**20) -> LogRead:
        return self.do(self.backend.read_log(name, position, limit_bytes=limit_bytes))

    def outputs(self, name: str = NAME, *, limit_bytes: int = 2**20) -> bytes | None:
        return self.do(self.backend.read_outputs(name, limit_bytes=limit_bytes))

    def stop(self, name: str = NAME, *, grace_seconds: float = 10) -> None:
        self.do(self.backend.stop(name, grace_seconds=grace_seconds))

    def remove(self, name: str = NAME) -> None:
        self.do(self.backend.remove(name))
