"""Runs that are kept while there is no server, and `upshot sync`."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.waiting import until

NO_SERVER = {"UPSHOT_MODE": "offline"}

TRAIN = """\
import sys
import upshot as wandb

open("weights.bin", "w").write("one")
with wandb.init(project="trains", id="train001", job_type="training", config={"lr": 0.1}) as run:
    assert run.offline
    for step in range(100):
        wandb.log({"loss": 1 / (step + 1), "bad": float("nan")})
    artifact = wandb.Artifact("net", "model", metadata={"layers": 3})
    artifact.add_file("weights.bin")
    open("weights.bin", "w").write("changed by the program")
    run.log_artifact(artifact, aliases=["best"]).wait()
    run.link_artifact(artifact, "model-registry/Net", aliases=["staging", "candidate"])
    again = wandb.Artifact("net", "model")
    again.add_file("weights.bin")
    again.link("model-registry/Net", aliases=["staging"])
    run.use_artifact(again)
    run.summary["best"] = 0.01
    wandb.save("weights.bin")
    wandb.log({"table": wandb.Table(columns=["a"], data=[[1]])})
    try:
        artifact.version
    except AttributeError as error:
        assert "upshot sync" in str(error)
    else:
        sys.exit("an offline artifact has no version")
"""


@pytest.fixture
def folder(run_script):
    return run_script.folder


def sync(run_script, *words):
    return run_script("-m", "upshot", "sync", *words)


def test_an_offline_run_is_brought_in_once_only(run_script, folder):
    """Everything arrives with the times of then; the server keeps the ids that the program made."""
    done = run_script("-c", TRAIN, **NO_SERVER)
    assert done.returncode == 0, done.stderr
    assert "upshot sync" in done.stderr
    api = run_script.system.api
    assert api.get("/projects").json()["items"] == []
    time.sleep(1.1)

    assert "would bring in 2 artifact" in sync(run_script, "--dry-run").stdout
    assert api.get("/projects").json()["items"] == []
    done = sync(run_script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trains/train001: brought in 2 artifact" in done.stdout
    before = api.get("/events?limit=100").json()["items"]
    assert sync(run_script).stdout == "nothing to bring in\n"
    assert api.get("/events?limit=100").json()["items"] == before

    run = api.get("/projects/trains/runs/train001").json()
    assert (run["state"], run["config"], run["summary"]["best"]) == ("finished", {"lr": 0.1}, 0.01)
    assert run["duration"] < 60
    started = next(event for event in before if event["kind"] == "run-started")
    assert run["created_at"] < started["time"]
    points = api.get("/projects/trains/runs/train001/series?key=loss&limit=1000").json()
    assert points["values"] == [1 / (step + 1) for step in range(100)]
    assert len(api.get("/projects/trains/runs/train001/files").json()["items"]) > 1
    first = api.get("/projects/trains/artifacts/net/versions/v0").json()
    assert (first["aliases"], first["metadata"], first["run"]) == (["best"], {"layers": 3}, "trains/train001")
    assert first["created_at"] < started["time"]
    links = {item["name"]: item for item in api.get("/registries/model/collections/Net/versions").json()["items"]}
    assert {name: link["aliases"] for name, link in links.items()} == {
        "v0": ["candidate"],
        "v1": ["latest", "staging"],
    }
    assert links["v0"]["linked_at"] < started["time"]
    used = api.get("/projects/trains/runs/train001/inputs").json()["items"]
    assert [version["reference"] for version in used] == ["trains/net:v1"]
    assert list((folder / ".upshot-runs").glob("run-*")) == []


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_an_alias_that_somebody_moved_meanwhile_stays(run_script):
    """The sync reports it. The other aliases move."""
    api = run_script.system.api
    assert run_script("-c", TRAIN, **NO_SERVER).returncode == 0
    body = {"name": "other", "artifact_type": "model", "digest": "sha256:1"}
    assert api.post("/projects/trains/artifacts", json=body).is_success
    link = {"artifact": "trains/other:v0", "aliases": ["staging"]}
    assert api.post("/registries/model/collections/Net/versions", json=link).is_success

    done = sync(run_script)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "model/Net:staging was moved on the server since then, and stays where it is" in done.stdout
    staging = api.get("/registries/model/collections/Net/versions/staging").json()
    assert staging["artifact"] == "trains/other:v0"
    assert api.get("/registries/model/collections/Net/versions/candidate").json()["artifact"] == "trains/net:v0"


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_a_killed_run_and_an_interrupted_sync(run_script, folder):
    """A run whose program was killed has failed. Two syncs at once, or one that is killed, bring it in once."""
    program = TRAIN.replace(
        "    try:\n", "    print('ready', flush=True)\n    import time; time.sleep(600)\n    try:\n"
    )
    process = run_script.start("-c", program, **NO_SERVER)
    assert process.stdout.readline() == "ready\n"
    assert "still runs" in sync(run_script).stderr
    process.send_signal(signal.SIGKILL)
    process.wait()
    (kept,) = (folder / ".upshot-runs").glob("run-*")
    with (kept / "journal.jsonl").open("a") as journal:
        journal.write('{"kind": "log", "torn')
    copy = Path(shutil.copytree(kept, folder / "copy" / kept.name))

    syncs = [run_script.start("-m", "upshot", "sync") for _ in range(3)]
    for other in syncs[1:]:
        other.kill()
    for other in syncs:
        other.wait()
    assert sync(run_script).returncode == 0
    assert sync(run_script, str(copy)).returncode == 0  # an old copy of it: nothing is new

    api = run_script.system.api
    run = api.get("/projects/trains/runs/train001").json()
    assert run["state"] == "failed"
    assert api.get("/projects/trains/runs/train001/series?key=loss&limit=1000").json()["count"] == 100
    assert len(api.get("/projects/trains/artifacts/net/versions").json()["items"]) == 2
    assert len(api.get("/registries/model/collections/Net/versions").json()["items"]) == 2


USE = """\
import sys
import upshot as wandb

with wandb.init(project="trains") as run:
    artifact = run.use_artifact("model-registry/Net:staging", type="model")
    print(open(artifact.download(root=sys.argv[1]) + "/weights.bin").read())
"""


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_an_offline_run_uses_what_was_downloaded_before(run_script):
    """A version that was not is refused, and what was used arrives with the sync."""
    assert run_script("-c", TRAIN, **NO_SERVER).returncode == 0
    assert sync(run_script).returncode == 0
    done = run_script("-c", USE, "a", **NO_SERVER)
    assert "was not downloaded to this machine before" in done.stderr
    shutil.rmtree(run_script.folder / ".upshot-runs")

    assert run_script("-c", USE, "b").stdout == "changed by the program\n"
    done = run_script("-c", USE, "c", **NO_SERVER)
    assert done.stdout == "changed by the program\n", done.stderr
    assert sync(run_script).returncode == 0

    runs = run_script.system.api.get("/projects/trains/artifacts/net/versions/v1/runs").json()["used_by"]
    assert len(runs) == 3


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_a_run_without_an_answer_is_offline(run_script):
    """It says so once, and the program runs to its end."""
    run_script.system.stop("web")
    started = time.monotonic()

    done = run_script("-c", TRAIN)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The run is offline") == 1
    assert time.monotonic() - started > 9
    run_script.system.start_web()
    assert "brought in 2 artifact" in sync(run_script).stdout
    until(lambda: run_script.system.api.get("/projects/trains/runs/train001").json()["state"] == "finished")


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_a_run_that_exists_is_not_overwritten(run_script, folder):
    """The folder stays, so that nothing is lost."""
    body = {"session": "other", "name": "somebody else"}
    assert run_script.system.api.put("/projects/trains/runs/train001", json=body).is_success
    assert run_script("-c", TRAIN, **NO_SERVER).returncode == 0

    done = sync(run_script, "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout) == []
    assert "exists already" in done.stderr
    assert len(list((folder / ".upshot-runs").glob("run-*"))) == 1


FULL = """\
import upshot as wandb

with wandb.init(project="trains", id="full", mode="offline") as run:
    wandb.log({"text": "x" * 200_000})
    run._sender.keep()
    for _ in range(20):
        wandb.log({"text": "y" * 200_000})
        run._sender.keep()
    artifact = wandb.Artifact("net", "model")
    artifact.add_file("weights.bin")
    run.log_artifact(artifact)
print("ended")
"""


@pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
def test_a_program_goes_on_when_the_disk_is_full(run_script, folder):
    """It says so, ends as if nothing had happened, and what there was room for arrives."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    (folder / "weights.bin").write_bytes(b"z" * 2_000_000)

    done = run_script("-c", limit + ignore + FULL)

    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
    assert "there is no copy of" in done.stderr
    assert "the rest of what it logged is lost" in done.stderr
    done = sync(run_script)
    assert done.returncode == 0, done.stdout + done.stderr
    series = run_script.system.api.get("/projects/trains/runs/full/history?limit=100").json()
    assert 0 < len(series["items"]) < 21
