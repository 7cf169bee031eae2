"""Container jobs on a real engine, with workers and engines that fail."""

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
from tests.live.engine_proxy import EngineProxy
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
    """Return an automation with a step that runs a script, and a step that emits its outputs."""
    return AUTOMATION.format(name=name, script=script, queue=queue, timeout=timeout)


QUICK = automation("quick", 'echo \'{\\"answer\\": \\"it\\"}\' > /upshot/output/outputs.json')
LONG = automation("long", "echo started; exec sleep 600")
BRIEF = automation("brief", "exec sleep 600", timeout="3s")
NARROW = automation("narrow", "exec sleep 0.3", queue="narrow")
GPU = automation("gpu", "true", queue="gpu-a100")
ALL = f"{QUICK}\n---\n{LONG}\n---\n{BRIEF}\n---\n{NARROW}\n---\n{GPU}"


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineApi]:
    """Yield the engine of this machine."""
    api = find_engine()
    if api is None:
        if os.environ.get("CI"):
            pytest.fail(f"no Docker engine answers; {HOW_TO}")
        pytest.skip(f"no Docker engine answers; {HOW_TO}")
    yield api
    api.close()


@pytest.fixture(scope="module")
def image(engine: EngineApi) -> Iterator[str]:
    """Yield the name of a small image that has a shell."""
    with busybox_image(engine) as name:
        yield name


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[EngineProxy]:
    """Yield a proxy between the workers and the engine."""
    proxy = EngineProxy(tmp_path / "engine.sock")
    yield proxy
    proxy.stop()


@pytest.fixture
def system(
    make_system: Callable[..., System], database_url: str | None, proxy: EngineProxy, image: str, tmp_path: Path
) -> System:
    """Start a web process, with automations that launch small jobs."""
    jobs_file = tmp_path / "jobs.yaml"
    jobs_file.write_text(JOBS.format(host=proxy.url))
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
def _remove_containers(system: System) -> Iterator[None]:
    """Leave no containers on the engine."""
    yield
    for job in jobs(system):
        for name in containers(job["id"], "--all"):
            # The command may fail, because the worker removes the container at the same time.
            subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)


# --- helpers ---------------------------------------------------------------------------------------


def docker(*words: str) -> str:
    """Run the engine's command-line client, and return its output."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=60).stdout


def containers(job_id: str, *options: str) -> list[str]:
    """Return the names of the job's running containers, or with `--all`, of all its containers."""
    found = docker("ps", *options, "--filter", f"label=upshot.job={job_id}", "--format", "{{.Names}}")
    return found.split()


class Starts:
    """Counts how often the engine started each job, from its events. The engine stores only the last 256 events."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, job_id: str) -> int:
        """Return how often the job was started."""
        return self._path.read_text().split().count(job_id)


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[Starts]:
    """Yield a counter that has listened from the beginning."""
    path = tmp_path / "starts"
    filters = ("--filter", "event=start", "--filter", "label=upshot.job", "--since", f"{time.time() - 1:.3f}")
    output_format = ("--format", '{{index .Actor.Attributes "upshot.job"}}')
    with path.open("wb") as output:
        listening = subprocess.Popen(["docker", "events", *filters, *output_format], stdout=output)
    yield Starts(path)
    listening.kill()
    listening.wait()


def jobs(system: System, **query: str) -> list[dict[str, Any]]:
    """Return all jobs, newest first."""
    found: list[dict[str, Any]] = system.api.get("/jobs", params={"limit": "200", **query}).json()["items"]
    return found


def one_job(system: System, **query: str) -> dict[str, Any]:
    """Wait until there is a job, and return it with all details."""
    (found,) = until(lambda: jobs(system, **query), "the job exists")
    detail: dict[str, Any] = system.api.get(f"/jobs/{found['id']}").json()
    return detail


def job_in(system: System, *states: str) -> dict[str, Any]:
    """Wait until the only job has one of these states, and return it."""

    def look() -> dict[str, Any] | None:
        job = one_job(system)
        return job if job["state"] in states else None

    return until(look, f"the job is {' or '.join(states)}")


def execution_in(system: System, *states: str) -> dict[str, Any]:
    """Wait until the only execution has one of these states, and return it."""

    def look() -> dict[str, Any] | None:
        (found,) = system.executions()
        return found if found["state"] in states else None

    return until(look, f"the execution is {' or '.join(states)}")


# --- tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "response"),
    [
        pytest.param(r"^POST \S+/containers/create", False, id="before the container is created"),
        pytest.param(r"^PUT \S+/archive", False, id="before its files are copied"),
        pytest.param(r"^POST \S+/start", False, id="before it is started"),
        pytest.param(r"^POST \S+/start", True, id="before the response to the start"),
    ],
)
def test_a_worker_killed_while_it_starts_a_job_neither_loses_nor_repeats_it(
    system, proxy, starts, request_line, response
):
    """The worker is killed with -9 between the requests of a start. One container runs, once."""
    system.start_worker("first")
    with proxy.hold(request_line, response=response):
        system.emit("quick", {})
        until(proxy.is_holding.is_set, "the worker sends the request")
        system.kill("first")

    system.start_worker("second")
    job = job_in(system, "succeeded", "failed")

    assert (job["state"], job["attempt"], job["outputs"]) == ("succeeded", 1, {"answer": "it"})
    assert starts.of(job["id"]) == 1
    execution_in(system, "succeeded")
    until(lambda: not containers(job["id"], "--all"), "the container is removed")


def test_a_job_runs_on_while_its_worker_is_replaced(system, starts):
    """The next worker adopts it and continues its log. Its container is not started again."""
    system.start_worker("first")
    system.emit("long", {})
    job = job_in(system, "running")
    system.kill("first")
    system.start_worker("second")
    until(lambda: "job.adopted" in system.log("second"), "the second worker adopts the job")
    assert containers(job["id"])

    system.api.post(f"/jobs/{job['id']}/cancel").raise_for_status()
    job = job_in(system, "cancelled")

    assert starts.of(job["id"]) == 1
    assert "started" in system.api.get(f"/jobs/{job['id']}/log").text


def test_a_timeout_applies_even_if_all_workers_were_down(system):
    """The next worker stops the job, and the step fails with that reason."""
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
    """The container gets a signal and a grace period. The reason of the job names the execution."""
    system.start_worker()
    system.emit("long", {})
    job = job_in(system, "running")

    (execution,) = system.executions()
    system.api.post(f"/executions/{execution['id']}/cancel").raise_for_status()
    job = job_in(system, "cancelled")

    assert "execution" in job["reason"]
    until(lambda: not containers(job["id"], "--all"), "the container is removed")


def test_a_long_outage_of_the_engine_loses_the_job(system, proxy):
    """The job is attempted again, and the container of the first attempt is removed when the engine is back."""
    system.start_worker()
    system.emit("long", {})
    job = job_in(system, "running")

    proxy.stop()
    lost = until(lambda: (now := one_job(system))["state"] == "queued" and now, "the attempt has ended")
    proxy.start()
    again = job_in(system, "running")

    assert "engine" in lost["reason"]
    assert again["attempt"] == 2
    until(lambda: len(containers(job["id"], "--all")) == 1, "the container of the first attempt is removed")
    system.api.post(f"/jobs/{job['id']}/cancel").raise_for_status()
    job_in(system, "cancelled")


def test_a_short_outage_of_the_engine_changes_nothing(system, proxy, starts):
    """The job runs on, and is supervised again after the outage."""
    system.start_worker()
    system.emit("long", {})
    job = job_in(system, "running")

    proxy.stop()
    until(lambda: "engine.unreachable" in system.log("worker"), "the worker notices the outage")
    proxy.start()
    until(lambda: system.log("worker").count("engine.reachable") > 1, "the worker reaches the engine again")
    system.api.post(f"/jobs/{job['id']}/cancel").raise_for_status()

    assert job_in(system, "cancelled")["attempt"] == 1
    assert starts.of(job["id"]) == 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "database_url", ["postgresql"], indirect=True
)  # tests/contract tests the claims on both databases
def test_a_hundred_jobs_respect_a_limit_of_four(system, starts):
    """Two workers claim them. Waiting jobs show their position, and each job runs once."""
    system.start_worker("first", UPSHOT_MACHINE="m1")
    system.start_worker("second", UPSHOT_MACHINE="m2")
    system.emit("narrow", *({"number": number} for number in range(100)))
    until(lambda: len(jobs(system, state="queued")) > 50, "the jobs are queued")
    waiting = system.api.get(f"/jobs/{jobs(system, state='queued')[0]['id']}").json()
    assert "narrow" in json.dumps(waiting["wait_reason"])

    most = 0

    def all_done() -> bool:
        nonlocal most
        found = docker("ps", "--filter", "label=upshot.installation", "--format", '{{.Label "upshot.job"}}').split()
        own = {job["id"] for job in jobs(system)}
        most = max(most, len(own.intersection(found)))
        return len(jobs(system, state="succeeded")) == 100

    until(all_done, "all jobs have run", seconds=200)

    assert 2 <= most <= 4
    assert all(starts.of(job["id"]) == 1 for job in jobs(system))


def test_a_worker_takes_only_the_jobs_of_its_queues(system):
    """Without a worker for its queue, a job says that it waits for one."""
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
