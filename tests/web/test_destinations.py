"""Routes of destinations."""

from datetime import timedelta

import pytest

from tests.web.conftest import API
from upshot.ports.destinations import DestinationReport

NAME = "https://hooks.example:443 TOKEN"


@pytest.fixture
def reported(stores, clock):
    """Let a worker report a destination that is down, and return its report."""
    report = DestinationReport(
        NAME,
        is_down=True,
        reason="20 attempts in a row failed",
        in_progress=2,
        limit=20,
        probe_at=clock.now() + timedelta(seconds=5),
    )
    stores.destinations.report("w1", [report], clock.now())
    return report


def test_destinations_are_listed_with_their_state(web, reported):
    """The page says which destinations are down, why, and how much waits."""
    (listed,) = web.get(f"{API}/destinations").json()["items"]
    assert listed == {
        "id": listed["id"],
        "name": NAME,
        "state": "down",
        "reason": "20 attempts in a row failed",
        "in_progress": 2,
        "limit": 20,
        "waiting": 0,
        "probe_at": "2026-01-01T12:00:05.000000Z",
    }
    assert web.get(f"{API}/destinations/{listed['id']}").json() == listed


def test_a_destination_can_be_released(web, reported, stores, clock):
    """The worker learns of it at its next report."""
    (listed,) = web.get(f"{API}/destinations").json()["items"]
    assert web.post(f"{API}/destinations/{listed['id']}/release").status_code == 200
    assert stores.destinations.report("w1", [reported], clock.now()) == (NAME,)


def test_an_unknown_destination_is_not_found(web):
    """The answer says where the destinations are listed."""
    answer = web.post(f"{API}/destinations/dst_none/release")
    assert answer.status_code == 404
    assert "GET /api/v1/destinations lists destinations" in answer.json()["detail"]
