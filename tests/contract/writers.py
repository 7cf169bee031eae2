"""
A process that writes to a registry from several threads at once: `python -m tests.contract.writers URL NAME`.

Each thread logs artifact versions and links each with the alias `production` into one collection. It also tags
and describes one shared artifact version through its own link.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import SystemClock
from upshot.domain.event import Actor, Origin
from upshot.registry.service import Registry

THREADS = 4
ROUNDS = 6


def open_registry(url: str) -> Registry:
    """Open a registry on the database."""
    return Registry(SqlRegistry(Database(url)), MemoryStream(), SystemClock())


def write(registry: Registry, name: str) -> None:
    """Write to the registry, as one of the threads."""
    origin = Origin(Actor(name))
    shared = registry.link("model", f"view-{name}", "shared/net:v0", origin=origin)
    assert shared.value.name == "v0"
    for number in range(ROUNDS):
        unique = f"{name}-{number}"
        logged = registry.log_artifact("shared", "candidates", "model", digest=unique, origin=origin).value
        registry.link("model", "churn", logged.reference, aliases=["production"], origin=origin)
        registry.add_alias("model", "churn", "champion", "latest", origin=origin)
        registry.add_tag("model", f"view-{name}", unique, "v0", origin=origin)
        registry.update_version("model", f"view-{name}", "v0", metadata={unique: number}, origin=origin)


if __name__ == "__main__":
    registry = open_registry(sys.argv[1])
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda thread: write(registry, f"{sys.argv[2]}{thread}"), range(THREADS)))
