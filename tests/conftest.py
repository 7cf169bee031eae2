"""
Configuration for all test suites: Hypothesis' profiles, and the rule that no test is skipped in CI.

A test that needs something that a machine may lack, such as PostgreSQL, is skipped with the command that
makes it run. In CI everything is installed, so such a skip is a failure.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.strict_s3 import StrictS3, strict_s3
from tests.servers import Postgres, Redis, find_postgres

IN_CI = bool(os.environ.get("CI"))
#: Beginnings of skip reasons, each with a comment why a CI machine may not have what the test needs.
SKIPS_ALLOWED_IN_CI = (
    "this machine has no cgroups v2 with the controllers",  # the kernel of the CI machine decides
)

# A random example must not fail only because the machine is slow.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if IN_CI else "default")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT for what it starts in the background, and child processes inherit that. Tests that press
    # Ctrl-C in a child need the default action.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in [name for name in os.environ if name.startswith("UPSHOT_")]:
    del os.environ[_name]  # tests must not depend on the developer's own settings


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, turn a skipped test into a failed one."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(SKIPS_ALLOWED_IN_CI):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where no test may be skipped: {reason}"
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Return the event loop that coroutine tests run on."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL server; `postgres.new_database()` returns the URL of an empty database."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql, and run again")
    # Not in pytest's temporary directory: every session makes that one unreadable for other accounts.
    with TemporaryDirectory(prefix="upshot-postgres-") as folder, Postgres(programs, Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[StrictS3]:
    """Start an S3 server that checks signatures."""
    with strict_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server: StrictS3) -> StrictS3:
    """Return the S3 server, which has refused nothing yet."""
    s3_server.refusals.clear()
    s3_server.requests.clear()
    s3_server.skew = timedelta()
    return s3_server


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Start a Redis-protocol server for this test alone, which it may kill, flush and restart."""
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
