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
