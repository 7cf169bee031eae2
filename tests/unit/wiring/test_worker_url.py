"""Where a worker downloads the inputs of its jobs, and where it keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from upshot.client.blob_cache import cache_location
from upshot.settings import Settings
from upshot.wiring.parts import worker_url


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        pytest.param({"port": 8123}, "http://127.0.0.1:8123", id="the address of the web process"),
        pytest.param({"public_url": "https://upshot.acme.com/"}, "https://upshot.acme.com", id="the public URL"),
        pytest.param({"jobs_url": "http://172.17.0.1:8080/"}, "http://172.17.0.1:8080", id="the URL for jobs"),
        pytest.param(
            {"jobs_url": "http://host.docker.internal:8080"}, "http://127.0.0.1:8080", id="a name for containers only"
        ),
        pytest.param({"jobs_url": "http://172.17.0.1:8080", "url": "http://web:80"}, "http://web:80", id="its own URL"),
    ],
)
def test_the_url_of_a_worker(settings, url):
    """UPSHOT_URL decides. Otherwise a worker uses what its jobs use, if that works on its machine."""
    assert worker_url(Settings(**settings)) == url


def test_the_place_of_the_cache(monkeypatch):
    """It is below the home of the user, or in the data directory if the user has none, as in some containers."""
    data = Path("/data")
    monkeypatch.setenv("HOME", "/nowhere")
    assert cache_location(None, 2.5, data=data) == (Path("/nowhere/.cache/upshot/artifacts"), 2_500_000_000)
    assert cache_location(Path("/srv/cache"), 0, data=data) == (Path("/srv/cache"), 0)

    def no_home(path: Path) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert cache_location(None, 1, data=data)[0] == Path("/data/cache")
