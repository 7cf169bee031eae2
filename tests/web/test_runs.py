"""Runs over REST: what they used and logged, how they end, and the lineage."""

import pytest

from tests.web.conftest import API, ok_json, problem

RUNS = f"{API}/projects/demo/runs"
ARTIFACTS = f"{API}/projects/demo/artifacts"


@pytest.fixture
def stores(sqlite_stores):
    return sqlite_stores


def log(web, name, digest, **more):
    body = {"name": name, "artifact_type": "model", "digest": digest, **more}
    return ok_json(web.post(ARTIFACTS, json=body))


def use(web, run_id, artifact):
    return ok_json(web.post(f"{RUNS}/{run_id}/inputs", json={"artifact": artifact}))


def references(web, path):
    return [item["reference"] for item in ok_json(web.get(path))["items"]]


@pytest.fixture
def chain(web):
    """Make data:v0 → train001 → net:v0 (model/churn:production) → quant001 → small:v0."""
    log(web, "data", "sha256:d")
    for run_id, job_type in (("train001", "training"), ("quant001", "quantization")):
        ok_json(web.put(f"{RUNS}/{run_id}", json={"job_type": job_type, "name": f"swift {job_type}"}))
    use(web, "train001", "demo/data:v0")
    log(web, "net", "sha256:n", run_id="train001")
    link = {"artifact": "demo/net:v0", "aliases": ["production"]}
    ok_json(web.post(f"{API}/registries/model/collections/churn/versions", json=link))
    use(web, "quant001", "model/churn:production")
    log(web, "small", "sha256:s", run_id="quant001")


def test_a_run_is_created_and_changed_with_the_same_request(web):
    """What is left out stays as it is, and the id of the client is kept."""
    made = web.put(f"{RUNS}/ab12cd34", json={"name": "swift-fox", "config": {"lr": 0.1}, "tags": ["b", "a"]})
    assert made.status_code == 201
    changed = web.put(f"{RUNS}/ab12cd34", json={"job_type": "training", "summary": {"loss": 0.25}})
    assert changed.status_code == 200

    run = ok_json(web.get(f"{RUNS}/ab12cd34"))
    assert (run["id"], run["project"], run["name"], run["job_type"]) == ("ab12cd34", "demo", "swift-fox", "training")
    assert (run["config"], run["summary"], run["tags"]) == ({"lr": 0.1}, {"loss": 0.25}, ["a", "b"])
    assert (run["state"], run["finished_at"]) == ("running", None)
    assert [item["id"] for item in ok_json(web.get(RUNS))["items"]] == ["ab12cd34"]


@pytest.mark.parametrize(
    ("body", "state"),
    [({}, "finished"), ({"exit_code": 0}, "finished"), ({"exit_code": 3}, "failed"), ({"state": "killed"}, "killed")],
)
def test_a_run_ends_once(web, body, state):
    """Its first end counts."""
    ok_json(web.put(f"{RUNS}/r", json={}))
    assert ok_json(web.post(f"{RUNS}/r/finish", json=body))["state"] == state
    again = ok_json(web.post(f"{RUNS}/r/finish", json={"exit_code": 9}))
    assert again["state"] == state
    assert again["finished_at"] is not None


def test_a_run_whose_heartbeats_stop_has_failed(web, deps, clock):
    """A run without heartbeats keeps running; one that sends them again runs again."""
    for run_id in ("silent", "alive"):
        ok_json(web.put(f"{RUNS}/{run_id}", json={}))
    ok_json(web.post(f"{RUNS}/alive/heartbeat"))
    clock.advance(61)
    assert deps.registry.end_silent_runs() == 1
    states = {run["id"]: run["state"] for run in ok_json(web.get(RUNS))["items"]}
    assert states == {"silent": "running", "alive": "failed"}
    assert ok_json(web.post(f"{RUNS}/alive/heartbeat"))["state"] == "running"


def test_inputs_and_outputs_are_recorded(web, chain):
    """An input is listed by its source, also if it was used through a link, and the request returns the link."""
    assert use(web, "quant001", "model/churn:production")["reference"] == "model/churn:v0"
    assert use(web, "quant001", "net")["reference"] == "demo/net:v0"
    assert references(web, f"{RUNS}/quant001/inputs") == ["demo/net:v0"]
    assert references(web, f"{RUNS}/quant001/outputs") == ["demo/small:v0"]
    runs = ok_json(web.get(f"{ARTIFACTS}/net/versions/v0/runs"))
    assert runs["logged_by"]["id"] == "train001"
    assert [run["id"] for run in runs["used_by"]] == ["quant001"]
    version = ok_json(web.get(f"{ARTIFACTS}/net/versions/v0"))
    assert use(web, "train001", version["id"])["reference"] == "demo/net:v0"
    body = {"artifact": "net", "artifact_type": "dataset"}
    problem(web.post(f"{RUNS}/quant001/inputs", json=body), 409, "conflict")


def test_a_run_that_logs_known_content_has_the_version_as_output(web, chain):
    """The version still names the run that made it."""
    ok_json(web.put(f"{RUNS}/again001", json={}))
    assert log(web, "net", "sha256:n", run_id="again001")["event_ids"] == []
    assert references(web, f"{RUNS}/again001/outputs") == ["demo/net:v0"]
    assert ok_json(web.get(f"{ARTIFACTS}/net/versions/v0/runs"))["logged_by"]["id"] == "train001"


def test_a_version_with_files_names_its_run(web):
    """The run is given when the version begins, and it must exist then; equal content later is an output, too."""
    body = {
        "id": "ver_01kdwpvng0files",
        "name": "files",
        "artifact_type": "model",
        "file_count": 0,
        "run_id": "filer001",
    }
    body["digest"] = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
    pending = f"{API}/projects/demo/pending-versions"
    ok_json(web.put(f"{RUNS}/other001", json={}))
    problem(web.post(pending, json=body), 404, "not-found")
    ok_json(web.put(f"{RUNS}/filer001", json={}))
    ok_json(web.post(pending, json=body))
    ok_json(web.post(pending, json=body))
    ok_json(web.post(f"{API}/pending-versions/{body['id']}/commit"))
    assert ok_json(web.get(f"{ARTIFACTS}/files/versions/v0/runs"))["logged_by"]["id"] == "filer001"
    same = {**body, "id": "ver_01kdwpvng0again", "run_id": "other001"}
    assert ok_json(web.post(pending, json=same))["version"]["reference"] == "demo/files:v0"
    assert references(web, f"{RUNS}/other001/outputs") == ["demo/files:v0"]


def test_events_carry_the_run_of_their_version(web, chain):
    """That is the run that logged the version, in its project and through its links."""
    for event in ok_json(web.get(f"{API}/events"))["items"]:
        version = event["data"].get("version")
        if version and version["artifact_name"] == "net":
            run = event["data"]["run"]
            assert (run["id"], run["name"], run["project"]) == ("train001", "swift training", "demo")
            assert (run["job_type"], run["state"]) == ("training", "running")
        elif not event["kind"].startswith("run-"):
            assert "run" not in event["data"] or version["artifact_name"] == "small"


def lineage(web, **query):
    found = ok_json(web.get(f"{API}/lineage", params=query))
    names = {node["id"]: node["reference"] for node in found["nodes"]}
    edges = {(edge["kind"], names[edge["source"]], names[edge["target"]]) for edge in found["edges"]}
    return [node["reference"] for node in found["nodes"]], edges, found


def test_the_lineage_is_followed_up_and_down(web, chain):
    """Nodes are runs and artifact versions with their aliases in collections; edges have the direction of the data."""
    up, _, _ = lineage(web, reference="demo/net:v0", direction="up")
    assert up == ["demo/net:v0", "demo/train001", "demo/data:v0"]
    down, _, _ = lineage(web, reference="model/churn:production", direction="down")
    assert down == ["demo/net:v0", "demo/quant001", "demo/small:v0"]
    nodes, edges, found = lineage(web, reference="demo/net:v0")
    assert set(nodes) == {*up, *down}
    assert edges == {
        ("used", "demo/data:v0", "demo/train001"),
        ("logged", "demo/train001", "demo/net:v0"),
        ("used", "demo/net:v0", "demo/quant001"),
        ("logged", "demo/quant001", "demo/small:v0"),
    }
    net = next(node for node in found["nodes"] if node["depth"] == 0)
    (link,) = net["links"]
    assert (link["reference"], link["aliases"]) == ("model/churn:v0", ["latest", "production"])
    near, _, _ = lineage(web, reference="demo/net:v0", depth=1)
    assert near == ["demo/net:v0", "demo/quant001", "demo/train001"]


def test_a_deleted_version_leaves_the_lineage(web, chain):
    """Its edges go with it, and the runs stay."""
    ok_json(web.delete(f"{ARTIFACTS}/small/versions/v0"))
    assert references(web, f"{RUNS}/quant001/outputs") == []
    down, _, _ = lineage(web, reference="demo/net:v0", direction="down")
    assert down == ["demo/net:v0", "demo/quant001"]


def test_a_renamed_project_keeps_its_runs(web, chain):
    """Runs and versions refer to the project by its id."""
    ok_json(web.patch(f"{API}/projects/demo", json={"name": "renamed"}))
    runs = ok_json(web.get(f"{API}/projects/renamed/artifacts/net/versions/v0/runs"))
    assert runs["logged_by"]["project"] == "renamed"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"{RUNS}/train01", None, 404),
        ("PUT", f"{RUNS}/x%3Fy", {}, 422),
        ("PUT", f"{RUNS}/x", {"name": ""}, 422),
        ("PUT", f"{RUNS}/x", {"config": [1]}, 422),
        ("POST", f"{RUNS}/train001/finish", {"state": "finish"}, 422),
        ("POST", f"{RUNS}/train001/finish", {"state": "failed", "exit_code": 1}, 422),
        ("POST", f"{RUNS}/train001/inputs", {"artifact": "ver_00000000000000"}, 404),
        ("POST", f"{RUNS}/nobody/inputs", {"artifact": "net"}, 404),
        ("POST", ARTIFACTS, {"name": "x", "artifact_type": "model", "run_id": "nobody"}, 404),
        ("GET", f"{API}/lineage", None, 422),
        ("GET", f"{API}/lineage?reference=demo/net&direction=sideways", None, 422),
        ("GET", f"{API}/lineage?reference=demo/net&depth=51", None, 422),
        ("GET", f"{API}/lineage?reference=demo/nothing", None, 404),
    ],
)
def test_mistakes_are_refused(web, chain, method, path, body, status):
    """The message names the place and the remedy."""
    response = web.request(method, path, json=body)
    assert response.status_code == status, response.text
    assert response.json()["detail"]
