"""Measure how long hostile events, conditions, templates and responses hold the event loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import Load
from bench.system import BenchSystem, Ports

_SUGGESTING = 200  # automations whose condition misspells a name of the event
_SETTLE_SECONDS = 3.0  # after the last match, for its attempts
_PROBE_SECONDS = 0.005

_MISSPELLED = """\
name: misspelled-{number}
on: {{custom: {{name: names}}}}
if: event.data.accurracy_{number} > 0.9
steps: [{{uses: webhook, with: {{url: "http://127.0.0.1:{fast}/"}}}}]
---
"""
_OTHERS = """\
name: sorts
on: {{custom: {{name: values}}}}
if: (event.data["values"] | sort | first) == 0
steps: [{{uses: webhook, with: {{url: "http://127.0.0.1:{fast}/", json: {{tag: sorts}}}}}}]
---
name: renders
on: {{custom: {{name: values}}}}
steps:
  - uses: webhook
    with:
      url: "http://127.0.0.1:{fast}/"
      json:
        tag: renders
        whole: "{{{{ event | tojson }}}}"
        loop: "{{% for value in event.data['values'] %}}{{{{ value * 2 }}}},{{% endfor %}}"
        unique: "{{{{ event.data['values'] | map('string') | unique | join(',') }}}}"
---
name: passes-on
on: {{custom: {{name: values}}}}
steps: [{{uses: webhook, with: {{url: "http://127.0.0.1:{fast}/", json: {{tag: all, data: "{{{{ event.data }}}}"}}}}}}]
---
name: large-response
on: {{custom: {{name: answer}}}}
steps: [{{uses: webhook, with: {{url: "http://127.0.0.1:{large}/", json: {{tag: large}}}}}}]
"""
_VALUES = {"values": list(range(9_000, -1, -1))}
_NAMES = {f"accuracy_{number}_{'x' * 40}": 1 for number in range(1_000)}
_EVENTS = {"none": (_VALUES, 400), "names": (_NAMES, 40), "values": (_VALUES, 120), "answer": ({}, 20)}


@dataclass(frozen=True, slots=True)
class Hold:
    """The longest piece of work on each event loop: milliseconds of processor time, and the coroutines."""

    pieces: Mapping[str, tuple[float, str]]  #: by process and kind of load
    collection_ms: float  #: the longest garbage collection of the worker
    beside_explanation_ms: float  #: the slowest `/healthz` beside `GET /events/{event_id}`
    without_explanation_ms: float  #: the same before


def write_automations(directory: Path, ports: Ports) -> None:
    """Add the hostile automations to a directory."""
    names = {"fast": ports.fast[0], "large": ports.large[0]}
    misspelled = "".join(_MISSPELLED.format(number=number, **names) for number in range(_SUGGESTING))
    (directory / "hostile.yaml").write_text(misspelled + _OTHERS.format(**names))


async def measure_hold(load: Load, system: BenchSystem) -> Hold:
    """Send each kind of load, and read what the watched processes have recorded."""
    pieces: dict[str, tuple[float, str]] = {}
    first = time.monotonic()
    explained: list[str] = []
    for name, (data, count) in _EVENTS.items():
        started = time.monotonic()
        explained += (await load.emit_data(name, data, count))[:1]
        await load.wait_until_matched()
        await asyncio.sleep(_SETTLE_SECONDS)
        pieces |= {f"{process} {name}": system.longest_piece(process, since=started) for process in _PROCESSES}
    without = await _slowest_health(load, system, asyncio.sleep(1))
    started = time.monotonic()
    beside = await _slowest_health(load, system, _explain(load, explained))
    pieces["web explanation"] = system.longest_piece("web", since=started)
    collection_ms, _ = system.longest_piece("worker-1", since=first, collection=True)
    return Hold(pieces, collection_ms, beside, without)


_PROCESSES = ("web", "worker-1")


async def _explain(load: Load, event_ids: list[str]) -> None:
    for event_id in event_ids:
        await load.request("GET", f"/events/{event_id}")


async def _slowest_health(load: Load, system: BenchSystem, work: Any) -> float:
    """Return the milliseconds of the slowest `/healthz` while the work is done."""
    task = asyncio.ensure_future(work)
    slowest = 0.0
    while not task.done():
        started = time.monotonic()
        await load.get(f"{system.url}/healthz")
        slowest = max(slowest, (time.monotonic() - started) * 1000)
        await asyncio.sleep(_PROBE_SECONDS)
    await task
    return slowest
