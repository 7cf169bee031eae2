"""A long queue at one destination costs the others nothing."""

from upshot.execution.backoff import RETURNS_A_SECOND, SHORTEST_SECONDS, BusyBackoff


def test_a_few_come_back_soon():
    """Within seconds."""
    parking = BusyBackoff(lambda: 0.0)
    waits = [parking.wait_seconds("http://a") for _ in range(20)]
    assert all(0.5 * SHORTEST_SECONDS <= wait <= 1.5 * SHORTEST_SECONDS for wait in waits)


def test_many_come_back_spread():
    """However many wait, only so many a second come back to look."""
    parking = BusyBackoff(lambda: 0.0)
    waits = sorted(parking.wait_seconds("http://a") for _ in range(10_000))
    middle = waits[2_000:8_000]
    assert len(middle) / (middle[-1] - middle[0]) < 4 * RETURNS_A_SECOND


def test_another_destination_is_another_queue():
    """And a queue that has been worked off is forgotten."""
    now = 0.0
    parking = BusyBackoff(lambda: now)
    for _ in range(10_000):
        parking.wait_seconds("http://a")
    assert parking.wait_seconds("http://b") <= 1.5 * SHORTEST_SECONDS
    now = 10_000.0
    assert parking.wait_seconds("http://a") <= 1.5 * SHORTEST_SECONDS
