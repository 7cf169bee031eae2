"""A long queue for one destination does not slow down the others."""

from upshot.execution.backoff import MIN_WAIT_SECONDS, RETRIES_PER_SECOND, BusyBackoff


def test_a_short_queue_is_retried_soon():
    """Each retry follows within a few seconds."""
    backoff = BusyBackoff(lambda: 0.0)
    waits = [backoff.wait_seconds("http://a") for _ in range(20)]
    assert all(0.5 * MIN_WAIT_SECONDS <= wait <= 1.5 * MIN_WAIT_SECONDS for wait in waits)


def test_the_retries_of_a_long_queue_are_spread():
    """The number of retries per second is limited, however long the queue is."""
    backoff = BusyBackoff(lambda: 0.0)
    waits = sorted(backoff.wait_seconds("http://a") for _ in range(10_000))
    middle = waits[2_000:8_000]
    assert len(middle) / (middle[-1] - middle[0]) < 4 * RETRIES_PER_SECOND


def test_every_destination_has_its_own_queue():
    """A long queue does not delay another destination, and a queue without planned retries is forgotten."""
    now = 0.0
    backoff = BusyBackoff(lambda: now)
    for _ in range(10_000):
        backoff.wait_seconds("http://a")
    assert backoff.wait_seconds("http://b") <= 1.5 * MIN_WAIT_SECONDS
    now = 10_000.0
    assert backoff.wait_seconds("http://a") <= 1.5 * MIN_WAIT_SECONDS
