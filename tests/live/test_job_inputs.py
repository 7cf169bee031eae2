"""Jobs with an input: the files of a version on real engines, and programs in a job that use `import upshot`."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docker_engines import HOW_TO, EngineApi, busybox_image, find_engine
from tests.fakes.strict_s3 import ACCESS_KEY_ID, BUCKET, REGION, SECRET_ACCESS_KEY
from tests.system import System
from tests.waiting import until
from upshot.domain.job import container_name
from upshot.embedded.docker_bridge import listen_on_bridge

ROOT = Path(__file__).parents[2]
CONTENT = os.urandom(3_000_000)

JOBS = """\
backends:
  local: {{uses: process, directory: {directory}, user: {user}}}
queues:
  default:
    defaults: {{pull: never}}
    limits: {{mounts: [/]}}
  scripts: {{backend: local}}
"""

PROGRAM = """\
import json, os, pathlib
import upshot as wandb

folder = pathlib.Path(os.environ["UPSHOT_INPUT"])
weights = (folder / "sub" / "weights.bin").read_bytes()
with wandb.init(project="small", job_type="quantize") as run:
    used = run.use_artifact("model/fraud:candidate", type="model")
    pathlib.Path("small.bin").write_bytes(weights[:1000])
    artifact = wandb.Artifact("half", type="model", metadata={"from": used.source_name})
    artifact.add_file("small.bin")
    run.log_artifact(artifact)
    run.link_artifact(artifact, "model/halves", aliases=["candidate"])
outputs = {"run": run.id, "size": len(weights), "downloaded": sorted(os.listdir(used.download("copy")))}
(pathlib.Path(os.environ["UPSHOT_OUTPUT"]) / "outputs.json").write_text(json.dumps(outputs))
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineApi]:
    """Yield the engine of this machine."""
    api = find_engine()
    if api is None:
        pytest.skip(f"no Docker engine answers; {HOW_TO}")
    yield api
    api.close()


@pytest.fixture(scope="module")
def image(engine: EngineApi) -> Iterator[str]:
    """Yield the name of a small image that has a shell."""
    with busybox_image(engine) as name:
        yield name


@pytest.fixture
def start(make_system: Callable[..., System], tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Yield a function that starts a web process, with one automation that answers the alias `candidate`."""

    def start(step: Mapping[str, Any], *, settings: Mapping[str, str] | None = None, **arguments: Any) -> System:
        (tmp_path / "jobs.yaml").write_text(
            JOBS.format(directory=tmp_path / "jobs", user="root" if os.geteuid() == 0 else "null")
        )
        trigger = {"registry": "model", "collection": "fraud", "alias": "candidate"}
        automation = {
            "name": "work",
            "on": {"alias-added": trigger},
            "steps": [{"id": "work", "uses": "launch", "with": {"input": "required", **step}}],
        }
        system = make_system(
            automations={"work.yaml": json.dumps(automation)},
            settings={
                "UPSHOT_JOBS_FILE": str(tmp_path / "jobs.yaml"),
                "UPSHOT_CACHE_DIR": str(tmp_path / "cache"),
                "UPSHOT_CACHE_GB": "0",
                "UPSHOT_LEASE_SECONDS": "2",
                **(settings or {}),
            },
            **arguments,
        )
        system.start_web()
        systems.append(system)
        return system

    systems: list[System] = []
    yield start
    for job in [job for system in systems for job in jobs(system)]:  # a test that failed leaves containers
        command = ["docker", "rm", "--force", "--volumes", container_name(job["id"], job["attempt"])]
        if job["backend"] == "docker":
            subprocess.run(command, capture_output=True, check=False)


def link_candidate(system: System, folder: Path) -> None:
    """Log a version with files, and give it the alias."""
    (folder / "model" / "sub").mkdir(parents=True)
    (folder / "model" / "sub" / "weights.bin").write_bytes(CONTENT)
    (folder / "model" / "README").write_text("a model")
    program = (
        "import upshot\n"
        "run = upshot.init(project='training')\n"
        "artifact = upshot.Artifact('fraud', type='model')\n"
        "artifact.add_dir('model')\n"
        "run.link_artifact(artifact, 'model/fraud', aliases=['candidate'])\n"
    )
    environment = {**system.environment, "UPSHOT_URL": system.url, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, capture_output=True)


def jobs(system: System) -> list[dict[str, Any]]:
    """Return all jobs."""
    items: list[dict[str, Any]] = system.api.get("/jobs").json()["items"]
    return items


def ended_job(system: System) -> dict[str, Any]:
    """Wait until the only job has ended, and return it."""
    until(lambda: [job["state"] in ("succeeded", "failed") for job in jobs(system)] == [True], "the job has ended")
    (job,) = jobs(system)
    return job


def check_outcome(system: System) -> None:
    """Check what `PROGRAM` has read and written."""
    job = ended_job(system)
    log = system.api.get(f"/jobs/{job['id']}/log.txt").text
    assert job["state"] == "succeeded", (job["reason"], log)
    outputs = system.api.get(f"/jobs/{job['id']}").json()["outputs"]
    assert (outputs["size"], outputs["downloaded"]) == (len(CONTENT), ["README", "sub"])
    run = system.api.get(f"/projects/small/runs/{outputs['run']}").json()
    assert (run["job_type"], run["state"]) == ("quantize", "finished")
    linked = system.api.get("/registries/model/collections/halves/versions/candidate").json()
    assert (linked["artifact"], linked["metadata"]) == ("small/half:v0", {"from": "fraud:v0"})
    assert linked["linked_by"] == "work/work"
    nodes = system.api.get("/lineage", params={"reference": "model/halves:candidate"}).json()["nodes"]
    assert "training/fraud:v0" in {node["reference"] for node in nodes}


@pytest.mark.parametrize(
    ("database_url", "store"), [("sqlite", "directory"), ("postgresql", "bucket")], indirect=["database_url"]
)
def test_a_process_uses_the_sdk_on_its_input(start, database_url, request, tmp_path, store):
    """A script reads its input, and records its run, a new version and a link with the job's own token."""
    (tmp_path / "program.py").write_text(PROGRAM)
    step = {
        "queue": "scripts",
        "command": [sys.executable, str(tmp_path / "program.py")],
        "env": {"PYTHONPATH": str(ROOT / "src")},
    }
    settings = {}
    if store == "bucket":
        settings = {
            "UPSHOT_BUCKET_URL": f"s3://{BUCKET}/inputs",
            "UPSHOT_BUCKET_ENDPOINT": request.getfixturevalue("s3").url,
            "UPSHOT_BUCKET_REGION": REGION,
            "UPSHOT_BUCKET_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "UPSHOT_BUCKET_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        }
    system = start(step, settings=settings, database_url=database_url)
    system.start_worker()

    link_candidate(system, tmp_path)

    check_outcome(system)


def test_a_container_uses_the_sdk_on_its_input(start, image, tmp_path):
    """The same script runs in a container, in which Python and the package are mounted."""
    bridge, host = listen_on_bridge(0)
    if bridge is None or host is None:
        pytest.skip(f"Docker has no bridge on this machine; {HOW_TO}")
    bridge.close()
    (tmp_path / "program.py").write_text(PROGRAM)
    tmp_path.chmod(0o755)
    python = Path(sys.executable).resolve()
    libraries = site.getsitepackages()[0]
    directories = {"/lib", "/lib64", "/usr", sys.base_prefix, sys.prefix, str(ROOT / "src"), str(tmp_path)}
    outermost = [
        path
        for path in directories
        if Path(path).exists() and not any(Path(path).is_relative_to(other) for other in directories - {path})
    ]
    step = {
        "image": image,
        "command": [str(python), str(tmp_path / "program.py")],
        "env": {"PYTHONPATH": f"{ROOT / 'src'}:{libraries}", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"},
        "mounts": [{"source": path, "target": path} for path in sorted(outermost)],
        "workdir": "/tmp",
        "user": "1234",
    }
    system = start(step, host=host)
    system.start_worker()

    link_candidate(system, tmp_path)

    check_outcome(system)


def test_the_files_outlive_a_killed_worker(start, image, tmp_path):
    """A container keeps its files when its worker is killed, and they are removed when the job has ended."""
    step = {
        "image": image,
        "command": ["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done; wc -c < /upshot/input/sub/weights.bin"],
    }
    system = start(step)
    system.start_worker("first")
    link_candidate(system, tmp_path)
    until(lambda: [job["state"] for job in jobs(system)] == ["running"], "the job runs")
    (job,) = jobs(system)

    system.kill("first")
    system.start_worker("second")

    until(lambda: "job.adopted" in system.log("second"), "the job is adopted")
    subprocess.run(["docker", "exec", container_name(job["id"], 1), "touch", "/tmp/go"], check=True)
    assert ended_job(system)["state"] == "succeeded"
    assert system.api.get(f"/jobs/{job['id']}/log.txt").text == f"{len(CONTENT)}\n"
    until(lambda: not list((tmp_path / "cache" / "trees").glob("[!.]*")), "the files are removed")


def test_a_long_download_keeps_its_lease(start, tmp_path):
    """A server that hangs delays the job. No other worker takes it over, and it is the same attempt."""
    step = {"queue": "scripts", "command": ["sh", "-c", "wc -c < $UPSHOT_INPUT/sub/weights.bin"]}
    system = start(step)
    link_candidate(system, tmp_path)
    system.pause("web")
    for name in ("first", "second"):
        system.start_worker(name)

    def logged(words: str) -> bool:
        return any(words in system.log(name) for name in ("first", "second"))

    until(lambda: logged("job.input_download"), "the download has begun")

    begun = time.monotonic()
    until(lambda: time.monotonic() > begun + 5, "the first lease of the job is over")
    system.resume("web")

    job = ended_job(system)
    assert (job["state"], job["attempt"]) == ("succeeded", 1)
    assert not logged("job.adopted")
