"""The measurements, one function each; none asserts a speed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import psutil

from bench.load import Audit, Delivery, Load, audit
from bench.system import Measured

_ALIASES_PER_COLLECTION = 25  # an event lists all aliases: collections that grow for ever would be measured instead
_WARM_UP_MUTATIONS = 30


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the beginning of a mutation to the receipt of its webhook."""

    p50: float
    p95: float
    p99: float
    worst: float
    audit: Audit


@dataclass(frozen=True, slots=True)
class Rate:
    """Deliveries a second, and what the audit at the receiver found."""

    per_second: float
    took_seconds: float
    audit: Audit
    cpu_ms: Mapping[str, float]  #: processor time of each part for one delivery


async def measure_latency(load: Load, *, seconds: float, per_second: float = 10) -> Latency:
    """Begin a mutation every tenth of a second, whether the last has been answered or not."""
    count = int(seconds * per_second)
    collections = [f"latency-{number}" for number in range(count // _ALIASES_PER_COLLECTION + 3)]
    await load.make_collections(collections)
    await _warm_up(load, collections[-2:])
    begun: dict[str, float] = {}

    async def mutate(mark: str, collection: str) -> None:
        begun[mark] = time.monotonic()
        await load.add_alias(collection, mark)

    start = time.monotonic()
    async with asyncio.TaskGroup() as mutations:
        for number in range(count):
            await asyncio.sleep(start + number / per_second - time.monotonic())
            mutations.create_task(mutate(f"mark-l-{number}", collections[number // _ALIASES_PER_COLLECTION]))
    deliveries = await load.received(count)
    first = {delivery.mark: delivery.at for delivery in sorted(deliveries, key=lambda one: one.at, reverse=True)}
    took = sorted((first[mark] - begun[mark]) * 1000 for mark in begun if mark in first)
    return Latency(
        p50=_percentile(took, 50),
        p95=_percentile(took, 95),
        p99=_percentile(took, 99),
        worst=took[-1],
        audit=audit(begun, deliveries),
    )


async def measure_mutations(load: Load, system: Measured, *, seconds: float, writers: int = 8) -> Rate:
    """Writers that each mutate as fast as they are answered; from the first mutation to the last receipt."""
    per_writer = int(seconds * 100 / _ALIASES_PER_COLLECTION) + 1  # collections enough for 100 mutations a second
    collections = [[f"writer-{writer}-{number}" for number in range(per_writer)] for writer in range(writers)]
    await load.make_collections([name for names in collections for name in names])
    marks: set[str] = set()
    cpu = measure_cpu(system)
    start = time.monotonic()

    async def write(writer: int) -> None:
        for number in itertools.count():
            if time.monotonic() - start > seconds:
                return
            mark = f"mark-w-{writer}-{number}"
            await load.add_alias(collections[writer][number // _ALIASES_PER_COLLECTION % per_writer], mark)
            marks.add(mark)

    await asyncio.gather(*(write(writer) for writer in range(writers)))
    deliveries = await load.received(len(marks))
    return _rate(marks, deliveries, start, _since(cpu, system))


async def measure_backlog(load: Load, system: Measured, *, events: int, workers: int, ports: Sequence[int]) -> Rate:
    """Events that were accepted while no worker ran; from the first receipt to the last."""
    marks = {f"mark-b-{number}": ports[number % len(ports)] for number in range(events)}
    await load.emit(list(marks.items()))
    cpu = measure_cpu(system)
    system.begin_workers(workers)
    deliveries = await load.received(events)
    used = _since(cpu, system)
    system.stop_workers()
    start = min((delivery.at for delivery in deliveries), default=time.monotonic())
    return _rate(marks, deliveries, start, used)


def measure_memory(system: Measured) -> Mapping[str, Mapping[str, float]]:
    """Megabytes of each part with its children: resident, and proportional (`pss`) where the kernel tells."""
    return {part: _memory(psutil.Process(pid)) for part, pid in system.process_ids().items()}


def measure_cpu(system: Measured) -> Mapping[str, float]:
    """Seconds of processor time that each part has used so far."""
    times = {part: psutil.Process(pid).cpu_times() for part, pid in system.process_ids().items()}
    return {part: used.user + used.system for part, used in times.items()}


def _since(before: Mapping[str, float], system: Measured) -> Mapping[str, float]:
    return {part: seconds - before.get(part, 0.0) for part, seconds in measure_cpu(system).items()}


def _memory(process: psutil.Process) -> Mapping[str, float]:
    family = [process, *process.children(recursive=True)]
    sizes = {"rss_mb": sum(member.memory_info().rss for member in family) / 1e6}
    if hasattr(family[0].memory_full_info(), "pss"):
        sizes["pss_mb"] = sum(member.memory_full_info().pss for member in family) / 1e6
    return sizes


async def _warm_up(load: Load, collections: Sequence[str]) -> None:
    """First times cost more (imports, connections, compiled templates), and are not what is asked about."""
    for number in range(_WARM_UP_MUTATIONS):
        await load.add_alias(collections[number % len(collections)], f"mark-warm-{number}")
    await load.received(_WARM_UP_MUTATIONS)


def _rate(
    marks: Collection[str], deliveries: Sequence[Delivery], start: float, cpu_seconds: Mapping[str, float]
) -> Rate:
    took = max((delivery.at for delivery in deliveries), default=start) - start
    count = max(1, len(deliveries))
    return Rate(
        per_second=len(deliveries) / took if took else 0.0,
        took_seconds=took,
        audit=audit(marks, deliveries),
        cpu_ms={part: seconds * 1000 / count for part, seconds in cpu_seconds.items()},
    )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
