"""What the live suite shares: a system of real processes on SQLite and on PostgreSQL, and a receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Redis
from tests.system import System
from upshot.receivers import Receivers, ReceiversThread


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts real processes."""
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """A receiver of webhooks, whose behaviour the test decides."""
    with ReceiversThread() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Each test runs on both databases."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres").new_database()
    return url


@pytest.fixture
def make_system(tmp_path: Path, redis_server: Redis) -> Iterator[Callable[..., System]]:
    """Makes a system; its processes end with the test."""
    with ExitStack() as stack:

        def make(**how: Any) -> System:
            return stack.enter_context(System(tmp_path / "system", redis_server, **how))

        yield make
