"""The load of the measurements: mutations over REST, and bulk events; and the deliveries that the receiver got."""

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

from bench.system import BenchSystem, Ports
from tests.system import TOKEN

REGISTRY = "model"
EVENTS_PER_REQUEST = 1000  # the API's maximum for one list
_DIGEST = "sha256:" + "0" * 64
_LARGE_EVENTS_PER_REQUEST = 40  # of 64 KB; a request can have 6 MB
_LINKERS = 8  # concurrent requests that link versions
_STALLED_SECONDS = 30.0  # without a new delivery; the missing ones are then considered lost
_SETTLE_SECONDS = 1.0  # after the last expected delivery; a duplicate would still arrive


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request that the receiver got."""

    at: float  #: CLOCK_MONOTONIC, in seconds
    delivery_id: str
    tag: str


@dataclass(frozen=True, slots=True)
class Audit:
    """A comparison of the expected deliveries with the received ones."""

    expected: int
    missing: int
    duplicates: int  #: deliveries beyond the first one of each tag

    @property
    def is_clean(self) -> bool:
        """Whether no delivery is missing and none is a duplicate."""
        return not self.missing and not self.duplicates

    def __str__(self) -> str:
        return f"{self.expected} expected, {self.missing} missing, {self.duplicates} duplicates"


def audit(tags: Collection[str], deliveries: Iterable[Delivery]) -> Audit:
    """Compare the tags of accepted requests with the received deliveries."""
    received = Counter(delivery.tag for delivery in deliveries)
    return Audit(
        expected=len(tags),
        missing=sum(1 for tag in tags if tag not in received),
        duplicates=sum(count - 1 for count in received.values()),
    )


class Load:
    """A client of one system and of the receiver."""

    def __init__(self, system: BenchSystem, ports: Ports) -> None:
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
        """Wait until a worker is alive."""
        while not (await self.request("GET", "/workers"))["items"]:
            self._system.check_alive()
            await asyncio.sleep(0.1)

    async def create_collections(self, names: Sequence[str]) -> None:
        """Create collections by linking an artifact version to each of them."""
        artifact = {"name": "net", "artifact_type": "model", "digest": _DIGEST, "metadata": {"accuracy": 0.93}}
        reference = (await self.request("POST", "/projects/bench/artifacts", artifact))["reference"]

        async def link(names: Sequence[str]) -> None:
            for name in names:
                path = f"/registries/{REGISTRY}/collections/{name}/versions"
                await self.request("POST", path, {"artifact": reference})

        await asyncio.gather(*(link(names[start::_LINKERS]) for start in range(_LINKERS)))

    async def add_alias(self, collection: str, tag: str) -> None:
        """Add an alias. The mutation causes one delivery, whose tag is the alias."""
        path = f"/registries/{REGISTRY}/collections/{collection}/aliases/{tag}"
        await self.request("PUT", path, {"version": "v0"})

    async def emit_data(self, name: str, data: Any, count: int) -> list[str]:
        """Emit custom events with the same data, a few in each request, and return their ids."""
        event_ids: list[str] = []
        while len(event_ids) < count:
            number = min(_LARGE_EVENTS_PER_REQUEST, count - len(event_ids))
            response = await self.request("POST", "/events", [{"name": name, "data": data}] * number)
            event_ids += response["event_ids"]
        return event_ids

    async def wait_until_matched(self) -> None:
        """Wait until no event is unmatched."""
        while json.loads(await self.get(f"{self._system.url}/readyz"))["unmatched_events"]:
            self._system.check_alive()
            await asyncio.sleep(0.1)

    async def emit(self, ports_by_tag: Sequence[tuple[str, int]], name: str = "bench") -> None:
        """Emit custom events. Each causes one delivery with a tag to a port of the receiver."""
        for start in range(0, len(ports_by_tag), EVENTS_PER_REQUEST):
            batch = ports_by_tag[start : start + EVENTS_PER_REQUEST]
            events = [{"name": name, "data": {"tag": tag, "port": port}} for tag, port in batch]
            await self.request("POST", "/events", events)

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """
        Send a request to the API, and return the data of its response.

        Raises:
            RuntimeError: The API rejected the request.
        """
        async with self._session.request(method, self._api + path, json=body) as response:
            text = await response.text()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {response.status} {text[:500]}")
            return json.loads(text) if text else None

    async def get(self, url: str) -> str:
        """Return the text of a response. A status of 404 counts as an answer."""
        async with self._session.get(url) as response:
            text = await response.text()
            if response.status not in {200, 404}:
                raise RuntimeError(f"GET {url}: {response.status} {text[:500]}")
            return text

    async def received(self, expected: int) -> list[Delivery]:
        """Wait until the expected number of deliveries has arrived, or no more arrive. Return and forget them."""
        count, last_change = -1, time.monotonic()
        while (now := await self._ask_receiver("count")) < expected:
            self._system.check_alive()
            if now != count:
                count, last_change = now, time.monotonic()
            elif time.monotonic() - last_change > _STALLED_SECONDS:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(_SETTLE_SECONDS)
        return [
            Delivery(at, delivery_id, json.loads(body)["tag"])
            for at, delivery_id, body in await self._ask_receiver("take")
        ]

    async def _ask_receiver(self, path: str) -> Any:
        async with self._session.get(f"http://127.0.0.1:{self.ports.fast[0]}/{path}") as response:
            return json.loads(await response.text())
