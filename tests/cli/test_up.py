"""`upshot up` with real processes: it starts, recovers, stops, and continues after the next start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest
import redis

from tests.cli.embedded import AUTOMATION, Up, is_gone
from tests.system import forward_automation
from tests.waiting import until
from upshot.receivers import ReceiversThread

pytestmark = pytest.mark.live


def upshot(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upshot", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_it_starts_and_stops_cleanly(tmp_path):
    """
    One command runs everything, and prints a link that opens the pages.

    After Ctrl-C, the private endpoint.json and all processes are gone.
    """
    with Up(tmp_path) as up:
        endpoint = up.endpoint
        assert set(endpoint) == {"url", "token", "redis_url", "database_url", "processes"}
        assert set(endpoint["processes"]) == {"web", "worker", "redis"}
        assert up.endpoint_mode == 0o600
        event_id = up.emit("hello")
        assert until(lambda: up.is_matched(event_id))
        assert redis.Redis.from_url(endpoint["redis_url"]).ping()
        (link,) = until(lambda: re.findall(r"http://\S+/sign-in\?code=\S+", up.output))
        with httpx.Client(follow_redirects=True, trust_env=False) as browser:
            assert "Sign out" in browser.get(link).text
        children = up.children()
        # Other users of the machine can read nothing, whichever process has created it.
        assert [path for path in (up.data, *up.data.rglob("*")) if path.stat().st_mode & 0o077] == []

        assert up.interrupt() == 0

        assert not (up.data / "endpoint.json").exists()
        assert not (up.data / "worker-id").exists()  # a worker that stopped cleanly has left no leases to take
        assert all(is_gone(child) for child in children)
        assert endpoint["url"] in up.output
        assert endpoint["token"] not in up.output


def test_a_directory_with_an_odd_name_works(tmp_path):
    """Neither the server of Redis nor a URL takes a part of the name for something else."""
    directory = tmp_path / "job[2] feature%2Fx"
    directory.mkdir()
    with Up(directory) as up:
        event_id = up.emit("hello")
        assert until(lambda: up.is_matched(event_id))
        assert (up.data / "upshot.db").stat().st_size > 0
        assert up.interrupt() == 0


def test_without_automations_it_offers_init(tmp_path):
    """Without a directory of automations, it starts and says what to run. `init` says that it must be restarted."""
    up = Up(tmp_path)
    up.automations.rmdir()
    with up:
        until(lambda: "Press Ctrl-C to stop." in up.output)
        assert f"none: the directory {up.automations} does not exist" in up.output
        assert "run `upshot init`" in up.output

        initialized = upshot("init", "--data", str(up.data), "--automations", str(up.automations))

        assert initialized.returncode == 0, initialized.stderr
        assert f"restart the Upshot at {up.endpoint['url']}" in initialized.stdout
        assert up.interrupt() == 0
        up.start()
        until(lambda: f"tell-my-service  {up.automations}/first.yaml" in up.output)


def test_it_lists_automations_and_broken_files(tmp_path):
    """The output names the loaded automations, and file and line of every mistake."""
    up = Up(tmp_path)
    (up.automations / "good.yaml").write_text(AUTOMATION.format(name="answer-pings", url="https://example.com"))
    (up.automations / "bad.yaml").write_text("name: bad\non: no-such-kind\nsteps: []\n")
    with up:
        until(lambda: "Press Ctrl-C to stop." in up.output)
        assert "answer-pings" in up.output
        assert f"broken: {up.automations}/bad.yaml:2: " in up.output


def test_a_second_one_on_the_same_data_directory_is_refused(tmp_path):
    """The error names the first one in one line, and the first one continues to work."""
    with Up(tmp_path) as up:
        second = upshot("up", "--port", "0", "--data", str(up.data))

        assert second.returncode == 1
        assert f"process {up.process.pid}, {up.endpoint['url']}" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        event_id = up.emit("still-here")
        assert until(lambda: up.is_matched(event_id))


def test_a_port_in_use_is_an_error(tmp_path):
    """The error names the remedy. Upshot does not silently take another port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = upshot("up", "--port", str(port), "--data", str(tmp_path / "data"))

    assert refused.returncode == 1
    assert f"port {port}" in refused.stderr
    assert "--port 0" in refused.stderr
    assert not (tmp_path / "data" / "endpoint.json").exists()


@pytest.mark.parametrize("name", ["web", "worker", "redis"])
def test_a_killed_process_comes_back_at_the_same_address(tmp_path, name):
    """After `kill -9` of any child process, everything works again under the same URLs without help."""
    with Up(tmp_path) as up:
        before = up.endpoint
        os.kill(up.pid(name), signal.SIGKILL)
        until(lambda: up.pid(name) != before["processes"][name])

        event_id = up.emit("after-the-kill")

        assert until(lambda: up.is_matched(event_id))
        after = up.endpoint
        assert {key: after[key] for key in after if key != "processes"} == {
            key: before[key] for key in before if key != "processes"
        }
        assert up.endpoint_mode == 0o600


def test_a_new_worker_takes_over_from_a_dead_one(tmp_path):
    """A worker that replaces a killed one gets its id, and takes its leases at once."""
    with Up(tmp_path) as up:
        dead_worker_id = (up.data / "worker-id").read_text().strip()
        os.kill(up.pid("worker"), signal.SIGKILL)
        assert until(lambda: f"predecessor_id={dead_worker_id}" in up.output)


def test_a_worker_that_hangs_is_replaced(tmp_path):
    """A worker that is alive and does nothing is killed, and a new one answers events."""
    with Up(tmp_path) as up:
        worker = up.pid("worker")
        os.kill(worker, signal.SIGSTOP)

        assert until(lambda: up.pid("worker") != worker, seconds=60)

        assert "killing worker: it has not responded for 30 s" in up.output
        event_id = up.emit("after-the-hang")
        assert until(lambda: up.is_matched(event_id))


@contextmanager
def no_room_for_files(up: Up) -> Iterator[None]:
    """Let every write to a file fail, for all processes but Redis. This needs no privilege and no file system."""
    resource = pytest.importorskip("resource")
    if not hasattr(psutil.Process, "rlimit"):
        pytest.skip("only Linux can limit the files of a running process")
    processes = [psutil.Process(pid) for pid in (up.process.pid, up.pid("web"), up.pid("worker"))]
    before = {process: process.rlimit(resource.RLIMIT_FSIZE) for process in processes}
    for process, (_, hard) in before.items():
        process.rlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for process, limits in before.items():
            process.rlimit(resource.RLIMIT_FSIZE, limits)


def test_it_continues_when_no_file_can_be_written(tmp_path):
    """While the disk is full, mutations get 503 with Retry-After. Then all is recorded, and nothing is sent twice."""
    with ReceiversThread() as receivers:
        up = Up(tmp_path, UPSHOT_EGRESS_ALLOW="127.0.0.0/8", UPSHOT_LEASE_SECONDS="3")
        (up.automations / "forward.yaml").write_text(forward_automation(receivers.url))
        with up, up.api() as api:
            pids = up.endpoint["processes"]
            receivers.delay(1.0, path="/hook")

            def emit(number: int) -> int:
                response = api.post("/events", json={"name": "made", "data": {"number": number}})
                assert response.status_code in {201, 503}
                assert response.status_code == 201 or int(response.headers["retry-after"]) >= 1
                return response.status_code

            assert {emit(number) for number in range(20)} == {201}
            until(lambda: len(receivers.requests) > 5, "deliveries are in progress")
            with no_room_for_files(up):
                assert [emit(number) for number in range(100, 105)] == [503] * 5
                assert api.get("/events").status_code == 200

            until(lambda: emit(999) == 201, "mutations are accepted again")
            until(lambda: len(api.get("/executions?state=succeeded").json()["items"]) == 21, "everything succeeded")
            sent = Counter(json.loads(request.body)["number"] for request in receivers.received("/hook"))
            assert sent == dict.fromkeys([*range(20), 999], 1)
            assert up.endpoint["processes"] == pids  # no process has ended
            assert up.interrupt() == 0


def test_a_killed_supervisor_leaves_nothing_running(tmp_path):
    """`kill -9` of `upshot up` also ends its child processes. The next start continues with the accepted events."""
    with Up(tmp_path) as up:
        event_id = up.emit("before")
        children = up.children()
        up.process.kill()
        up.process.wait()

        up.start()  # it waits until the processes of the killed one have ended

        assert all(is_gone(child) for child in children)
        assert until(lambda: up.is_matched(event_id))
        assert up.interrupt() == 0


def test_it_continues_after_a_stop(tmp_path):
    """Events that were accepted before a stop are there after the next start, and the token is the same."""
    with Up(tmp_path) as up:
        event_id, token = up.emit("before"), up.endpoint["token"]
        assert up.interrupt() == 0
        up.start()
        assert up.endpoint["token"] == token
        assert until(lambda: up.is_matched(event_id))


def test_a_users_own_redis_is_used(tmp_path):
    """With UPSHOT_REDIS_URL, no Redis is started, and the user's Redis is not stopped."""
    (tmp_path / "other").mkdir()
    with Up(tmp_path / "other") as other, Up(tmp_path, UPSHOT_REDIS_URL=other.endpoint["redis_url"]) as up:
        assert set(up.endpoint["processes"]) == {"web", "worker"}
        assert up.endpoint["redis_url"] == other.endpoint["redis_url"]
        up.interrupt()
        assert redis.Redis.from_url(other.endpoint["redis_url"]).ping()


def test_a_process_that_cannot_start_ends_the_command(tmp_path):
    """With an unsupported database URL, `up` fails with the reason instead of retrying endlessly."""
    failed = upshot(
        "up", "--port", "0", "--data", str(tmp_path / "data"), UPSHOT_DATABASE_URL="mysql://nobody@localhost/nothing"
    )

    assert failed.returncode == 1
    assert "UPSHOT_DATABASE_URL: mysql" in failed.stdout + failed.stderr
    assert not (tmp_path / "data" / "endpoint.json").exists()


def test_a_second_worker_shares_the_work(tmp_path):
    """`upshot worker` beside a running `up` finds its Redis and database through the data directory."""
    with Up(tmp_path) as up:
        worker = subprocess.Popen(
            [sys.executable, "-m", "upshot", "worker", "--data", str(up.data)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with up.api() as api:
                expected = {up.pid("worker"), worker.pid}
                until(lambda: {item["pid"] for item in api.get("/workers").json()["items"]} == expected)
        finally:
            worker.terminate()
            assert worker.wait(30) == 0
