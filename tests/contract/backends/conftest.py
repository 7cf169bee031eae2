"""
Holds every backend to the same contract.

A test says what it needs, `@pytest.mark.needs(Can.MEMORY)`, and runs on each backend that can do
it; a backend says what it lacks, and why, in its own file here (see `Provider`). Tests are
coroutines, on the loop that workers have.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from tests.contract.backends.harness import Bench, Ground, Provider
from tests.contract.backends.providers import PROVIDERS


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known."""
    config.addinivalue_line("markers", "needs(*can): runs on every backend that can do this")
    config.addinivalue_line("markers", "only(*names): runs on these backends, whose own matter it is")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every backend."""
    if "ground" in metafunc.fixturenames:
        names = [provider.name for provider in PROVIDERS]
        metafunc.parametrize("ground", PROVIDERS, ids=names, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a backend says that it cannot do, and what is another one's own matter."""
    out = [item for item in items if isinstance(item, pytest.Function) and not _is_meant(item)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]


def _is_meant(item: pytest.Function) -> bool:
    if not hasattr(item, "callspec") or "ground" not in item.callspec.params:
        return True
    provider: Provider = item.callspec.params["ground"]  # type: ignore[assignment]  # as parametrized above
    only = _marked(item, "only")
    return not _marked(item, "needs") & provider.lacks.keys() and (not only or provider.name in only)


def _marked(item: pytest.Item, name: str) -> set[Any]:
    return {argument for mark in item.iter_markers(name) for argument in mark.args}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, its bench opened before and closed after it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_play(pyfuncitem.obj, arguments))
    return True


async def _play(test: Any, arguments: dict[str, Any]) -> None:
    bench = arguments.get("bench")
    if bench is None:
        await test(**arguments)
        return
    async with bench:
        await test(**arguments)


@pytest.fixture(scope="session")
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """The engine of one backend."""
    provider: Provider = request.param
    with provider.ready() as ready:
        yield ready


@pytest.fixture
def bench(ground: Ground) -> Bench:
    """A backend on that engine, with an installation of the test's own."""
    return Bench(ground)
