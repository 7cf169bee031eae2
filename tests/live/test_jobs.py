"""Container jobs on a real engine, whatever happens to workers, engines and queues."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker_engines import HOW_TO, EngineApi, busybox_image, find_engine
from tests.live.tcp_proxy import EngineDoor
from tests.system import System
from tests.waiting import until

JOBS = """\
machine: {{parallel: 20}}
backends:
  docker: {{host: "{host}"}}
queues:
  default: {{per-machine: 20}}
  narrow: {{concurrency: 4, per-machine: 4}}
  gpu-a100: {{per-machine: 1}}
"""

AUTOMATION = """\
name: {name}
on: {{custom: {{name: {name}}}}}
steps:
  - id: work
    uses: launch
    with:
      image: IMAGE
      pull: never
      queue: {queue}
      timeout: {timeout}
      grace: 1s
      command: [sh, -c, "{script}"]
  - id: after
    uses: emit
    with: {{name: done, data: {{outputs: "{{{{= steps.work.outputs }}}}"}}}}
"""


def automation(name: str, script: str, *, queue: str = "default", timeout: str = "5m") -> str:
    """One step that runs a script, and one that tells of it."""
    return AUTOMATION.format(name=name, script=script, queue=queue, timeout=timeout)


QUICK = automation("quick", 'echo \'{\\"said\\": \\"it\\"}\' > /upshot/output/outputs.json')
LONG = automation("long", "echo begun; exec sleep 600")
BRIEF = automation("brief", "exec sleep 600", timeout="3s")
NARROW = automation("narrow", "exec sleep 0.3", queue="narrow")
GPU = automation("gpu", "true", queue="gpu-a100")
ALL = f"{QUICK}\n---\n{LONG}\n---\n{BRIEF}\n---\n{NARROW}\n---\n{GPU}"


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineApi]:
    """The machine's engine."""
    api = find_engine()
    if api is None:
        if os.environ.get("CI"):
            pytest.fail(f"no Docker engine answers; {HOW_TO}")
        pytest.skip(f"no Docker engine answers; {HOW_TO}")
    yield api
    api.close()


@pytest.fixture(scope="module")
def image(engine: EngineApi) -> Iterator[str]:
    """A small image with a shell."""
    with busybox_image(engine) as name:
        yield name


@pytest.fixture
def door(tmp_path: Path) -> Iterator[EngineDoor]:
    """Between the workers and the engine."""
    door = EngineDoor(tmp_path / "engine.sock")
    yield door
    door.shut()


@pytest.fixture
def system(
    make_system: Callable[..., System], database_url: str | None, door: EngineDoor, image: str, tmp_path: Path
) -> System:
    """A web process, and automations whose jobs are small."""
    jobs_file = tmp_path / "jobs.yaml"
    jobs_file.write_text(JOBS.format(host=door.url))
    system = make_system(
        database_url=database_url,
        automations={"jobs.yaml": ALL.replace("IMAGE", image)},
        settings={
            "UPSHOT_JOBS_FILE": str(jobs_file),
            "UPSHOT_LEASE_SECONDS": "2",
            "UPSHOT_JOBS_LOST_SECONDS": "5",
        },
    )
    system.start_web()
    return system


@pytest.fixture(autouse=True)
def _clean(system: System) -> Iterator[None]:
    """Nothing of ours stays on the engine."""
    yield
    for job in jobs(system):
        for name in containers(job["id"], "--all"):
            # Its worker may be about to remove it, too.
            subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)


# --- what a test asks ------------------------------------------------------------------------------


def docker(*words: str) -> str:
    """What the engine's own command says."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=60).stdout


def containers(job: str, *words: str) -> list[str]:
    """Names of the job's containers: those that run, or `--all`."""
    found = docker("ps", *words, "--filter", f"label=upshot.job={job}", "--format", "{{.Names}}")
    return found.split()


class Starts:
    """How often the engine started each job; listened to from the beginning, for it remembers its last 256 events."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, job: str) -> int:
        """So often, until now."""
        return self._path.read_text().split().count(job)


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[Starts]:
    """Counts, from before the first."""
    path = tmp_path / "starts"
    wanted = ("--filter", "event=start", "--filter", "label=upshot.job", "--since", f"{time.time() - 1:.3f}")
    shown = ("--format", '{{index .Actor.Attributes "upshot.job"}}')
    with path.open("wb") as output:
        listening = subprocess.Popen(["docker", "events", *wanted, *shown], stdout=output)
    yield Starts(path)
    listening.kill()
    listening.wait()


def jobs(system: System, **query: str) -> list[dict[str, Any]]:
    """Jobs, newest first."""
    found: list[dict[str, Any]] = system.api.get("/jobs", params={"limit": "200", **query}).json()["items"]
    return found


def one_job(system: System, **query: str) -> dict[str, Any]:
    """The only job there is."""
    (found,) = until(lambda: jobs(system, **query), "the job is there")
    shown: dict[str, Any] = system.api.get(f"/jobs/{found['id']}").json()
    return shown


def job_in(system: System, *states: str) -> dict[str, Any]:
    """The only job, as soon as it stands so."""

    def look() -> dict[str, Any] | None:
        job = one_job(system)
        return job if job["state"] in states else None

    return until(look, f"the job is {' or '.join(states)}")


def execution_in(system: System, *states: str) -> dict[str, Any]:
    """The only execution of a job, as soon as it stands so."""

    def look() -> dict[str, Any] | None:
        (found,) = system.executions()
        return found if found["state"] in states else None

    return until(look, f"the execution is {' or '.join(states)}")


# --- stories ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "answer"),
    [
        pytest.param(r"^POST \S+/containers/create", False, id="before it is made"),
        pytest.param(r"^PUT \S+/archive", False, id="between made and filled"),
        pytest.param(r"^POST \S+/start", False, id="between filled and started"),
        pytest.param(r"^POST \S+/start", True, id="between started and recorded"),
    ],
)
def test_a_worker_killed_while_it_starts_a_job_neither_loses_nor_doubles_it(system, door, starts, place, answer):
    """Killed with -9 between create and start, and wherever else: one container runs, once."""
    system.start_worker("first")
    with door.holding(place, answer=answer):
        system.emit("quick", {})
        until(door.held.is_set, "the worker has come so far")
        system.kill("first")

    system.start_worker("second")
    job = job_in(system, "succeeded", "failed")

    assert (job["state"], job["attempt"], job["outputs"]) == ("succeeded", 1, {"said": "it"})
    assert starts.of(job["id"]) == 1
    execution_in(system, "succeeded")
    until(lambda: not containers(job["id"], "--all"), "the container is removed")


def test_a_job_runs_on_while_its_worker_is_replaced(system, starts):
    """The next worker follows what runs; the log goes on, and nothing is started again."""
    system.start_worker("first")
    system.emit("long", {})
    job = job_in(system, "running")
    system.kill("first")
    system.start_worker("second")
    until(lambda: "job.taken_up" in system.log("second"), "the second worker follows it")
    assert containers(job["id"])

    system.api.post(f"/jobs/{job['id']}/cancel").raise_for_status()
    job = job_in(system, "cancelled")

    assert starts.of(job["id"]) == 1
    assert "begun" in system.api.get(f"/jobs/{job['id']}/log").text


def test_a_time_out_holds_though_every_worker_was_down(system):
    """Whoever comes back finds it overdue and ends it; the step fails with that reason."""
    system.start_worker("first")
    system.emit("brief", {})
    job = job_in(system, "running")
    system.kill("first")
    time.sleep(4)  # its timeout is three seconds

    system.start_worker("second")
    job = job_in(system, "failed")

    assert job["failure"] == "timed-out"
    assert "timeout" in execution_in(system, "failed")["reason"]
    until(lambda: not containers(job["id"], "--all"), "the container is removed")


def test_cancelling_an_execution_stops_its_container(system):
    """Signal, grace, kill; the job says why it ended."""
    system.start_worker()
    system.emit("long", {})
    job = job_in(system, "running")

    (execution,) = system.executions()
    system.api.post(f"/executions/{execution['id']}/cancel").raise_for_status()
    job = job_in(system, "cancelled")

    assert "execution" in job["reason"]
    until(lambda: not containers(job["id"], "--all"), "the container is removed")


def test_an_engine_that_is_gone_for_too_long_loses_its_job_and_is_cleared_when_it_is_back(system, door):
    """The job fails with that reason after its tries; nothing of it runs on unseen."""
    system.start_worker()
    system.emit("long", {})
    job = job_in(system, "running")

    door.shut()
    lost = until(lambda: (now := one_job(system))["state"] == "queued" and now, "the try is given up")
    door.open()
    again = job_in(system, "running")

    assert "engine" in lost["reason"]
    assert again["attempt"] == 2
    until(lambda: len(containers(job["id"], "--all")) == 1, "what the first try left is removed")
    system.api.post(f"/jobs/{job['id']}/cancel").raise_for_status()
    job_in(system, "cancelled")


def test_a_short_outage_of_the_engine_changes_nothing(system, door, starts):
    """The job runs on, and is followed when the engine answers again."""
    system.start_worker()
    system.emit("long", {})
    job = job_in(system, "running")

    door.shut()
    until(lambda: "engine.away" in system.log("worker"), "the worker has noticed")
    door.open()
    until(lambda: system.log("worker").count("engine.reached") > 1, "the engine is reached again")
    system.api.post(f"/jobs/{job['id']}/cancel").raise_for_status()

    assert job_in(system, "cancelled")["attempt"] == 1
    assert starts.of(job["id"]) == 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # the claims of both: tests/contract
def test_a_hundred_jobs_keep_to_a_limit_of_four(system, starts):
    """Two workers take them; those that wait say their place; all of them run, each once."""
    system.start_worker("first", UPSHOT_MACHINE="m1")
    system.start_worker("second", UPSHOT_MACHINE="m2")
    system.emit("narrow", *({"number": number} for number in range(100)))
    until(lambda: len(jobs(system, state="queued")) > 50, "they are queued")
    waiting = system.api.get(f"/jobs/{jobs(system, state='queued')[0]['id']}").json()
    assert "narrow" in json.dumps(waiting["wait_reason"])

    most = 0

    def all_done() -> bool:
        nonlocal most
        found = docker("ps", "--filter", "label=upshot.installation", "--format", '{{.Label "upshot.job"}}').split()
        ours = {job["id"] for job in jobs(system)}
        most = max(most, len(ours.intersection(found)))
        return len(jobs(system, state="succeeded")) == 100

    until(all_done, "all have run", seconds=200)

    assert 2 <= most <= 4
    assert all(starts.of(job["id"]) == 1 for job in jobs(system))


def test_a_worker_of_a_queue_takes_only_that(system):
    """Until it comes the job says what it waits for; other queues' jobs are not for it."""
    system.start_worker("plain", UPSHOT_QUEUES="events,default")
    system.emit("gpu", {})
    job = until(lambda: (found := jobs(system)) and found[0], "the job is queued")
    shown = system.api.get(f"/jobs/{job['id']}").json()
    assert "no worker takes queue gpu-a100" in json.dumps(shown["wait_reason"])

    system.start_worker("gpu", UPSHOT_QUEUES="gpu-a100")
    job_in(system, "succeeded")

    execution_in(system, "succeeded")
    assert "job.started" in system.log("gpu")
    assert "job.started" not in system.log("plain")
