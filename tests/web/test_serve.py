"""The web process as a whole: it says where it listens, and stops when it is told to."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.waiting import until
from upshot.errors import ConfigError
from upshot.net import listen
from upshot.settings import Settings
from upshot.web.serve import serve as run

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import time
from tests.web.conftest import *
configure("warning", "text")
from upshot.actions.catalog import load_catalog
path = Path({folder!r})
stores = memory_stores()
clock = FrozenClock()
slow = lambda: time.sleep(0.5) or True
house = House(
    settings=Settings(host="127.0.0.1", port=0, stop_seconds=5), clock=clock,
    registry=Registry(stores.registry, SilentPublisher(), clock), events=stores.events, executions=stores.executions,
    jobs=stores.job_desk, book=QueueBook(), installation=Installation("ins_1", bytes(32)),
    doorbell=None, automations=AutomationFolder(path, load_catalog(EgressRules.parse(""))), backlog=stores.backlog,
    workers=stores.workers, idempotency=stores.idempotency, database_answers=slow, redis_answers=lambda: True,
)
from upshot.web.serve import serve
serve(house, fds={fds!r}, on_ready=lambda url: print(url, flush=True))
print("closed", flush=True)
"""


@contextmanager
def process(folder: Path, listener: socket.socket | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    fd = listener.fileno() if listener else None
    root = str(Path(__file__).parents[2])
    program = PROGRAM.format(root=root, folder=str(folder), fds=[fd] if fd else [])
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, pass_fds=[fd] if fd else []
    )
    try:
        assert child.stdout
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_finishes_the_request_in_flight_and_returns(tmp_path, number):
    """The request is answered, then `serve` returns to its caller and the process ends well."""
    with process(tmp_path) as (child, url), httpx.Client(base_url=url) as client:
        client.get("/healthz")
        slow = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as r; print(r.urlopen('{url}/readyz').status)"],
            stdout=subprocess.PIPE,
            text=True,
        )
        until(lambda: in_flight(client) > 1)
        child.send_signal(number)

        assert slow.communicate(timeout=20)[0].strip() == "200"
        assert child.stdout is not None
        assert child.stdout.read().strip().endswith("closed")
        assert child.wait(20) == 0


def in_flight(client: httpx.Client) -> int:
    """Connections that the server has, as the kernel tells."""
    port = client.base_url.port
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for row in rows if row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "01")


def test_it_serves_a_socket_that_listens_already(tmp_path):
    """A supervisor keeps the port: connections wait instead of failing while the process is started."""
    with listen("127.0.0.1", 0) as listener:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        with process(tmp_path, listener) as (_, url):
            assert url == f"http://127.0.0.1:{port}"
            assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_a_changed_automation_is_seen(tmp_path):
    """Without a restart."""
    with process(tmp_path) as (_, url), httpx.Client(base_url=url) as client:

        def names() -> list[str]:
            return [item["name"] for item in client.get("/api/v1/automations").json()["items"]]

        assert names() == []
        (tmp_path / "new.yaml").write_text(
            "name: new\non: {custom: {name: x}}\nsteps:\n  - uses: emit\n    with: {name: y}\n"
        )
        until(lambda: names() == ["new"])


def test_an_address_that_is_taken_says_so(house):
    """With what to do about it."""
    with listen("127.0.0.1", 0) as taken:
        settings = Settings(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="choose another"):
            run(replace(house, settings=settings))


def test_it_does_not_serve_other_machines_without_a_token(house):
    """Before it takes the port."""
    with pytest.raises(ConfigError, match="UPSHOT_TOKEN"):
        run(replace(house, settings=Settings(host="0.0.0.0", port=0)))
