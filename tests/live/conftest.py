"""Fixtures of the live suite: a system of real processes on SQLite and on PostgreSQL, and fake receivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Programs
from tests.servers import Redis
from tests.system import System
from upshot.receivers import Receivers, ReceiversThread


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory as live, because it starts real processes."""
    directory = Path(__file__).parent
    for item in items:
        if directory in Path(item.path).parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """Run fake receivers, whose behaviour the test decides."""
    with ReceiversThread() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Return the URL of an empty database, or None for SQLite. Each test runs on both databases."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres").new_database()
    return url


@pytest.fixture
def make_system(tmp_path: Path, redis_server: Redis) -> Iterator[Callable[..., System]]:
    """Return a function that creates a system. Its processes are stopped after the test."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> System:
            return stack.enter_context(System(tmp_path / "system", redis_server, **arguments))

        yield make


@pytest.fixture
def run_script(make_system: Callable[..., System], database_url: str | None, tmp_path: Path) -> Programs:
    """Start a server, and return a function that runs a program in an empty directory."""
    system = make_system(database_url=database_url, automations={})
    system.start_web()
    folder = tmp_path / "program"
    folder.mkdir()
    return Programs(system, folder)
