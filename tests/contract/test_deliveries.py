"""Contract of the counts of attempts."""

import pytest

from tests.contract.databases import KINDS, open_database
from upshot.adapters.memory.deliveries import MemoryDeliveries
from upshot.adapters.sql.deliveries import SqlDeliveries
from upshot.ports.deliveries import BUCKETS_SECONDS, DeliveryCount, DeliveryKey

BUCKETS = tuple(range(len(BUCKETS_SECONDS)))
OK = DeliveryKey("webhook", "https://a.example TOKEN", "succeeded")
REFUSED = DeliveryKey("webhook", "https://a.example TOKEN", "refused")
NOWHERE = DeliveryKey("require", "", "succeeded")


@pytest.fixture(params=["memory", *KINDS])
def deliveries(request):
    return MemoryDeliveries() if request.param == "memory" else SqlDeliveries(open_database(request.param, request))


def test_many_counts_are_added_at_once(deliveries):
    """More keys than one statement takes, some of which are stored already."""
    keys = [DeliveryKey("webhook", f"https://{number}.example", "succeeded") for number in range(1_100)]
    deliveries.add({key: DeliveryCount(1, 0.5) for key in keys[:700]})
    deliveries.add({key: DeliveryCount(1, 0.5) for key in keys})

    counts = deliveries.read()
    assert len(counts) == len(keys)
    assert sum(count.attempts for count in counts.values()) == 1_800


def test_counts_are_sums(deliveries):
    """Each combination of action, destination and result has a count of its own."""
    assert deliveries.read() == {}
    deliveries.add({OK: DeliveryCount(2, 1.5, BUCKETS), NOWHERE: DeliveryCount(1, 0.0)})
    deliveries.add({OK: DeliveryCount(1, 0.25, BUCKETS), REFUSED: DeliveryCount(5_000_000_000, 2.5)})
    deliveries.add({})

    assert deliveries.read() == {
        OK: DeliveryCount(3, 1.75, tuple(2 * index for index in BUCKETS)),
        NOWHERE: DeliveryCount(1, 0.0),
        REFUSED: DeliveryCount(5_000_000_000, 2.5),
    }
