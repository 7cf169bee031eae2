"""
A process that writes to a registry from several threads at once: `python -m tests.contract.writers URL NAME`.

Each of its threads logs artifact versions, links each with the alias `production` into one
collection, and tags and describes one shared artifact version through a link of its own.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from upshot.adapters.memory.stream import MemoryStream
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.registry import SqlRegistry
from upshot.clock import SystemClock
from upshot.domain.event import Actor
from upshot.registry.service import Registry

THREADS = 4
ROUNDS = 6


def open_registry(url: str) -> Registry:
    """A registry on the database."""
    return Registry(SqlRegistry(Database(url)), MemoryStream(), SystemClock())


def write(registry: Registry, name: str) -> None:
    """What one thread does."""
    me = Actor(name)
    shared = registry.link("model", f"view-{name}", "shared/net:v0", actor=me)
    assert shared.value.name == "v0"
    for number in range(ROUNDS):
        mine = f"{name}-{number}"
        logged = registry.log_artifact("shared", "candidates", "model", digest=mine, actor=me).value
        registry.link("model", "churn", logged.reference, aliases=["production"], actor=me)
        registry.add_alias("model", "churn", "champion", "latest", actor=me)
        registry.add_tag("model", f"view-{name}", mine, "v0", actor=me)
        registry.update_version("model", f"view-{name}", "v0", metadata={mine: number}, actor=me)


if __name__ == "__main__":
    of_this_process = open_registry(sys.argv[1])
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda thread: write(of_this_process, f"{sys.argv[2]}{thread}"), range(THREADS)))
