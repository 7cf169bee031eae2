from __future__ import annotations

import pytest

from upshot.schema.queues import JobsConfig, QueueConfig


@pytest.fixture
def book() -> JobsConfig:
    """One queue, with more places than any test fills."""
    return JobsConfig(queues={"default": QueueConfig("default", per_machine=50)})


@pytest.fixture
def limited_to_four() -> JobsConfig:
    """One queue with four places over all machines."""
    return JobsConfig(queues={"default": QueueConfig("default", concurrency=4, per_machine=None)})
