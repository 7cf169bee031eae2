"""How long it takes to find the automation that answers an event among many automations."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from upshot.automations.matcher import Matcher
from upshot.domain.automation import Automation, Pattern, Step, Trigger
from upshot.domain.event import Actor, Event, EventKind
from upshot.ids import EventId, RevisionId

COUNTS = (1, 1_000, 10_000)
_GLOB_EVERY = 7  # one automation in seven has a glob: most automations name one collection
_SECONDS = 1.0  # per count


def measure_matching() -> Mapping[int, float]:
    """Return the microseconds per event, by number of loaded automations."""
    return {count: _microseconds(count) for count in COUNTS}


def _microseconds(count: int) -> float:
    others = (_other_automation(number) for number in range(1, count))
    matcher = Matcher([_make_automation("matching", "churn", "production"), *others])
    event = _event()
    assert [match.automation.name for match in matcher.match(event)] == ["matching"]
    rounds, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        for _ in range(20):
            matcher.match(event)
        rounds += 20
    return (time.perf_counter() - start) / rounds * 1e6


def _other_automation(number: int) -> Automation:
    if number % _GLOB_EVERY == 0:
        return _make_automation(f"automation-{number}", f"team-{number}-*", "production")
    return _make_automation(f"automation-{number}", f"collection-{number}", ("production", "candidate")[number % 2])


def _make_automation(name: str, collection: str, alias: str) -> Automation:
    filters = {
        "registry": Pattern(any_of=("model",)),
        "collection": Pattern(any_of=(collection,)),
        "alias": Pattern(any_of=(alias,)),
    }
    return Automation(
        name=name,
        revision_id=RevisionId("000000000000"),
        path="bench.yaml",
        line=1,
        triggers=(Trigger(EventKind.ALIAS_ADDED, filters),),
        steps=(Step(id="step-1", uses="webhook", with_={"url": "https://example.com/"}),),
    )


def _event() -> Event:
    version = {
        "name": "v3",
        "number": 3,
        "reference": "model/churn:v3",
        "digest": "sha256:" + "0" * 64,
        "metadata": {"accuracy": 0.93},
        "aliases": ["latest", "production"],
        "tags": [],
    }
    return Event(
        id=EventId("evt_01jd3v9k2m8q4z6w0x5y7a1b2c"),
        kind=EventKind.ALIAS_ADDED,
        time=datetime(2026, 1, 1, 12, tzinfo=UTC),
        subject="model/churn:v3",
        actor=Actor("kim"),
        mutation_id=EventId("mut_01jd3v9k2m8q4z6w0x5y7a1b2c"),
        sequence=0,
        data={
            "registry": {"name": "model"},
            "collection": {"name": "churn", "artifact_type": "model", "description": "", "tags": []},
            "version": version,
            "alias": "production",
            "aliases": ["latest", "production"],
            "previous": None,
            "automatic": False,
        },
    )
