"""
What all suites share: Hypothesis' profiles, and the rule that nothing is skipped in CI.

A test that needs something which a machine may lack (PostgreSQL) skips itself and says how to
make it run; in CI, where everything is installed, such a skip is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import Postgres, Redis, find_postgres

IN_CI = bool(os.environ.get("CI"))
MAY_BE_SKIPPED_IN_CI = ()  #: beginnings of reasons; each with why no CI machine can have it

# Examples that are found by chance must not fail on a machine that is merely slow.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if IN_CI else "default")

for _name in [name for name in os.environ if name.startswith("UPSHOT_")]:
    del os.environ[_name]  # a person's own settings are no part of a test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, fail what was skipped for want of something that CI must have."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(MAY_BE_SKIPPED_IN_CI):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where nothing may be skipped: {reason}"
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Return the event loop that coroutine tests run on."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of our own; `postgres.new_database()` gives the URL of a fresh database."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql, and run again")
    # Not in pytest's own temporary folder: every session closes that one to other accounts again.
    with TemporaryDirectory(prefix="upshot-postgres-") as folder, Postgres(programs, Path(folder)) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis-protocol server of the test's own, which it may kill, flush and start again."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
