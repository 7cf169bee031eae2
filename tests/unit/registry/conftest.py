"""A registry in memory with one logged artifact, and the people who use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from upshot.adapters.memory.events import MemoryEvents
from upshot.adapters.memory.registry import MemoryRegistry
from upshot.clock import FrozenClock
from upshot.domain.event import Actor, Event, Origin, Role
from upshot.registry.service import Registry

MEMBER = Origin(Actor("ann"))
ADMIN = Origin(Actor("boss", role=Role.ADMIN))


@dataclass
class RecordingPublisher:
    """Records the published events, one list for each mutation."""

    batches: list[list[Event]] = field(default_factory=list)

    def publish(self, events: Sequence[Event]) -> bool:
        self.batches.append(list(events))
        return True


@pytest.fixture
def published() -> RecordingPublisher:
    return RecordingPublisher()


@pytest.fixture
def events() -> MemoryEvents:
    return MemoryEvents()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def registry(events, published, clock) -> Registry:
    """Return a registry whose project `fraud` has `net:v0`, `net:v1` and `net:v2`."""
    registry = Registry(MemoryRegistry(events), published, clock, base_url="https://upshot.example.com")
    for number in range(3):
        registry.log_artifact("fraud", "net", "model", digest=f"d{number}", metadata={"number": number}, origin=MEMBER)
    published.batches.clear()
    return registry


def summarize(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    """Return kind, subject and, if there is one, alias of each event, in order."""
    return [
        (event.kind.value, event.subject, *([event.data["alias"]] if "alias" in event.data else [])) for event in events
    ]
