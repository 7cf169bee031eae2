"""The web process as a whole: it reports its address, and stops on a signal."""

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
from upshot.web.serve import serve

PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.web.conftest import *
from upshot.web.serve import serve

configure("warning", "text")
automations = AutomationFolder(Path({automations!r}), load_catalog())
deps = make_deps(
    memory_stores(),
    FrozenClock(),
    automations,
    settings=Settings(host="127.0.0.1", port=0, stop_seconds=5),
    notifier=None,
    ping_database=lambda: time.sleep(0.5) or True,
)
serve(deps, fds={fds!r}, on_ready=lambda url: print(url, flush=True))
print("returned", flush=True)
"""


@contextmanager
def web_process(
    automations: Path, listener: socket.socket | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a web process whose `/readyz` is slow; yield it with its URL."""
    fds = [listener.fileno()] if listener else []
    program = PROGRAM.format(root=str(Path(__file__).parents[2]), automations=str(automations), fds=fds)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, pass_fds=fds)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_finishes_the_request_in_flight(tmp_path, number):
    """The client gets its response, then `serve` returns to its caller and the process ends with exit code 0."""
    with web_process(tmp_path) as (process, url), httpx.Client(base_url=url) as client:
        client.get("/healthz")
        slow = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as r; print(r.urlopen('{url}/readyz').status)"],
            stdout=subprocess.PIPE,
            text=True,
        )
        until(lambda: connections(client) > 1)
        process.send_signal(number)

        assert slow.communicate(timeout=20)[0].strip() == "200"
        assert process.stdout is not None
        assert process.stdout.read().strip().endswith("returned")
        assert process.wait(20) == 0


def connections(client: httpx.Client) -> int:
    """Return the number of connections that the server has, according to the kernel."""
    port = client.base_url.port
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for row in rows if row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "01")


def test_the_process_serves_a_socket_that_listens_already(tmp_path):
    """A supervisor keeps the port, so that connections wait instead of failing while the process starts."""
    with listen("127.0.0.1", 0) as listener:
        listener.set_inheritable(True)
        port = listener.getsockname()[1]
        with web_process(tmp_path, listener) as (_, url):
            assert url == f"http://127.0.0.1:{port}"
            assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_a_changed_automation_file_is_read_again(tmp_path):
    """The process needs no restart."""
    with web_process(tmp_path) as (_, url), httpx.Client(base_url=url) as client:

        def names() -> list[str]:
            return [automation["name"] for automation in client.get("/api/v1/automations").json()["items"]]

        assert names() == []
        (tmp_path / "new.yaml").write_text(
            "name: new\non: {custom: {name: x}}\nsteps:\n  - uses: emit\n    with: {name: y}\n"
        )
        until(lambda: names() == ["new"])


def test_an_address_in_use_is_an_error(deps):
    """The message says what to do."""
    with listen("127.0.0.1", 0) as taken:
        settings = Settings(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match="choose another"):
            serve(replace(deps, settings=settings))


def test_the_process_does_not_serve_other_machines_without_a_token(deps):
    """The settings are refused before the port is opened."""
    with pytest.raises(ConfigError, match="UPSHOT_TOKEN"):
        serve(replace(deps, settings=Settings(host="0.0.0.0", port=0)))
