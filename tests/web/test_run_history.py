"""What runs log over REST: metrics with their exact values, sessions, stops and files."""

import hashlib
import math
import struct
from typing import Any

import pytest

from tests.web.conftest import API, ok_json, problem

RUNS = f"{API}/projects/demo/runs"
RUN = f"{RUNS}/ab12cd34"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


class Client:
    """A process of the run."""

    def __init__(self, web, session="s1", **values):
        self.web, self.session, self.sequence = web, session, 0
        self.run = ok_json(web.put(RUN, json={"session": session, **values}))

    def send(self, *rows, **more):
        body = {"session": self.session, "sequence": self.sequence, "rows": list(rows), **more}
        return self.web.post(f"{RUN}/log", json=body)

    def log(self, *rows, **more):
        answer = ok_json(self.send(*rows, **more))
        self.sequence = answer["next_sequence"]
        return answer


def row(step, **values):
    return {"step": step, "time": 1_700_000_000 + step / 4, "values": values}


@pytest.fixture
def client(web):
    return Client(web)


def series(web, key, **query):
    return ok_json(web.get(f"{RUN}/series", params={"key": key, **query}))


def history(web, **query):
    return ok_json(web.get(f"{RUN}/history", params=query))


def pack(deps):
    """Pack everything that has been logged."""
    return sum(deps.registry.pack_run(run) for run in deps.registry.runs_to_pack(limit=100))


HARD = [-0.0, 0.1, 5e-324, -2.2250738585072011e-308, 1.7976931348623157e308, 1 / 3, "NaN", "Infinity", "-Infinity", 3]


@pytest.mark.parametrize("is_packed", [False, True])
def test_values_come_back_bit_by_bit(web, deps, clock, client, is_packed):
    """NaN, the infinities, -0.0 and subnormal numbers too, before and after they are packed."""
    client.log(*(row(step, loss=value) for step, value in enumerate(HARD)))
    if is_packed:
        ok_json(web.post(f"{RUN}/finish", json={}))
        clock.advance(10)
        assert pack(deps) == 1
    found = series(web, "loss")
    assert found["steps"] == list(range(len(HARD)))
    assert found["times"] == [1_700_000_000 + step / 4 for step in range(len(HARD))]
    assert list(map(bits, found["values"])) == list(map(bits, HARD))
    assert list(map(bits, series(web, "loss", points=2_000)["values"])) == list(map(bits, HARD))


def bits(value):
    return value if isinstance(value, str) else struct.pack(">d", value)


@pytest.mark.parametrize("is_packed", [False, True])
def test_other_values_are_kept_in_the_history(web, deps, clock, client, is_packed):
    """Texts, lists, objects, booleans, null and large integers come back in rows, and integers stay integers."""
    image = {"_type": "image", "path": "media/a.png"}
    client.log(row(0, loss=1, note="x", big=2**60), row(1, loss=2, done=True, note=None), row(2, media=image, note=[1]))
    if is_packed:
        ok_json(web.post(f"{RUN}/finish", json={}))
        clock.advance(10)
        pack(deps)
    rows = history(web)["items"]
    assert [{key: value for key, value in each.items() if key != "_timestamp"} for each in rows] == [
        {"_step": 0, "big": 2**60, "loss": 1, "note": "x"},
        {"_step": 1, "done": True, "loss": 2, "note": None},
        {"_step": 2, "media": image, "note": [1]},
    ]
    assert isinstance(rows[0]["loss"], int)
    assert rows[2]["_timestamp"] == 1_700_000_000.5
    assert [each["_step"] for each in history(web, keys="loss,note")["items"]] == [0, 1]
    metrics = {metric["key"]: metric for metric in ok_json(web.get(f"{RUN}/metrics"))["items"]}
    assert metrics["loss"] == {
        "key": "loss",
        "count": 2,
        "nan_count": 0,
        "min": 1,
        "max": 2,
        "last": 2,
        "first_step": 0,
        "last_step": 1,
    }
    assert (metrics["note"]["count"], metrics["note"]["min"], metrics["note"]["last"]) == (3, None, [1])


def test_a_repeated_request_changes_nothing_and_a_gap_is_refused(web, client):
    """The answer to a gap names the request that is expected."""
    client.log(row(0, loss=1.0))
    body = {"session": "s1", "sequence": 0, "rows": [row(0, loss=9.0)]}
    assert ok_json(web.post(f"{RUN}/log", json=body)) == {"next_sequence": 1, "stop": False, "dropped": 0}
    gap = problem(web.post(f"{RUN}/log", json={**body, "sequence": 3}), 409, "out-of-sequence")
    assert gap["next_sequence"] == 1
    assert series(web, "loss")["values"] == [1.0]


def test_summary_and_config_are_merged(web, client):
    """Keys that are not sent stay."""
    client.log(row(0, loss=1.0), summary={"loss": 1.0}, config={"lr": 0.1})
    client.log(summary={"acc": 0.5}, config={"depth": 3})
    run = ok_json(web.get(RUN))
    assert (run["summary"], run["config"]) == ({"loss": 1.0, "acc": 0.5}, {"lr": 0.1, "depth": 3})


def test_points_whose_step_went_back_are_dropped_one_by_one(web, client):
    """Each key has its own last step, so that two keys may be logged one after the other."""
    client.log(row(0, a=0.0), row(5, a=5.0))
    assert client.log(row(2, a=2.0, b=2.0), row(6, a=6.0))["dropped"] == 1
    assert client.log(row(4, b=4.0), row(1, b=1.0))["dropped"] == 1
    assert series(web, "a")["steps"] == [0, 5, 6]
    assert series(web, "b")["steps"] == [2, 4]
    assert ok_json(web.get(RUN))["next_step"] == 7


def test_a_run_is_resumed_only_if_that_is_asked_for(web, client):
    """The resumed run continues at its next step, and its earlier process can log no more."""
    client.log(row(3, loss=1.0))
    ok_json(web.post(f"{RUN}/finish", json={"exit_code": 1, "session": "s1"}))
    refused = problem(web.put(RUN, json={"session": "s2"}), 409, "conflict")
    assert 'resume="allow"' in refused["detail"]
    problem(web.put(RUN, json={"session": "s2", "resume": "never"}), 409, "conflict")
    problem(web.put(f"{RUNS}/other", json={"session": "s2", "resume": "must"}), 404, "not-found")

    second = Client(web, "s2", resume="must")
    assert (second.run["state"], second.run["next_step"], second.run["exit_code"]) == ("running", 4, None)
    second.log(row(4, loss=0.5))
    problem(client.send(row(5, loss=0.1)), 409, "conflict")
    problem(web.post(f"{RUN}/heartbeat", json={"session": "s1"}), 409, "conflict")
    problem(web.post(f"{RUN}/finish", json={"session": "s1"}), 409, "conflict")
    assert series(web, "loss")["values"] == [1.0, 0.5]


def test_a_run_is_taken_over_while_it_runs(web, client):
    """Two processes with one id: the second is refused, or takes the run over if it asks for that."""
    client.log(row(0, loss=1.0))
    problem(web.put(RUN, json={"session": "s2"}), 409, "conflict")
    client.log(row(1, loss=0.5))
    second = Client(web, "s2", resume="allow")
    second.log(row(2, loss=0.25))
    problem(client.send(row(2, loss=9.0)), 409, "conflict")
    assert series(web, "loss")["values"] == [1.0, 0.5, 0.25]


def test_starting_a_run_again_with_its_session_changes_nothing(web, client):
    """A client may repeat the request when it got no answer, even after the run has logged."""
    client.log(row(0, loss=1.0))
    again = ok_json(web.put(RUN, json={"session": "s1"}))
    assert (again["state"], again["next_step"]) == ("running", 1)
    client.log(row(1, loss=0.5))


def test_an_ended_run_takes_only_late_values(web, client):
    """They do not make it run again."""
    ok_json(web.post(f"{RUN}/finish", json={"exit_code": 0}))
    problem(client.send(row(0, loss=1.0)), 409, "conflict")
    client.log(row(0, loss=1.0), late=True)
    run = ok_json(web.get(RUN))
    assert (run["state"], run["exit_code"]) == ("finished", 0)
    assert series(web, "loss")["values"] == [1.0]


def test_a_stop_is_passed_on_with_the_next_answer(web, clock, client):
    """A run that does not obey is killed when its heartbeats stop."""
    assert ok_json(web.post(f"{RUN}/heartbeat", json={"session": "s1"})) == {"state": "running", "stop": False}
    ok_json(web.post(f"{RUN}/stop"))
    assert client.log(row(0, loss=1.0))["stop"] is True
    assert ok_json(web.post(f"{RUN}/heartbeat"))["stop"] is True
    ok_json(web.post(f"{RUN}/finish", json={"state": "killed", "session": "s1"}))
    assert ok_json(web.get(RUN))["state"] == "killed"


@pytest.mark.parametrize(("stopped", "state"), [(False, "failed"), (True, "killed")])
def test_a_silent_run_has_ended_until_it_is_heard_of(web, deps, clock, client, stopped, state):
    """The state is written down, and the next values of its process make it run again."""
    if stopped:
        ok_json(web.post(f"{RUN}/stop"))
    clock.advance(59)
    assert deps.registry.end_silent_runs() == 0
    clock.advance(2)
    assert deps.registry.end_silent_runs() == 1
    run = ok_json(web.get(RUN))
    assert (run["state"], run["reason"]) == (state, "its heartbeats stopped for 60 seconds")
    assert run["finished_at"] is not None

    client.log(row(0, loss=1.0))
    run = ok_json(web.get(RUN))
    assert (run["state"], run["reason"], run["finished_at"]) == ("running", None, None)
    assert deps.registry.end_silent_runs() == 0


def test_the_real_end_of_a_silent_run_counts(web, deps, clock, client):
    """Its process was cut off, and tells later how it ended."""
    clock.advance(61)
    deps.registry.end_silent_runs()
    run = ok_json(web.post(f"{RUN}/finish", json={"exit_code": 0, "session": "s1"}))
    assert (run["state"], run["reason"], run["exit_code"]) == ("finished", None, 0)


def test_a_run_that_was_offline_has_the_times_of_then(web, clock):
    """It cannot begin or end in the future, or end before it began."""
    past = {"session": "s1", "created_at": "2025-12-31T12:00:00+00:00"}
    ok_json(web.put(RUN, json=past))
    run = ok_json(web.post(f"{RUN}/finish", json={"exit_code": 0, "finished_at": "2025-12-31T13:00:00Z"}))
    assert run["created_at"] == "2025-12-31T12:00:00.000000Z"
    assert (run["finished_at"], run["duration"]) == ("2025-12-31T13:00:00.000000Z", 3600.0)
    future = ok_json(web.put(f"{RUNS}/future", json={"created_at": 4e9}))
    assert future["created_at"] == "2026-01-01T12:00:00.000000Z"
    ended = ok_json(web.post(f"{RUNS}/future/finish", json={"finished_at": 0}))
    assert ended["finished_at"] == future["created_at"]
    problem(web.put(f"{RUNS}/x", json={"created_at": "yesterday"}), 422, "invalid-input")


def test_fewer_points_keep_the_extremes(web, deps, clock, client):
    """Each bucket's minimum and maximum, the first and the last point are among them."""
    values = [math.sin(step) for step in range(9_000)]
    values[4_321], values[17], values[8_998] = 99.0, -99.0, 50.0
    for start in range(0, len(values), 3_000):
        client.log(*(row(step, loss=values[step]) for step in range(start, start + 3_000)))
    expected = None
    for _ in range(2):
        found = series(web, "loss", points=100)
        assert found["count"] == 9_000
        assert len(found["values"]) <= 100
        assert {99.0, -99.0, 50.0} <= set(found["values"])
        assert (found["steps"][0], found["steps"][-1]) == (0, 8_999)
        assert found["steps"] == sorted(found["steps"])
        assert [values[step] for step in found["steps"]] == found["values"]
        part = series(web, "loss", points=100, from_step=4_000, to_step=5_000)
        assert min(part["steps"]) == 4_000
        assert max(part["steps"]) == 5_000
        assert 99.0 in part["values"]
        assert expected in (None, found)
        expected = found
        ok_json(web.post(f"{RUN}/finish", json={}))
        clock.advance(10)
        pack(deps)


def test_pages_have_every_point_once_while_points_are_packed(web, deps, clock, client):
    """A cursor stays valid, and points that are logged meanwhile come last."""
    for start in range(0, 100, 10):
        client.log(*(row(step, loss=step) for step in range(start, start + 10)))
    first = series(web, "loss", limit=33)
    rows = history(web, limit=33)
    ok_json(web.post(f"{RUN}/finish", json={}))
    clock.advance(10)
    pack(deps)
    client.log(row(100, loss=100), late=True)
    steps, cursor = first["steps"], first["next"]
    while cursor:
        page = series(web, "loss", limit=33, cursor=cursor)
        steps, cursor = steps + page["steps"], page["next"]
    assert steps == list(range(101))
    found, cursor = rows["items"], rows["next"]
    while cursor:
        page = history(web, limit=33, cursor=cursor)
        found, cursor = found + page["items"], page["next"]
    assert [each["_step"] for each in found] == [each["loss"] for each in found] == list(range(101))


def test_rows_with_keys_of_different_density(web, client):
    """A page ends where all its rows are complete, and samples are rows that have all keys."""
    client.log(*(row(step, often=step, **({"rare": step} if step % 10 == 0 else {})) for step in range(100)))
    found: list[Any] = []
    cursor = None
    while cursor or not found:
        page = history(web, limit=7, **({"cursor": cursor} if cursor else {}))
        found, cursor = found + page["items"], page["next"]
    assert len(found) == 100
    assert all(("rare" in each) == (each["_step"] % 10 == 0) for each in found)
    sampled = history(web, keys="often,rare", samples=5)["items"]
    assert [each["_step"] for each in sampled] == [0, 20, 40, 60, 90]
    assert [each["often"] for each in sampled] == [each["rare"] for each in sampled]
    assert [each["_step"] for each in history(web, samples=3)["items"]] == [0, 49, 99]
    assert history(web, keys="often,none")["items"] == []


def test_ten_thousand_keys(web, deps, clock, client):
    """They are logged, listed, packed and read."""
    client.log(row(0, **{f"layer/{number}": number for number in range(10_000)}))
    ok_json(web.post(f"{RUN}/finish", json={}))
    clock.advance(10)
    assert pack(deps) == 1
    assert len(ok_json(web.get(f"{RUN}/metrics"))["items"]) == 10_000
    assert series(web, "layer/77")["values"] == [77]


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        ([row(-1, loss=1)], "step"),
        ([row(2**53 + 1, loss=1)], "step"),
        ([{"step": 0, "time": 1e300, "values": {"loss": 1}}], "time"),
        ([{"step": 0.5, "time": 1, "values": {}}], "step"),
        ([row(0, **{"": 1})], "key"),
        ([row(0, **{"x" * 513: 1})], "key"),
        ([row(0, _step=1)], "_step"),
        ([row(0, note="x" * 300_000)], "note: 300,002 bytes of JSON; at most 262,144"),
        ([row(step, a=1, b=2) for step in range(5_001)], "10,002 values"),
    ],
)
def test_invalid_rows_are_refused_with_their_place(web, client, rows, detail):
    """Nothing of the request is stored, and the session continues with the same sequence."""
    assert detail in problem(client.send(*rows), 422, "invalid-input")["detail"]
    assert ok_json(web.get(f"{RUN}/metrics"))["items"] == []
    client.log(row(0, loss=1.0))


def test_a_value_of_ten_megabytes_is_refused(web, client):
    """The request is too large."""
    assert "4,194,304" in problem(client.send(row(0, note="x" * 10_000_000)), 413, "body-too-large")["detail"]


def put_blob(web, content):
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    ok_json(web.put(f"{API}/blobs/{digest}", content=content))
    return digest


def test_files_are_visible_when_their_bytes_are_there(web, client):
    """The same path again replaces the file, and a browser only downloads it."""
    content = b"\x89PNG"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    body = {"files": [{"path": "media/a.png", "digest": digest, "size": 4}]}
    assert ok_json(web.post(f"{RUN}/files", json=body)) == {"missing": [digest]}
    assert ok_json(web.get(f"{RUN}/files"))["items"] == []
    problem(web.get(f"{RUN}/files/media/a.png"), 404, "not-found")
    put_blob(web, content)
    (file,) = ok_json(web.get(f"{RUN}/files"))["items"]
    assert (file["path"], file["digest"], file["size"]) == ("media/a.png", digest, 4)
    response = web.get(f"{RUN}/files/media/a.png")
    assert response.content == content
    assert response.headers["content-disposition"].startswith("attachment")

    other = put_blob(web, b"other")
    body = {"files": [{"path": "media/a.png", "digest": other, "size": 5}]}
    assert ok_json(web.post(f"{RUN}/files", json=body)) == {"missing": []}
    assert web.get(f"{RUN}/files/media/a.png").content == b"other"


@pytest.mark.parametrize("path", ["../a", "a//b", "/a", "a\\b", ""])
def test_a_path_outside_is_refused(web, client, path):
    """It is not stored."""
    body = {"files": [{"path": path, "digest": f"sha256:{'0' * 64}", "size": 1}]}
    problem(web.post(f"{RUN}/files", json=body), 422, "invalid-input")


def test_a_deleted_run_leaves_its_versions(web, client):
    """They name no run any more, and the id of the run is not used again."""
    client.log(row(0, loss=1.0))
    artifact = {"name": "net", "artifact_type": "model", "digest": "sha256:1", "run_id": "ab12cd34"}
    ok_json(web.post(f"{API}/projects/demo/artifacts", json=artifact))
    ok_json(web.post(f"{RUN}/inputs", json={"artifact": "demo/net:v0"}))
    ok_json(web.delete(RUN))
    problem(web.get(RUN), 404, "not-found")
    runs = ok_json(web.get(f"{API}/projects/demo/artifacts/net/versions/v0/runs"))
    assert runs == {"logged_by": None, "used_by": []}
    problem(client.send(row(1, loss=1.0)), 404, "not-found")
    problem(web.put(RUN, json={"session": "s1"}), 409, "conflict")


def test_tags_are_added_and_removed(web, client):
    """Repeating it changes nothing."""
    for _ in range(2):
        assert ok_json(web.put(f"{RUN}/tags/best"))["tags"] == ["best"]
    assert ok_json(web.delete(f"{RUN}/tags/best"))["tags"] == []


def test_runs_are_filtered_sorted_and_paged(web):
    """Unknown fields and operators are refused by name, and a cursor belongs to its order."""
    for number in range(5):
        body = {
            "config": {"lr": number / 10},
            "summary": {"acc": number % 3},
            "tags": ["even"] if number % 2 == 0 else [],
        }
        ok_json(web.put(f"{RUNS}/r{number}", json=body))

    def names(**query):
        return [run["id"] for run in ok_json(web.get(RUNS, params=query))["items"]]

    assert names(filters='{"config.lr": {"$gte": 0.2}}') == ["r4", "r3", "r2"]
    assert names(filters='{"tags": "even"}', order="+summary_metrics.acc") == ["r0", "r4", "r2"]
    first = ok_json(web.get(RUNS, params={"order": "-config.lr", "limit": 2}))
    assert [run["id"] for run in first["items"]] == ["r4", "r3"]
    assert names(order="-config.lr", limit=2, cursor=first["next"]) == ["r2", "r1"]
    refused = problem(web.get(RUNS, params={"filters": '{"config.lr": {"$like": 1}}'}), 422, "invalid-input")
    assert "unknown operator '$like'" in refused["detail"]
    problem(web.get(RUNS, params={"order": "name", "cursor": "AAAA"}), 422, "invalid-input")
