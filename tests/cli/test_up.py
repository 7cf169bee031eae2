"""`upshot up` with everything real: it starts, heals, stops, and starts again where it stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
import redis

from tests.cli.embedded import AUTOMATION, Up, is_gone
from tests.waiting import until

pytestmark = pytest.mark.live


def upshot(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upshot", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


def test_it_starts_says_where_and_stops_cleanly(tmp_path):
    """One command runs everything; endpoint.json is private, complete, and gone after Ctrl-C, as are all processes."""
    with Up(tmp_path) as up:
        endpoint = up.endpoint
        assert set(endpoint) == {"url", "token", "redis_url", "database_url", "processes"}
        assert set(endpoint["processes"]) == {"web", "worker", "redis"}
        assert up.endpoint_mode == 0o600
        event = up.emit("hello")
        assert until(lambda: up.matched(event))
        assert redis.Redis.from_url(endpoint["redis_url"]).ping()
        parts = up.parts()

        assert up.interrupt() == 0

        assert not (up.data / "endpoint.json").exists()
        assert not (up.data / "worker-id").exists()  # nobody has to succeed a worker that stopped cleanly
        assert all(is_gone(part) for part in parts)
        assert endpoint["url"] in up.output
        assert endpoint["token"] not in up.output


def test_it_says_what_is_loaded_and_what_is_broken(tmp_path):
    """Who starts it sees at once which automations are in force, and file and line of every mistake."""
    up = Up(tmp_path)
    (up.automations / "good.yaml").write_text(AUTOMATION.format(name="answer-pings", url="https://example.com"))
    (up.automations / "bad.yaml").write_text("name: bad\non: no-such-kind\nsteps: []\n")
    with up:
        until(lambda: "Ctrl-C stops it" in up.output)
        assert "answer-pings" in up.output
        assert f"broken: {up.automations}/bad.yaml:2: " in up.output


def test_a_second_one_on_the_same_data_is_refused(tmp_path):
    """The second is told who runs, in one line, and disturbs nothing."""
    with Up(tmp_path) as up:
        second = upshot("up", "--port", "0", "--data", str(up.data))

        assert second.returncode == 1
        assert f"process {up.process.pid}, {up.endpoint['url']}" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        event = up.emit("still-here")
        assert until(lambda: up.matched(event))


def test_a_port_in_use_is_named_with_the_remedy(tmp_path):
    """A port that somebody else has is not silently replaced by another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = upshot("up", "--port", str(port), "--data", str(tmp_path / "data"))

    assert refused.returncode == 1
    assert f"port {port}" in refused.stderr
    assert "--port 0" in refused.stderr
    assert not (tmp_path / "data" / "endpoint.json").exists()


@pytest.mark.parametrize("part", ["web", "worker", "redis"])
def test_a_killed_part_comes_back_at_the_same_address(tmp_path, part):
    """After `kill -9` of any part everything works again, by itself and under the same URLs."""
    with Up(tmp_path) as up:
        before = up.endpoint
        os.kill(up.pid(part), signal.SIGKILL)
        until(lambda: up.pid(part) != before["processes"][part])

        event = up.emit("after-the-kill")

        assert until(lambda: up.matched(event))
        after = up.endpoint
        assert {key: after[key] for key in after if key != "processes"} == {
            key: before[key] for key in before if key != "processes"
        }
        assert up.endpoint_mode == 0o600


def test_the_new_worker_succeeds_the_dead_one(tmp_path):
    """A worker that replaces a killed one is told whose leases it may take at once."""
    with Up(tmp_path) as up:
        dead = (up.data / "worker-id").read_text().strip()
        os.kill(up.pid("worker"), signal.SIGKILL)
        assert until(lambda: f"predecessor={dead}" in up.output)


def test_a_killed_supervisor_leaves_nothing_behind(tmp_path):
    """After `kill -9` of `upshot up` its parts end too, and it starts again on the same data with what was accepted."""
    with Up(tmp_path) as up:
        event = up.emit("before")
        parts = up.parts()
        up.process.kill()
        up.process.wait()

        up.start()  # at once: it waits for what the dead one left

        assert all(is_gone(part) for part in parts)
        assert until(lambda: up.matched(event))
        assert up.interrupt() == 0


def test_it_starts_again_where_it_stopped(tmp_path):
    """What was accepted before a stop is there after the next start, under the same token."""
    with Up(tmp_path) as up:
        event, token = up.emit("before"), up.endpoint["token"]
        assert up.interrupt() == 0
        up.start()
        assert up.endpoint["token"] == token
        assert until(lambda: up.matched(event))


def test_a_redis_of_the_users_own_is_used(tmp_path):
    """With UPSHOT_REDIS_URL no Redis is started, and the user's is not stopped."""
    (tmp_path / "other").mkdir()
    with Up(tmp_path / "other") as other, Up(tmp_path, UPSHOT_REDIS_URL=other.endpoint["redis_url"]) as up:
        assert set(up.endpoint["processes"]) == {"web", "worker"}
        assert up.endpoint["redis_url"] == other.endpoint["redis_url"]
        up.interrupt()
        assert redis.Redis.from_url(other.endpoint["redis_url"]).ping()


def test_what_cannot_start_is_given_up_with_its_own_words(tmp_path):
    """A database that does not exist ends `up` with the reason, not in a loop."""
    failed = upshot(
        *("up", "--port", "0", "--data", str(tmp_path / "data")), UPSHOT_DATABASE_URL="mysql://nobody@localhost/nothing"
    )

    assert failed.returncode == 1
    assert "UPSHOT_DATABASE_URL: mysql" in failed.stdout + failed.stderr
    assert not (tmp_path / "data" / "endpoint.json").exists()


def test_a_second_worker_joins_in(tmp_path):
    """`upshot worker` beside a running `up` finds its Redis and database, and shares the work."""
    with Up(tmp_path) as up:
        worker = subprocess.Popen(
            [sys.executable, "-m", "upshot", "worker", "--data", str(up.data)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with up.api() as api:
                pids = until(
                    lambda: len(pids := {one["pid"] for one in api.get("/workers").json()["items"]}) == 2 and pids
                )
            assert pids == {up.pid("worker"), worker.pid}
        finally:
            worker.terminate()
            assert worker.wait(30) == 0
