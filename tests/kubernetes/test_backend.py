"""The Kubernetes backend on a fake cluster: what the contract suite cannot require of every engine."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.container_requests import NAME
from tests.fakes.kubernetes.cluster import IMAGE, NAMESPACE, TOKEN, FakeCluster, documented_rules, write_kubeconfig
from tests.fakes.kubernetes.node import DIGEST
from tests.fakes.kubernetes.server import KUBE_SYSTEM_UID, Rule
from tests.fakes.kubernetes.store import JOB, POD, SECRET
from tests.kubernetes.driver import BackendDriver, request
from tests.waiting import until
from upshot.backends.kubernetes import api, make
from upshot.backends.protocol import EngineUnavailable, JobInput, OutputUnreadable, Phase, StartRefused
from upshot.domain.job import FailureKind, ImagePullCredentials, InputFiles

EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}
IGNORES_SIGTERM = "trap '' TERM; echo started; while :; do sleep 0.1; done"


# --- start ----------------------------------------------------------------------------------------


async def test_objects_in_the_cluster(driver, cluster):
    """An attempt is one Job with a pod and its Secrets. Removing it removes all of them."""
    await driver.run("true", registry_auth=ImagePullCredentials("me", "pass"))
    counts = {kind.kind: len(cluster.items(kind)) for kind in (JOB, POD, SECRET)}
    assert counts == {"Job": 1, "Pod": 1, "Secret": 3}

    await driver.remove()

    until(lambda: not any(cluster.items(kind) for kind in (JOB, POD, SECRET)))


@pytest.mark.parametrize(
    "pattern", ["POST .*/jobs", "PATCH .*/secrets/.*-env", "PATCH .*/secrets/.*-files", "PATCH .*/jobs/"]
)
async def test_rejected_start_leaves_nothing(driver, cluster, pattern):
    """If the API server rejects any request of a start, its message is the reason, and no object is left."""
    cluster.fail(pattern, status=403, message="exceeded quota: small")

    with pytest.raises(StartRefused, match="exceeded quota: small") as refused:
        await driver.start()

    assert refused.value.failure is FailureKind.REFUSED
    assert await driver.statuses() == {}
    assert not cluster.items(SECRET)


@pytest.mark.parametrize("pattern", ["POST .*/jobs", "PATCH .*/secrets/.*-files", "PATCH .*/jobs/"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"disconnect": True}])
async def test_interrupted_start_is_continued(driver, cluster, pattern, fault):
    """If the API server fails during a start, the next start continues it, and the job runs once."""
    script, env = "echo ran; cat $UPSHOT_TOKEN", {"UPSHOT_TOKEN": "/dev/null"}
    cluster.fail(pattern, **fault)
    with pytest.raises(EngineUnavailable):
        await driver.start(script, env=env)
    assert [status.phase for status in (await driver.statuses()).values()] in ([], [Phase.CREATED])

    await driver.start(script, env=env)

    assert (await driver.wait_for_exit()).exit_code == 0
    assert (await driver.read_log()).data == b"ran\n"


async def test_start_whose_response_is_lost(driver, cluster):
    """A Job whose creation got no answer is found by its name."""
    cluster.fail("POST .*/jobs", seconds=0.2)
    starting = asyncio.create_task(driver.backend.start(request()))
    await asyncio.sleep(0.1)
    starting.cancel()
    await asyncio.wait([starting])

    await driver.start()

    assert (await driver.wait_for_exit()).exit_code == 0
    assert len(cluster.pods(NAME)) == 1


async def test_invalid_label(driver):
    """A job with a label that Kubernetes does not accept is refused with the API server's message."""
    with pytest.raises(StartRefused, match="a valid label must be"):
        await driver.start(labels={"note": "two words"})
    assert await driver.statuses() == {}


async def test_missing_namespace(connect):
    """A job is refused if its namespace does not exist."""
    with pytest.raises(StartRefused, match='namespaces "nowhere" not found'):
        await connect(namespace="nowhere").start()


async def test_environment_beyond_the_limit(driver):
    """A job whose environment exceeds a Secret's limit of a megabyte is refused, and no object is left."""
    with pytest.raises(StartRefused, match="Too long"):
        await driver.start(env={"BIG": "x" * 1_100_000})
    assert await driver.statuses() == {}


# --- pending --------------------------------------------------------------------------------------


async def test_job_waits_for_a_gpu(driver, cluster):
    """A job without a free GPU is pending with the scheduler's reason, and runs when there is one."""
    await driver.start(gpus=1)
    status = await driver.wait_for_note("node")
    assert (status.phase, status.started_at) == (Phase.PENDING, None)
    assert "Insufficient nvidia.com/gpu" in status.note

    cluster.node.capacity["nvidia.com/gpu"] = 1

    assert (await driver.wait_for_exit()).exit_code == 0


async def test_job_waits_for_a_node(connect, cluster):
    """The node must match the node selectors of operator and author."""
    driver = connect(node_selector={"pool": "gpu"})
    await driver.start(kubernetes={"node-selector": {"zone": "a"}})
    assert "didn't match" in (await driver.wait_for_note("node")).note

    cluster.node.labels |= {"pool": "gpu", "zone": "a"}

    assert (await driver.wait_for_exit()).exit_code == 0


async def test_missing_image(driver, cluster):
    """A job with a missing image is pending for two minutes by the cluster's clock, and fails then."""
    await driver.start(image="ghcr.io/acme/none:1")
    status = await driver.wait_for_note("ghcr.io/acme/none:1")
    assert (status.phase, status.failure) == (Phase.PENDING, None)

    cluster.call(cluster.controllers.warn, cluster.pods(NAME)[0], "Failed", "Error: ImagePullBackOff", minutes=2.1)

    assert (await driver.wait_for_exit()).failure is FailureKind.IMAGE_MISSING
    assert (await driver.read_log()).data == b""
    await driver.remove()
    assert await driver.statuses() == {}


async def test_image_that_appears_late(driver, cluster):
    """A job survives a short outage of its image registry."""
    await driver.start(image="ghcr.io/acme/late:1")
    await driver.wait_for_note("late")

    cluster.node.images["ghcr.io/acme/late:1"] = ("/bin/sh",)

    status = await driver.wait_for_exit()
    assert (status.exit_code, status.image_digest) == (0, DIGEST)


async def test_pod_that_is_not_created(driver, cluster):
    """If the Job controller cannot create the pod, its warning is the note."""
    cluster.controllers.creates_pods = False
    await driver.start()
    cluster.call(cluster.controllers.warn, cluster.job(NAME), "FailedCreate", "exceeded quota: pods=10")

    assert "exceeded quota: pods=10" in (await driver.status()).note


# --- exits ----------------------------------------------------------------------------------------


async def test_node_enforces_the_timeout(connect):
    """The node ends a job after its timeout, even if no worker is running."""
    driver = connect(pull_time="0s")
    await driver.start_and_wait(
        "trap 'echo late; exit 9' TERM; echo started; while :; do sleep 0.1; done", timeout_seconds=1
    )

    status = await driver.wait_for_exit()

    assert (status.failure, status.exit_code) == (FailureKind.TIMED_OUT, 9)
    assert (await driver.read_log()).data == b"started\nlate\n"


async def test_evicted_job(driver, cluster):
    """An evicted job has failed for that reason, and its log can still be read."""
    await driver.start_and_wait()

    cluster.evict(NAME)

    status = await driver.wait_for_exit()
    assert (status.failure, status.note) == (FailureKind.EVICTED, "The node was low on resource: memory.")
    assert (await driver.read_log()).data == b"started\n"


async def test_deleted_pod(driver, cluster):
    """A job whose pod someone deletes counts as evicted, and its outputs are lost."""
    await driver.start_and_wait()

    cluster.delete_pod(NAME)

    assert (await driver.wait_for_exit()).failure is FailureKind.EVICTED
    assert (await driver.read_log()).data == b""
    with pytest.raises(OutputUnreadable, match="is lost, because someone deleted its pod"):
        await driver.read_outputs()


async def test_deleted_job(driver, cluster):
    """A job whose Job someone deletes is no longer listed."""
    await driver.start_and_wait()

    cluster.delete_job(NAME)

    assert await driver.statuses() == {}


async def test_log_of_a_lost_node(driver, cluster):
    """A log on a lost node has ended. A log that cannot be read for the moment is unavailable."""
    await driver.start_and_wait()
    cluster.fail("GET .*/log", status=500, message="dial tcp 10.0.0.1:10250: connect: no route to host")
    with pytest.raises(EngineUnavailable, match="no route to host"):
        await driver.read_log()

    fake_pod = cluster.fake_pod(NAME)
    cluster.call(fake_pod.set_condition, "DisruptionTarget", "True", "DeletionByTaintManager", "node is not ready")
    cluster.fail("GET .*/log", status=500, times=2)

    assert (await driver.read_log()).data == b""
    assert (await driver.read_log("17.0.1.0.0")).position == "17.0.1.0.0"


async def test_killed_sidecar(driver, cluster):
    """If the sidecar is killed before it has written the outputs, they are unreadable."""
    await driver.run("echo {} > $UPSHOT_OUTPUT/outputs.json")
    cluster.fake_pod(NAME).containers["upshot-outputs"].log.pop()

    with pytest.raises(OutputUnreadable, match="was killed before"):
        await driver.read_outputs()


# --- input ----------------------------------------------------------------------------------------

FILES = JobInput("project/my model:v3", 2, 1_000_000, transfer_limit=1_000_000)


def upshot_in_image(directory: Path, script: str) -> dict[str, str]:
    """Return an environment in which the command `upshot` is a script. A container of the fake cluster has no image."""
    program = directory / "upshot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


def volume(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a volume of a pod."""
    found: dict[str, Any] = next(each for each in pod["spec"]["volumes"] if each["name"] == name)
    return found


async def test_input_is_downloaded_before_the_job_starts(driver, cluster, tmp_path):
    """An init container in the job's image fills a volume of limited size, which the job can only read."""
    env = upshot_in_image(tmp_path, 'echo "$@" > $4/arguments; echo $UPSHOT_CACHE_GB > $4/gb')
    asked = request("cat /upshot/input/*", env=env, input=InputFiles.REQUIRED)

    await driver.backend.start(replace(asked, input=FILES))

    assert (await driver.wait_for_exit()).exit_code == 0
    arguments, gigabytes = (await driver.read_log()).data.decode().splitlines()
    assert re.fullmatch(r"download --stored --root \S+ -- project/my model:v3", arguments)
    assert gigabytes == "0"
    (pod,) = cluster.items(POD)
    assert [each["name"] for each in pod["spec"]["initContainers"]] == ["upshot-input", "upshot-outputs"]
    assert pod["spec"]["initContainers"][0]["image"] == IMAGE
    assert 1_000_000 < int(volume(pod, "upshot-input")["emptyDir"]["sizeLimit"]) < 100_000_000
    mount = next(each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["name"] == "upshot-input")
    assert mount["readOnly"]


@pytest.mark.parametrize(("input_image", "found"), [("quiet:1", b"found\n"), (None, b"")])
async def test_input_with_an_image_of_the_operator(connect, cluster, tmp_path, input_image, found):
    """With `input-image`, every job gets its input. Without it, only a job that requires it."""
    driver = connect(input_image=input_image) if input_image else connect()
    env = upshot_in_image(tmp_path, "echo > $4/found")

    await driver.backend.start(replace(request("ls /upshot/input", env=env), input=FILES))

    assert (await driver.wait_for_exit()).exit_code == 0
    assert (await driver.read_log()).data == found
    images = [each["image"] for pod in cluster.items(POD) for each in pod["spec"]["initContainers"]]
    assert images[:-1] == ([input_image] if input_image else [])


@pytest.mark.parametrize(
    ("script", "failure", "words"),
    [
        ("exit 1", FailureKind.INPUT_UNAVAILABLE, "exit code 1, Error); see `kubectl logs upshot-01-1"),
        (None, FailureKind.REFUSED, "install `upshot` in the image of the job"),
    ],
)
async def test_input_that_cannot_be_downloaded(driver, tmp_path, script, failure, words):
    """The command does not start. A failed download is worth another attempt, and an image without upshot is not."""
    env = upshot_in_image(tmp_path, script) if script else {}
    asked = request("echo started", env=env, input=InputFiles.REQUIRED)

    await driver.backend.start(replace(asked, input=FILES))

    status = await driver.wait_for_exit()
    assert (status.failure, status.started_at) == (failure, None)
    assert words in (status.note or "")
    assert (await driver.read_log()).data == b""


async def test_a_download_is_shown_and_can_be_stopped(driver, tmp_path):
    """The job says what it waits for, and a stop ends the download."""
    env = upshot_in_image(tmp_path, "sleep 600")
    asked = request("echo started", env=env, input=InputFiles.REQUIRED)
    await driver.backend.start(replace(asked, input=FILES))
    await driver.wait_for_note("its input is being downloaded")

    await driver.stop(grace_seconds=0)

    assert (await driver.wait_for_exit()).failure is FailureKind.CANCELLED


async def test_input_that_is_too_large_for_a_pod(driver, cluster):
    """The refusal names the limit of the queue."""
    files = replace(FILES, transfer_limit=999_999)

    with pytest.raises(StartRefused, match="1,000,000 bytes, and the queue's `input-size` allows 999,999 in a pod"):
        await driver.backend.start(replace(request(), input=files))

    assert not cluster.items(JOB)


# --- stop -----------------------------------------------------------------------------------------


async def test_stop_keeps_log_and_exit_code(driver, cluster):
    """A stopped job keeps its exit code and its log, because its pod is not deleted."""
    await driver.start_and_wait("trap 'echo bye; exit 5' TERM; echo started; while :; do sleep 0.1; done")

    await driver.stop(grace_seconds=10)

    status = await driver.wait_for_exit()
    assert (status.exit_code, status.failure) == (5, None)
    assert (await driver.read_log()).data == b"started\nbye\n"
    assert not [line for line in cluster.requests if line.startswith("DELETE")]


async def test_second_stop(driver):
    """A second stop, by another worker, changes nothing."""
    await driver.start_and_wait(IGNORES_SIGTERM, grace_seconds=6)

    await driver.stop(grace_seconds=6)
    await driver.stop(grace_seconds=6)

    assert (await driver.status()).phase is Phase.RUNNING
    assert (await driver.wait_for_exit()).exit_code == 137


async def test_stop_without_grace_period_after_another(driver):
    """A second stop without a grace period deletes the pod, so the job ends at once and counts as cancelled."""
    await driver.start_and_wait(IGNORES_SIGTERM, grace_seconds=600)
    await driver.stop(grace_seconds=600)

    await driver.stop(grace_seconds=0)

    status = await driver.wait_for_exit()
    assert (status.exit_code, status.failure) == (None, FailureKind.CANCELLED)


async def test_stop_on_a_lost_node(driver, cluster, monkeypatch):
    """A deleted pod that its node does not end is removed by force."""
    await driver.start_and_wait(IGNORES_SIGTERM, grace_seconds=600)
    fake_pod = cluster.fake_pod(NAME)
    with monkeypatch.context() as lost_node:
        lost_node.setattr(fake_pod, "stop", lambda *_, **__: None)
        await driver.stop(grace_seconds=600)
        await driver.stop(grace_seconds=0)
        assert (await driver.status()).phase is Phase.RUNNING
        await driver.stop(grace_seconds=0)

    assert [line[-1] for line in cluster.requests if "gracePeriodSeconds=" in line] == ["1", "0"]
    fake_pod.stop(grace=0)


@pytest.mark.parametrize(
    ("spec", "note"),
    [pytest.param({"gpus": 1}, "waits", id="no node"), pytest.param({"image": "none:1"}, "none:1", id="no image")],
)
async def test_stop_of_a_pending_job(driver, cluster, spec, note):
    """A pending job that is stopped never runs, not even if a worker starts it again."""
    await driver.start("echo ran", **spec)
    await driver.wait_for_note(note)

    await driver.stop()

    status = await driver.wait_for_exit()
    assert (status.failure, status.exit_code) == (FailureKind.CANCELLED, None)
    until(lambda: not cluster.pods(NAME))
    await driver.start("echo ran", **spec)
    assert (await driver.status()).phase is Phase.EXITED
    assert not cluster.pods(NAME)


async def test_stop_before_the_pod_is_created(driver, cluster):
    """No pod is created for a job that has been stopped."""
    cluster.controllers.creates_pods = False
    await driver.start()

    await driver.stop()
    cluster.controllers.creates_pods = True
    cluster.call(cluster.controllers.reconcile, cluster.job(NAME))

    assert (await driver.wait_for_exit()).failure is FailureKind.CANCELLED
    assert not cluster.pods(NAME)


# --- engine and account ---------------------------------------------------------------------------


async def test_engine_id(driver, connect):
    """The id of the engine is the cluster's own and the namespace, so each namespace is another engine."""
    assert await driver.backend.engine_id() == f"kubernetes:{KUBE_SYSTEM_UID}/{NAMESPACE}"
    assert await connect(namespace="other").backend.engine_id() == f"kubernetes:{KUBE_SYSTEM_UID}/other"


def rules_without(resource: str) -> list[Rule]:
    """Return the documented rules except the one for a resource."""
    return [rule for rule in documented_rules() if resource not in rule.resources]


async def test_engine_id_without_permission(tmp_path):
    """If the account may not read the namespace kube-system, the URL of the cluster is its id."""
    with FakeCluster(rules=rules_without("namespaces")) as cluster:
        async with BackendDriver(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as driver:
            assert await driver.backend.engine_id() == f"kubernetes:{cluster.url}/{NAMESPACE}"


async def test_account_without_permissions(tmp_path):
    """Without permissions the error names the missing one, and the cluster does not look empty."""
    with FakeCluster(rules=[Rule([], [], [])]) as cluster:
        async with BackendDriver(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as driver:
            with pytest.raises(EngineUnavailable, match="jobs is forbidden"):
                await driver.statuses()
            with pytest.raises(StartRefused, match="cannot create"):
                await driver.start()


async def test_account_without_events(tmp_path):
    """Without permission for events, the note of a pending job comes from its pod."""
    with FakeCluster(rules=rules_without("events")) as cluster:
        async with BackendDriver(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as driver:
            await driver.start(image="none:1")
            await driver.wait_for_note("none:1")


async def test_documented_roles_are_exact(driver, cluster):
    """The documented Role and ClusterRole contain every permission that Jobs need, and no other."""
    await driver.backend.engine_id()
    await driver.run("true")
    await driver.read_log()
    await driver.read_outputs()
    async with driver.watch() as names:
        assert [await anext(names) for _ in range(2)] == [NAME, NAME]  # the Job and its pod
    await driver.remove()
    await driver.start(image="none:1")
    await driver.wait_for_note("none:1")  # lists events
    await driver.remove()
    await driver.start_and_wait(IGNORES_SIGTERM, grace_seconds=600)
    await driver.stop(grace_seconds=600)  # patches the pod
    await driver.stop(grace_seconds=0)  # deletes the pod
    await driver.wait_for_exit()

    rules = documented_rules("upshot", "upshot-identity")
    assert cluster.call(cluster.server.used_permissions.copy) == set().union(*(rule.permissions for rule in rules))


async def test_cluster_goes_down_and_comes_up(driver, cluster):
    """While the cluster is down it is unavailable. Afterwards the jobs that ran meanwhile are listed."""
    await driver.start_and_wait("echo started; sleep 0.3; echo done")
    cluster.go_down()
    with pytest.raises(EngineUnavailable, match="does not answer"):
        await driver.statuses()

    cluster.come_up()

    assert (await driver.wait_for_exit()).exit_code == 0
    assert (await driver.read_log()).data == b"started\ndone\n"


async def test_expired_token(cluster, tmp_path):
    """An expired token is read again from the kubeconfig. If it is still invalid, the cluster is unavailable."""
    config = Path(cluster.kubeconfig(tmp_path))
    async with BackendDriver(cluster, {"kubeconfig": str(config)}) as driver:
        await driver.start_and_wait()
        cluster.server.token = "a new one"
        with pytest.raises(EngineUnavailable, match="401: Unauthorized"):
            await driver.statuses()

        config.write_text(config.read_text().replace(TOKEN, "a new one"))

        assert (await driver.status()).phase is Phase.RUNNING


async def test_login_by_a_program(cluster, tmp_path):
    """A program that the kubeconfig names returns the token, as the large clouds' programs do."""
    api_version = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": api_version, "kind": "ExecCredential", "status": {"token": TOKEN}}
    (tmp_path / "credential").write_text(json.dumps(credential))
    program = {"apiVersion": api_version, "command": "cat", "args": [str(tmp_path / "credential")]}
    config = write_kubeconfig(tmp_path / "config", cluster.url, exec=program)

    async with BackendDriver(cluster, {"kubeconfig": config}) as driver:
        assert (await driver.run("true")).exit_code == 0


async def test_context(cluster, tmp_path):
    """The `context` option selects a context of the kubeconfig. An unknown context is reported."""
    config = Path(cluster.kubeconfig(tmp_path))
    content = yaml.safe_load(config.read_text())
    content["contexts"].append({"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}})
    config.write_text(yaml.safe_dump(content))

    async with BackendDriver(cluster, {"kubeconfig": str(config), "context": "other"}) as driver:
        assert (await driver.backend.engine_id()).endswith("/elsewhere")
    async with BackendDriver(cluster, {"kubeconfig": str(config), "context": "none"}) as driver:
        with pytest.raises(EngineUnavailable, match="none"):
            await driver.statuses()


async def test_account_of_the_worker_pod(cluster, tmp_path, monkeypatch):
    """A worker in a pod uses the pod's account and namespace, unless `kubeconfig` names another account."""
    namespace = tmp_path / "namespace"
    namespace.write_text("ours\n")
    monkeypatch.setattr(api, "_POD_NAMESPACE", namespace)

    def load(configuration):
        configuration.host = cluster.url
        configuration.api_key["BearerToken"] = f"Bearer {TOKEN}"

    monkeypatch.setattr(api, "load_incluster_config", load)

    async with BackendDriver(cluster, {}) as driver:
        assert await driver.backend.engine_id() == f"kubernetes:{KUBE_SYSTEM_UID}/ours"
    async with BackendDriver(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as driver:
        assert (await driver.backend.engine_id()).endswith(f"/{NAMESPACE}")


async def test_response_that_is_not_json(driver, cluster):
    """A response that is not JSON counts as no response."""

    async def respond(*_: object) -> web.Response:
        return web.Response(text="<html>a proxy says hello</html>")

    cluster.call(setattr, cluster.server, "route", respond)

    with pytest.raises(EngineUnavailable):
        await driver.statuses()


async def test_list_in_pages(driver, cluster, monkeypatch):
    """A list in several pages is complete, even if the API server forgets the list between two pages."""
    monkeypatch.setattr(api, "PAGE_ITEMS", 2)
    names = [f"upshot-{number}-1" for number in range(5)]
    for name in names:
        await driver.start("true", name=name)
    assert set(await driver.statuses()) == set(names)

    cluster.fail("GET .*/jobs.*continue=", status=410, message="The provided continue parameter is too old")

    assert set(await driver.statuses()) == set(names)


# --- watches --------------------------------------------------------------------------------------


def start_watch(driver: BackendDriver, names: list[str]) -> asyncio.Task[None]:
    """Start a task that appends the name of each event to a list."""

    async def watch() -> None:
        async with driver.watch() as events:
            async for name in events:
                names.append(name)  # noqa: PERF401 - the test reads the list meanwhile

    return asyncio.ensure_future(watch())


async def wait_until(condition) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "fault", [pytest.param({"event": EXPIRED}, id="as an event"), pytest.param({"status": 410}, id="as a response")]
)
async def test_watch_from_an_expired_version(driver, cluster, monkeypatch, fault):
    """If the server no longer has the watch's version, the watch starts again with the current state."""
    monkeypatch.setattr("upshot.backends.kubernetes.cluster.WATCH_SECONDS", 1)
    await driver.start_and_wait()
    names: list[str] = []
    watching = start_watch(driver, names)
    await wait_until(lambda: NAME in names)
    names.clear()

    cluster.fail("GET .*/pods.*watch=true.*resourceVersion=", **fault)

    await wait_until(lambda: NAME in names)  # an event without a change
    assert not watching.done()
    await cancel(watching)


async def test_watch_continues_after_its_end(driver, cluster, monkeypatch):
    """Each watch continues at the version where the previous one ended, so no event comes twice."""
    monkeypatch.setattr("upshot.backends.kubernetes.cluster.WATCH_SECONDS", 1)
    await driver.start_and_wait()
    names: list[str] = []
    watching = start_watch(driver, names)
    await wait_until(lambda: len([line for line in cluster.requests if "watch=true" in line]) >= 6)
    await cancel(watching)

    assert names == [NAME, NAME]  # the Job and its pod, in the current state at the beginning
    watches = [line for line in cluster.requests if "watch=true" in line]
    assert all("resourceVersion=" in line for line in watches[2:])


async def test_watch_without_a_connection(driver, cluster):
    """A watch raises EngineUnavailable when its connection is lost."""
    await driver.start_and_wait()
    names: list[str] = []
    watching = start_watch(driver, names)
    await wait_until(lambda: names)

    await asyncio.to_thread(cluster.go_down)

    with pytest.raises(EngineUnavailable):
        await watching


async def test_watch_without_permission(tmp_path):
    """A watch without permission raises EngineUnavailable."""
    rules = [
        Rule(rule.groups, rule.resources, [verb for verb in rule.verbs if verb != "watch"])
        for rule in documented_rules()
    ]
    with FakeCluster(rules=rules) as cluster:
        async with BackendDriver(cluster, {"kubeconfig": cluster.kubeconfig(tmp_path)}) as driver:
            with pytest.raises(EngineUnavailable, match="cannot watch"):
                await start_watch(driver, [])


async def test_error_in_a_watch(driver, cluster):
    """An error event ends a watch."""
    await driver.start_and_wait()
    status = {"kind": "Status", "code": 500, "message": "etcd is down", "reason": "InternalError"}
    cluster.fail("GET .*watch=true", event={"type": "ERROR", "object": status})

    with pytest.raises(EngineUnavailable, match="etcd is down"):
        await start_watch(driver, [])


def test_client_is_loaded_only_if_needed():
    """A worker without a Kubernetes backend does not load the client library."""
    program = (
        "import sys, upshot.backends.kubernetes, upshot.cli, upshot.jobs.supervisor;"
        "assert not [name for name in sys.modules if name.startswith('kubernetes_asyncio')]"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert make({})
