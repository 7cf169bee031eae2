"""What the measurements do to a system: mutations by REST, events in bulk; and what the receiver says came of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from bench.system import Measured, Ports
from tests.system import TOKEN

REGISTRY = "model"
EVENTS_PER_REQUEST = 1000  # the API's limit for one list
_STALLED_SECONDS = 30.0  # nothing having arrived for so long, what is missing is taken as lost
_SETTLE_SECONDS = 1.0  # after the last one was expected, a double would still arrive


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request that the receiver got."""

    at: float  #: CLOCK_MONOTONIC, seconds
    delivery_id: str
    mark: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was asked for against what was received."""

    expected: int
    missing: int
    double: int  #: deliveries beyond the first of a mark

    @property
    def is_clean(self) -> bool:
        """None missing, none double."""
        return not self.missing and not self.double

    def __str__(self) -> str:
        return f"{self.expected} expected, {self.missing} missing, {self.double} double"


def audit(marks: Collection[str], deliveries: Iterable[Delivery]) -> Audit:
    """Compare what was accepted with what was received."""
    seen = Counter(delivery.mark for delivery in deliveries)
    return Audit(
        expected=len(marks),
        missing=sum(1 for mark in marks if mark not in seen),
        double=sum(count - 1 for count in seen.values()),
    )


class Load:
    """A client of one system and of the receiver."""

    def __init__(self, system: Measured, ports: Ports) -> None:
        self._system = system
        self.ports = ports
        self._api = f"{system.url}/api/v1"

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def wait_until_ready(self) -> None:
        """Wait until a worker says that it is alive."""
        while not (await self.request("GET", "/workers"))["items"]:
            self._system.check_alive()
            await asyncio.sleep(0.1)

    async def make_collections(self, names: Sequence[str]) -> None:
        """Link one artifact version into each of them, which makes them."""
        artifact = {"name": "net", "type": "model", "digest": "sha256:" + "0" * 64, "metadata": {"accuracy": 0.93}}
        answer = await self.request("POST", "/projects/bench/artifacts", artifact)
        reference = answer["reference"]

        async def link(some: Sequence[str]) -> None:
            for name in some:
                path = f"/registries/{REGISTRY}/collections/{name}/versions"
                await self.request("POST", path, {"artifact": reference})

        await asyncio.gather(*(link(names[start::8]) for start in range(8)))

    async def add_alias(self, collection: str, alias: str) -> None:
        """One mutation that fires one delivery, whose mark is the alias."""
        path = f"/registries/{REGISTRY}/collections/{collection}/aliases/{alias}"
        await self.request("PUT", path, {"version": "v0"})

    async def emit(self, events: Sequence[tuple[str, int]]) -> None:
        """Accept custom events, each with a mark and the port that its delivery goes to."""
        for start in range(0, len(events), EVENTS_PER_REQUEST):
            some = events[start : start + EVENTS_PER_REQUEST]
            forms = [{"name": "bench", "data": {"mark": mark, "port": port}} for mark, port in some]
            await self.request("POST", "/events", forms)

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """
        Ask the API.

        Raises:
            RuntimeError: It refused.
        """
        async with self._session.request(method, self._api + path, json=body) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]}")
            return json.loads(text) if text else None

    async def received(self, expected: int) -> list[Delivery]:
        """Wait until so many have arrived, or nothing more does; take all that came."""
        count, since = -1, time.monotonic()
        while (now := await self._ask_receiver("count")) < expected:
            self._system.check_alive()
            if now != count:
                count, since = now, time.monotonic()
            elif time.monotonic() - since > _STALLED_SECONDS:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(_SETTLE_SECONDS)
        return [
            Delivery(at, delivery_id, json.loads(body)["mark"])
            for at, delivery_id, body in await self._ask_receiver("take")
        ]

    async def _ask_receiver(self, what: str) -> Any:
        async with self._session.get(f"http://127.0.0.1:{self.ports.fast[0]}/{what}") as answer:
            return json.loads(await answer.text())
