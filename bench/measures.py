"""The measurements, one function each. None of them asserts a speed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import psutil

from bench.load import Audit, Delivery, Load, audit
from bench.system import BenchSystem

_ALIASES_PER_COLLECTION = 25  # an event lists all aliases, so events of a collection with many aliases are slower
_WARM_UP_MUTATIONS = 30


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the start of a mutation until the receiver got its webhook."""

    p50: float
    p95: float
    p99: float
    worst: float
    audit: Audit


@dataclass(frozen=True, slots=True)
class Rate:
    """Deliveries per second, and the audit at the receiver."""

    per_second: float
    took_seconds: float
    audit: Audit
    cpu_ms: Mapping[str, float]  #: processor time of each process per delivery


async def measure_latency(load: Load, *, seconds: float, per_second: float = 10, name: str = "latency") -> Latency:
    """Start a mutation every tenth of a second, without waiting for the response to the previous one."""
    count = int(seconds * per_second)
    collections = [f"{name}-{number}" for number in range(count // _ALIASES_PER_COLLECTION + 3)]
    await load.create_collections(collections)
    await _warm_up(load, collections[-2:])
    started: dict[str, float] = {}

    async def mutate(tag: str, collection: str) -> None:
        started[tag] = time.monotonic()
        await load.add_alias(collection, tag)

    start = time.monotonic()
    async with asyncio.TaskGroup() as mutations:
        for number in range(count):
            await asyncio.sleep(start + number / per_second - time.monotonic())
            mutations.create_task(mutate(f"tag-{name}-{number}", collections[number // _ALIASES_PER_COLLECTION]))
    deliveries = await load.received(count)
    latest_first = sorted(deliveries, key=lambda delivery: delivery.at, reverse=True)
    first_arrival = {delivery.tag: delivery.at for delivery in latest_first}
    took = sorted((first_arrival[tag] - started[tag]) * 1000 for tag in started if tag in first_arrival)
    return Latency(
        p50=percentile(took, 50),
        p95=percentile(took, 95),
        p99=percentile(took, 99),
        worst=took[-1],
        audit=audit(started, deliveries),
    )


async def measure_mutations(
    load: Load, system: BenchSystem, *, seconds: float, writers: int = 8, name: str = "w"
) -> Rate:
    """Let writers mutate as fast as they get responses. Measure from the first mutation to the last delivery."""
    per_writer = int(seconds * 100 / _ALIASES_PER_COLLECTION) + 1  # enough collections for 100 mutations per second
    collections = [[f"writer-{name}-{writer}-{number}" for number in range(per_writer)] for writer in range(writers)]
    await load.create_collections([collection for names in collections for collection in names])
    tags: set[str] = set()
    cpu = measure_cpu(system)
    start = time.monotonic()

    async def write(writer: int) -> None:
        for number in itertools.count():
            if time.monotonic() - start > seconds:
                return
            tag = f"tag-{name}-{writer}-{number}"
            await load.add_alias(collections[writer][number // _ALIASES_PER_COLLECTION % per_writer], tag)
            tags.add(tag)

    await asyncio.gather(*(write(writer) for writer in range(writers)))
    deliveries = await load.received(len(tags))
    return _rate(tags, deliveries, start, _cpu_since(cpu, system))


async def measure_backlog(load: Load, system: BenchSystem, *, events: int, workers: int, ports: Sequence[int]) -> Rate:
    """Accept events while no worker runs, then start workers. Measure from the first delivery to the last."""
    ports_by_tag = {f"tag-b-{number}": ports[number % len(ports)] for number in range(events)}
    await load.emit(list(ports_by_tag.items()))
    cpu = measure_cpu(system)
    system.start_workers(workers)
    deliveries = await load.received(events)
    used = _cpu_since(cpu, system)
    system.stop_workers()
    start = min((delivery.at for delivery in deliveries), default=time.monotonic())
    return _rate(ports_by_tag, deliveries, start, used)


async def measure_beside_hanging(load: Load, ports: Sequence[int], *, per_second: int, seconds: float) -> Latency:
    """
    Measure the latency beside destinations that never answer.

    Args:
        load: Sends the events.
        ports: The destinations. They get events from `seconds` before the measurement on.
        per_second: Events for each of them.
        seconds: Length of the measurement.
    """
    batch = max(1, per_second // 10)

    async def flood() -> None:
        while True:
            for port in ports:
                await load.emit([("hanging", port)] * batch, name=f"hanging-{port}")
            await asyncio.sleep(batch / per_second)

    flooding = asyncio.create_task(flood())
    await asyncio.sleep(seconds)
    latency = await measure_latency(load, seconds=seconds, name=f"beside-{len(ports)}")
    flooding.cancel()
    return latency


async def measure_burst(load: Load, system: BenchSystem, *, events: int) -> Rate:
    """Emit events to one destination that answers after 0.2 s. Measure from the first event to the last delivery."""
    ports_by_tag = {f"tag-burst-{number}": load.ports.steady[0] for number in range(events)}
    cpu = measure_cpu(system)
    start = time.monotonic()
    await load.emit(list(ports_by_tag.items()))
    deliveries = await load.received(events)
    return _rate(ports_by_tag, deliveries, start, _cpu_since(cpu, system))


async def measure_beside_backlog(load: Load, *, events: int) -> Latency:
    """Emit a backlog for one automation, then one event for another. Measure how late its delivery is."""
    ports = load.ports.fast
    await load.emit([(f"tag-behind-{number}", ports[number % len(ports)]) for number in range(events)])
    start = time.monotonic()
    await load.emit([("tag-single", ports[0])], name="bench-single")
    deliveries = await load.received(events + 1)
    late = max((delivery.at - start) * 1000 for delivery in deliveries if delivery.tag == "tag-single")
    tags = {"tag-single", *(f"tag-behind-{number}" for number in range(events))}
    return Latency(p50=late, p95=late, p99=late, worst=late, audit=audit(tags, deliveries))


def measure_memory(system: BenchSystem) -> Mapping[str, Mapping[str, float]]:
    """Return the memory of each process with its children in MB: resident, and proportional (`pss`) on Linux."""
    memory: dict[str, dict[str, float]] = {}
    for name, pid in system.process_ids().items():
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        memory[name] = {"rss_mb": sum(member.memory_info().rss for member in family) / 1e6}
        if hasattr(process.memory_full_info(), "pss"):
            memory[name]["pss_mb"] = sum(member.memory_full_info().pss for member in family) / 1e6
    return memory


def measure_cpu(system: BenchSystem) -> Mapping[str, float]:
    """Return the seconds of processor time that each process has used so far."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in system.process_ids().items()}
    return {name: used.user + used.system for name, used in times.items()}


def _cpu_since(before: Mapping[str, float], system: BenchSystem) -> Mapping[str, float]:
    return {name: seconds - before.get(name, 0.0) for name, seconds in measure_cpu(system).items()}


async def _warm_up(load: Load, collections: Sequence[str]) -> None:
    """Send mutations that are not measured: the first ones also import, connect and compile templates."""
    for number in range(_WARM_UP_MUTATIONS):
        await load.add_alias(collections[number % len(collections)], f"tag-warm-{number}")
    await load.received(_WARM_UP_MUTATIONS)


def _rate(
    tags: Collection[str], deliveries: Sequence[Delivery], start: float, cpu_seconds: Mapping[str, float]
) -> Rate:
    took = max((delivery.at for delivery in deliveries), default=start) - start
    count = max(1, len(deliveries))
    return Rate(
        per_second=len(deliveries) / took if took else 0.0,
        took_seconds=took,
        audit=audit(tags, deliveries),
        cpu_ms={name: seconds * 1000 / count for name, seconds in cpu_seconds.items()},
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return a percentile of numbers in ascending order."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
