"""Contract of the store of counters."""

import pytest

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.counters import MemoryCounters
from upshot.adapters.sql.counters import SqlCounters


@pytest.fixture(params=["memory", *KINDS])
def counters(request):
    return MemoryCounters() if request.param == "memory" else SqlCounters(open_database(request.param, request))


def test_a_counter_is_the_sum_of_its_increments(counters):
    """A counter that was never incremented is missing."""
    assert counters.read() == {}
    counters.increment("a", 2)
    counters.increment("a", 3)
    counters.increment("b", 1)
    assert counters.read() == {"a": 5, "b": 1}
