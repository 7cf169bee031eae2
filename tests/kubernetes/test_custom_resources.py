"""Jobs as custom resources from a template, on a fake cluster."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.container_requests import INSTALLATION_ID, NAME
from tests.fakes.kubernetes.cluster import DOCS_PAGE, IMAGE, NAMESPACE, FakeCluster, documented_rules
from tests.fakes.kubernetes.server import KUBE_SYSTEM_UID
from tests.fakes.kubernetes.store import SECRET, Kind
from tests.kubernetes.driver import BackendDriver, request
from tests.waiting import eventually, until
from upshot.backends.kubernetes.template import read_template
from upshot.backends.protocol import EngineUnavailable, Phase, StartRefused
from upshot.domain.job import FailureKind

PYTORCH_JOB = Kind("kubeflow.org/v1", "PyTorchJob", "pytorchjobs")
STARTED, FINISHED = "2026-01-01T12:00:00Z", "2026-01-01T12:05:00Z"

TEMPLATE = """
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: ignored, labels: {team: vision, upshot.job: mine}}
spec:
  seconds: "{{ spec.timeout_seconds }}"
  master:
    image: "{{spec.image}}"
    command: "{{ spec.command }}"
    args: "{{ spec.args }}"
    title: "{{ job.name }} of {{ job.id }}: {{ spec.user }}."
    gpus: "{{ spec.gpus }}"
    network: "{{ spec.network }}"
    envFrom: [{secretRef: {name: "{{ secrets.env }}"}}]
    "{{ namespace }}": 1
"""
OPTIONS: dict[str, Any] = {
    "running-when": {"type": "Running"},
    "succeeded-when": {"type": "Succeeded"},
    "failed-when": [{"type": "Failed"}, {"field": "status.replicas.0.phase", "value": "Error"}],
    "log-selector": {"training.kubeflow.org/job-name": "{{ name }}"},
}


@pytest.fixture
def cluster():
    """Yield a cluster with PyTorchJobs."""
    with FakeCluster([PYTORCH_JOB]) as cluster:
        yield cluster


@pytest.fixture
async def driver(connect, tmp_path) -> BackendDriver:
    """Return a backend whose jobs are PyTorchJobs."""
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    driver: BackendDriver = connect(template=str(tmp_path / "template.yaml"), **OPTIONS)
    return driver


def set_status(cluster: FakeCluster, *conditions: tuple[str, str], **status: Any) -> None:
    """Set conditions, by type and time, and other fields of the PyTorchJob's status, as its controller does."""
    written = [
        {"type": kind, "status": "True", "reason": "Because", "message": f"it is {kind}", "lastTransitionTime": time}
        for kind, time in conditions
    ]
    cluster.update(PYTORCH_JOB, NAME, status={"conditions": written, **status})


def pytorch_job(cluster: FakeCluster) -> dict[str, Any]:
    """Return the PyTorchJob."""
    return cluster.call(lambda: cluster.store.items[PYTORCH_JOB, NAME])


async def test_template_is_filled_in(driver, cluster):
    """A text that is exactly one name takes its value. Other texts contain the values. Upshot sets name and labels."""
    await driver.start("true", args=("a", "b"), timeout_seconds=60.0, gpus=2)
    item = pytorch_job(cluster)

    assert item["spec"]["seconds"] == 60.0
    assert item["spec"]["master"] == {
        "image": IMAGE,
        "command": ["/bin/sh", "-c", "true"],
        "args": ["a", "b"],
        "title": f"evaluate of job_{NAME}: .",
        "gpus": 2,
        "network": "bridge",
        "envFrom": [{"secretRef": {"name": f"{NAME}-env"}}],
        NAMESPACE: 1,
    }
    assert item["metadata"]["name"] == NAME
    labels = item["metadata"]["labels"]
    assert labels["team"] == "vision"
    assert (labels["upshot.job"], labels["upshot.installation"]) == (f"job_{NAME}", INSTALLATION_ID)


def test_name_that_the_job_does_not_have(tmp_path):
    """A start is refused if the template uses a name that the job does not have."""
    path = tmp_path / "x.yaml"
    path.write_text("apiVersion: a/v1\nkind: A\nspec: '{{ job.unknown }}'")

    with pytest.raises(StartRefused, match=r"x.yaml: this job has no \{\{ job.unknown \}\}"):
        read_template(str(path)).fill(request(), "jobs")


async def test_secrets(driver, cluster):
    """The Secrets are created before the object, belong to it afterwards, and are removed with it."""
    await driver.start("true", env={"UPSHOT_TOKEN": "upj_1"}, secret_files={"key": "pem"})
    secrets = {secret["metadata"]["name"]: secret for secret in cluster.items(SECRET)}

    env, files = secrets[f"{NAME}-env"], secrets[f"{NAME}-files"]
    assert base64.b64decode(env["data"]["UPSHOT_TOKEN"]) == b"upj_1"
    assert set(files["data"]) == {"event.json", "secret.key"}
    assert env["metadata"]["ownerReferences"][0]["uid"] == pytorch_job(cluster)["metadata"]["uid"]
    writes = [line for line in cluster.requests if line.startswith(("POST", "PATCH"))]
    assert [line.split("?")[0].rpartition("/")[2] for line in writes] == [
        f"{NAME}-env", f"{NAME}-files", "pytorchjobs", f"{NAME}-env", f"{NAME}-files",
    ]  # fmt: skip

    await driver.remove()

    assert not cluster.items(SECRET)
    assert await driver.statuses() == {}


async def test_lifecycle(driver, cluster):
    """The phase and the times of a job follow the conditions of its status."""
    started = await driver.start()
    assert (await driver.status()).phase is Phase.PENDING
    set_status(cluster, ("Created", STARTED))
    status = await driver.status()
    assert (status.phase, status.note) == (Phase.PENDING, "Created: it is Created")
    set_status(cluster, ("Created", STARTED), ("Running", STARTED))
    status = await driver.status()
    assert (status.phase, status.handle) == (Phase.RUNNING, started.handle)
    assert status.started_at == datetime(2026, 1, 1, 12, tzinfo=UTC)

    set_status(cluster, ("Running", STARTED), ("Succeeded", FINISHED))

    status = await driver.status()
    assert (status.phase, status.exit_code, status.failure) == (Phase.EXITED, 0, None)
    assert status.finished_at == datetime(2026, 1, 1, 12, 5, tzinfo=UTC)
    assert await driver.read_outputs() is None


@pytest.mark.parametrize(
    ("status", "note"),
    [
        pytest.param({"conditions": [("Failed", FINISHED)]}, "Because: it is Failed", id="condition"),
        pytest.param({"replicas": [{"phase": "Error"}]}, None, id="field"),
        pytest.param(
            {"conditions": [("Succeeded", FINISHED), ("Failed", FINISHED)]},
            "Because: it is Failed",
            id="both conditions",
        ),
    ],
)
async def test_failure(driver, cluster, status, note):
    """A failed job has no exit code, and its note is the controller's message."""
    await driver.start()

    set_status(cluster, *status.pop("conditions", ()), **status)

    failed = await driver.status()
    assert (failed.phase, failed.failure, failed.exit_code) == (Phase.EXITED, FailureKind.EXITED, None)
    assert failed.note == note


@pytest.mark.parametrize(
    ("match", "status", "is_met"),
    [
        ({"field": "status.phase", "value": "Done"}, {"phase": "Done"}, True),
        ({"field": "status.phase", "value": "Done"}, {"phase": "Doing"}, False),
        ({"field": "status.done"}, {"done": True}, True),
        ({"field": "status.done"}, {"done": False}, False),
        ({"field": "status.done"}, {}, False),
        ({"field": "status.done", "value": False}, {"done": False}, True),
        ({"field": "status.count", "value": 2}, {"count": 2}, True),
        ({"field": "status.parts.1", "value": "b"}, {"parts": ["a", "b"]}, True),
        ({"field": "status.parts.2"}, {"parts": ["a", "b"]}, False),
        ({"field": "status.phase.deeper"}, {"phase": "Done"}, False),
        ({"type": "Ready", "status": "False"}, {"conditions": [{"type": "Ready", "status": "False"}]}, True),
        ({"type": "Ready"}, {"conditions": [{"type": "Ready", "status": "Unknown"}]}, False),
    ],
)
async def test_condition_match(cluster, connect, tmp_path, match, status, is_met):
    """A job succeeds when a condition of its status, or the value of a field, matches `succeeded-when`."""
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    options = {**OPTIONS, "running-when": [], "succeeded-when": match}
    driver = connect(template=str(tmp_path / "template.yaml"), **options)
    await driver.start()

    cluster.update(PYTORCH_JOB, NAME, status=status)

    assert (await driver.status()).phase is (Phase.EXITED if is_met else Phase.RUNNING)


def create_pod(cluster: FakeCluster, script: str, name: str = "master-0") -> None:
    """Create a pod of the PyTorchJob, as its controller does."""
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": NAME}
    metadata = {
        "name": name,
        "labels": {"training.kubeflow.org/job-name": NAME, "upshot.container": NAME},
        "ownerReferences": [{**owner, "uid": pytorch_job(cluster)["metadata"]["uid"]}],
    }
    container = {"name": "pytorch", "image": IMAGE, "command": ["/bin/sh", "-c", script], "resources": {}}
    spec = {"containers": [{**container, "imagePullPolicy": "IfNotPresent"}], "terminationGracePeriodSeconds": 1}
    pod = {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
    cluster.call(cluster.controllers.create_pod, pod)


async def wait_for_log(driver: BackendDriver, text: bytes) -> None:
    """Wait until the log has exactly this content."""

    async def has_text() -> bool:
        return (await driver.read_log()).data == text

    await eventually(has_text)


async def test_log(driver, cluster):
    """The log is that of the oldest pod with the labels in `log-selector`."""
    await driver.start()
    assert (await driver.read_log()).data == b""
    create_pod(cluster, "echo epoch 1; sleep 600")
    create_pod(cluster, "echo worker", name="worker-0")

    await wait_for_log(driver, b"epoch 1\n")


async def test_stop_deletes_the_object(driver, cluster):
    """A stopped job is listed until its pods have ended, and then no longer."""
    await driver.start()
    create_pod(cluster, "trap '' TERM; while :; do sleep 0.1; done")
    until(lambda: cluster.pods(NAME)[0]["status"]["phase"] == "Running")
    set_status(cluster, ("Running", STARTED))

    await driver.stop()

    status = await driver.status()
    assert (status.phase, status.note) == (Phase.RUNNING, "it is being deleted")

    async def is_deleted() -> bool:
        return not await driver.statuses()

    await eventually(is_deleted)
    await driver.stop()
    await driver.remove()


async def test_second_start(driver, cluster):
    """A second start finds the existing object, but refuses an object of another job."""
    first = await driver.start()
    assert (await driver.start()).handle == first.handle

    metadata = pytorch_job(cluster)["metadata"]
    cluster.update(PYTORCH_JOB, NAME, metadata={**metadata, "labels": {"upshot.job": "another"}})

    with pytest.raises(StartRefused, match="belongs to another job"):
        await driver.start()


@pytest.mark.parametrize("pattern", ["PATCH .*-env", "POST .*/pytorchjobs"])
async def test_rejected_start_leaves_nothing(driver, cluster, pattern):
    """If the API server rejects a request of the start, neither the object nor its Secrets are left."""
    cluster.fail(pattern, status=422, message="spec.master: Required value")

    with pytest.raises(StartRefused, match=r"spec\.master: Required value"):
        await driver.start()

    assert await driver.statuses() == {}
    assert not cluster.items(SECRET)


async def test_interrupted_start_is_continued(driver, cluster):
    """Secrets whose object was not created are found again by the next start."""
    cluster.fail("POST .*/pytorchjobs", status=500)
    with pytest.raises(EngineUnavailable):
        await driver.start()

    await driver.start()

    assert set(await driver.statuses()) == {NAME}
    assert len(cluster.items(SECRET)) == 2


async def test_unknown_kind(tmp_path, cluster, connect):
    """A cluster without the template's kind is unavailable until its operator is installed."""
    (tmp_path / "template.yaml").write_text(TEMPLATE.replace("PyTorchJob", "RayJob"))
    driver = connect(template=str(tmp_path / "template.yaml"), **OPTIONS)

    with pytest.raises(EngineUnavailable, match=r"no RayJob of kubeflow\.org/v1"):
        await driver.statuses()

    ray_job = Kind("kubeflow.org/v1", "RayJob", "rayjobs")
    cluster.server.kinds[ray_job.version, ray_job.plural] = ray_job
    for rule in cluster.server.rules:
        if "pytorchjobs" in rule.resources:
            rule.resources.append("rayjobs")
    assert await driver.statuses() == {}


async def test_each_kind_is_another_engine(driver):
    """The id of the engine contains the kind, so that workers with other backends do not adopt its jobs."""
    engine_id = await driver.backend.engine_id()

    assert engine_id == f"kubernetes:{KUBE_SYSTEM_UID}/{NAMESPACE}/PyTorchJob.kubeflow.org"


async def test_documented_role_is_exact(driver, cluster):
    """The documented Role contains every permission that custom resources need, and no other."""
    await driver.start()
    await driver.start()
    create_pod(cluster, "echo epoch 1")
    await wait_for_log(driver, b"epoch 1\n")
    await driver.statuses()
    await driver.stop()
    await driver.remove()
    await driver.start()
    async with driver.watch() as names:
        await anext(names)

    rules = documented_rules("upshot-pytorchjobs")
    assert cluster.call(cluster.server.used_permissions.copy) == set().union(*(rule.permissions for rule in rules))


def test_documented_template(tmp_path):
    """The template in the docs is valid, and uses only names that every job has."""
    blocks = DOCS_PAGE.read_text().split("```yml\n")
    template = next(block for block in blocks if "kind: PyTorchJob" in block).split("```")[0]
    (tmp_path / "t.yaml").write_text(template)

    filled = read_template(str(tmp_path / "t.yaml")).fill(request(memory_bytes=2**30, gpus=1), "jobs")

    assert "{{" not in json.dumps(filled)
    container = filled["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": 2**30, "nvidia.com/gpu": 1}
