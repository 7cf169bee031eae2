from __future__ import annotations

import pytest

from upshot.schema.queues import QueueBook, QueueRules


@pytest.fixture
def book() -> QueueBook:
    """One queue, with more places than any test fills."""
    return QueueBook(queues={"default": QueueRules("default", per_machine=50)})


@pytest.fixture
def limited_to_four() -> QueueBook:
    """One queue with four places over all machines."""
    return QueueBook(queues={"default": QueueRules("default", concurrency=4, per_machine=None)})
