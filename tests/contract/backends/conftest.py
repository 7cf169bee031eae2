"""
Run the contract suite on every backend.

A test names the capabilities that it needs, as in `@pytest.mark.needs(Capability.MEMORY)`, and runs on each backend
that has them. A backend declares in its own file here what it lacks, and why (see `Provider`). The tests run on the
event loop that workers use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.contract.backends.harness import BackendHarness, EngineUnderTest, Provider
from tests.contract.backends.providers import PROVIDERS


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    config.addinivalue_line("markers", "needs(*capabilities): run on every backend that has these capabilities")
    config.addinivalue_line("markers", "only(*names): run on these backends only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every backend."""
    if "engine" in metafunc.fixturenames:
        names = [provider.name for provider in PROVIDERS]
        metafunc.parametrize("engine", PROVIDERS, ids=names, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests for which a backend lacks a capability, and those for other backends only."""
    deselected = {item for item in items if isinstance(item, pytest.Function) and not _is_selected(item)}
    if deselected:
        config.hook.pytest_deselected(items=list(deselected))
        items[:] = [item for item in items if item not in deselected]


def _is_selected(item: pytest.Function) -> bool:
    if not hasattr(item, "callspec") or "engine" not in item.callspec.params:
        return True
    provider: Provider = item.callspec.params["engine"]  # type: ignore[assignment]  # by pytest_generate_tests
    only = _mark_arguments(item, "only")
    return not _mark_arguments(item, "needs") & provider.lacks.keys() and (not only or provider.name in only)


def _mark_arguments(item: pytest.Item, name: str) -> set[Any]:
    return {argument for mark in item.iter_markers(name) for argument in mark.args}


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Return the event loop of workers."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[EngineUnderTest]:
    """Yield the engine of one backend."""
    provider: Provider = request.param
    with provider.provide_engine() as engine:
        yield engine


@pytest.fixture
async def harness(engine: EngineUnderTest) -> AsyncIterator[BackendHarness]:
    """Yield a backend on the engine, with its own installation."""
    async with BackendHarness(engine) as harness:
        yield harness
