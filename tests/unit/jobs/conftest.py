from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.jobs.supervisor_harness import SupervisorHarness
from upshot.schema.queues import JobsConfig, QueueConfig


@pytest.fixture
async def harness(tmp_path) -> AsyncIterator[SupervisorHarness]:
    """Yield a harness with one queue, whose limits no test reaches, and two secrets."""
    config = JobsConfig(queues={"default": QueueConfig("default", per_machine=50)})
    harness = SupervisorHarness(config, tmp_path, {"HF_TOKEN": "hf-secret", "KEY": "key-secret"})
    yield harness
    await harness.close()


@pytest.fixture
async def limited_harness(tmp_path) -> AsyncIterator[SupervisorHarness]:
    """Yield a harness with one queue, which allows four active jobs over all machines."""
    config = JobsConfig(queues={"default": QueueConfig("default", concurrency=4, per_machine=None)})
    harness = SupervisorHarness(config, tmp_path)
    yield harness
    await harness.close()
