"""A registry in memory, with one artifact logged and the people who use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Event, Role
from upshot.registry.service import Registry

ANN = Actor("ann")
BOSS = Actor("boss", role=Role.ADMIN)


@dataclass
class Published:
    """Keeps what was published, one list a mutation."""

    batches: list[list[Event]] = field(default_factory=list)

    def publish(self, events: Sequence[Event]) -> bool:
        self.batches.append(list(events))
        return True


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def events() -> MemoryEvents:
    return MemoryEvents()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def registry(events, published, clock) -> Registry:
    """A registry whose project `fraud` has `net:v0`, `net:v1` and `net:v2`."""
    made = Registry(MemoryRegistry(events), published, clock, base_url="https://upshot.example.com")
    for number in range(3):
        made.log_artifact("fraud", "net", "model", digest=f"d{number}", metadata={"number": number}, actor=ANN)
    published.batches.clear()
    return made


def told(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    """What happened to what, and with which alias, in order."""
    return [
        (event.kind.value, event.subject, *([event.data["alias"]] if "alias" in event.data else [])) for event in events
    ]
