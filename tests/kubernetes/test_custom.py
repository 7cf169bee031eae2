"""Jobs as custom resources from a template, on a cluster that is played."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.kubernetes.hand import INSTALLATION, NAME, Hand, order
from tests.kubernetes.server import KUBE_SYSTEM_UID
from tests.kubernetes.stand_in import IMAGE, NAMESPACE, PAGE, StandIn, documented_rules
from tests.kubernetes.store import SECRET, Kind
from tests.waiting import until
from upshot.backends.kubernetes.template import read_template
from upshot.backends.protocol import EngineUnavailable, Phase, StartRefused
from upshot.domain.job import FailureKind

PYTORCH_JOB = Kind("kubeflow.org/v1", "PyTorchJob", "pytorchjobs")
BEGUN, ENDED = "2026-01-01T12:00:00Z", "2026-01-01T12:05:00Z"

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
OPTIONS = {
    "running-when": {"type": "Running"},
    "succeeded-when": {"type": "Succeeded"},
    "failed-when": [{"type": "Failed"}, {"field": "status.replicas.0.phase", "value": "Error"}],
    "log-selector": {"training.kubeflow.org/job-name": "{{ name }}"},
}


@pytest.fixture
def cluster():
    """A cluster that knows PyTorchJobs."""
    with StandIn([PYTORCH_JOB]) as stand_in:
        yield stand_in


@pytest.fixture
def hand(cluster, connect, tmp_path) -> Hand:
    """A backend whose jobs are PyTorchJobs."""
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    options: Any = {"template": str(tmp_path / "template.yaml"), **OPTIONS}
    made_up: Hand = connect(**options)
    return made_up


def say(cluster: StandIn, *conditions: tuple[str, str], **status: Any) -> None:
    """Let the object's controller write its status."""
    written = [
        {"type": kind, "status": "True", "reason": "Because", "message": f"it is {kind}", "lastTransitionTime": at}
        for kind, at in conditions
    ]
    cluster.change(PYTORCH_JOB, NAME, status={"conditions": written, **status})


def made(cluster: StandIn) -> dict[str, Any]:
    return cluster.do(lambda: cluster.store.things[PYTORCH_JOB, NAME])


def test_a_template_is_filled_in(hand, cluster):
    """A text that is one name alone takes its value, others its text; name and labels are ours."""
    hand.start("true", args=("a", "b"), timeout_seconds=60.0, gpus=2)
    thing = made(cluster)

    assert thing["spec"]["seconds"] == 60.0
    assert thing["spec"]["master"] == {
        "image": IMAGE,
        "command": ["/bin/sh", "-c", "true"],
        "args": ["a", "b"],
        "title": f"evaluate of job_{NAME}: .",
        "gpus": 2,
        "network": "bridge",
        "envFrom": [{"secretRef": {"name": f"{NAME}-env"}}],
        NAMESPACE: 1,
    }
    assert thing["metadata"]["name"] == NAME
    labels = thing["metadata"]["labels"]
    assert (labels["team"], labels["upshot.job"], labels["upshot.installation"]) == (
        "vision",
        f"job_{NAME}",
        INSTALLATION,
    )


def test_a_name_that_a_job_has_not(tmp_path):
    """The start is refused, with file and name."""
    path = tmp_path / "x.yaml"
    path.write_text("apiVersion: a/v1\nkind: A\nspec: '{{ job.unheard }}'")

    with pytest.raises(StartRefused, match=r"x.yaml: \{\{ job.unheard \}\} is nothing that this job has"):
        read_template(str(path)).fill(order(), "jobs")


def test_secrets_of_a_custom_resource(hand, cluster):
    """They are there before it, belong to it afterwards, and are removed with it."""
    hand.start("true", env={"UPSHOT_TOKEN": "upj_1"}, files={"key": "pem"})
    secrets = {one["metadata"]["name"]: one for one in cluster.do(cluster.store.all, SECRET)}

    env, files = secrets[f"{NAME}-env"], secrets[f"{NAME}-files"]
    assert base64.b64decode(env["data"]["UPSHOT_TOKEN"]) == b"upj_1"
    assert set(files["data"]) == {"event.json", "secret.key"}
    assert env["metadata"]["ownerReferences"][0]["uid"] == made(cluster)["metadata"]["uid"]
    lines = [line for line in cluster.asked if line.startswith(("POST", "PATCH"))]
    assert [line.split("?")[0].rpartition("/")[2] for line in lines] == [
        f"{NAME}-env", f"{NAME}-files", "pytorchjobs", f"{NAME}-env", f"{NAME}-files",
    ]  # fmt: skip

    hand.remove()

    assert not cluster.do(cluster.store.all, SECRET)
    assert hand.look() == {}


def test_its_life(hand, cluster):
    """It is pending, runs and ends as its conditions say, by their times."""
    started = hand.start()
    assert hand.seen().phase is Phase.PENDING
    say(cluster, ("Created", BEGUN))
    assert (hand.seen().phase, hand.seen().note) == (Phase.PENDING, "Created: it is Created")
    say(cluster, ("Created", BEGUN), ("Running", BEGUN))
    seen = hand.seen()
    assert (seen.phase, seen.handle) == (Phase.RUNNING, started.handle)
    assert seen.started_at == datetime(2026, 1, 1, 12, tzinfo=UTC)

    say(cluster, ("Running", BEGUN), ("Succeeded", ENDED))

    seen = hand.seen()
    assert (seen.phase, seen.exit_code, seen.cause) == (Phase.EXITED, 0, None)
    assert seen.finished_at == datetime(2026, 1, 1, 12, 5, tzinfo=UTC)
    assert hand.outputs() is None


@pytest.mark.parametrize(
    ("status", "note"),
    [
        pytest.param({"conditions": [("Failed", ENDED)]}, "Because: it is Failed", id="a condition"),
        pytest.param({"replicas": [{"phase": "Error"}]}, None, id="a field"),
        pytest.param({"conditions": [("Succeeded", ENDED), ("Failed", ENDED)]}, "Because: it is Failed", id="both"),
    ],
)  # fmt: skip
def test_its_failure(hand, cluster, status, note):
    """A failure has no exit code; its words are the controller's."""
    hand.start()

    say(cluster, *status.pop("conditions", ()), **status)

    seen = hand.seen()
    assert (seen.phase, seen.cause, seen.exit_code, seen.note) == (Phase.EXITED, FailureKind.EXITED, None, note)


@pytest.mark.parametrize(
    ("when", "status", "holds"),
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
def test_conditions(cluster, connect, tmp_path, when, status, holds):
    """A condition of the status, or a field's value, ends it; nothing else does."""
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    options = {**OPTIONS, "running-when": [], "succeeded-when": when}
    hand = connect(template=str(tmp_path / "template.yaml"), **options)
    hand.start()

    cluster.change(PYTORCH_JOB, NAME, status=status)

    assert hand.seen().phase is (Phase.EXITED if holds else Phase.RUNNING)


def pod(cluster: StandIn, script: str, name: str = "master-0") -> None:
    """Let its controller make a pod."""
    about = {
        "name": name,
        "labels": {"training.kubeflow.org/job-name": NAME, "upshot.container": NAME},
        "ownerReferences": [
            {
                "apiVersion": "kubeflow.org/v1",
                "kind": "PyTorchJob",
                "name": NAME,
                "uid": made(cluster)["metadata"]["uid"],
            }
        ],
    }
    container = {"name": "pytorch", "image": IMAGE, "command": ["/bin/sh", "-c", script], "resources": {}}
    spec = {"containers": [{**container, "imagePullPolicy": "IfNotPresent"}], "terminationGracePeriodSeconds": 1}
    cluster.do(cluster.controllers.make_pod, {"metadata": about, "spec": spec, "status": {"phase": "Pending"}})


def test_its_log(hand, cluster):
    """It is that of the pod with the labels that the operator names."""
    hand.start()
    assert hand.log().data == b""
    pod(cluster, "echo epoch 1; sleep 600")
    pod(cluster, "echo worker", name="worker-0")

    hand.until(lambda: _says(hand, b"epoch 1\n"))


async def _says(hand: Hand, text: bytes) -> bool:
    return (await hand.backend.read_log(NAME, None, limit_bytes=100)).data == text


def test_it_is_stopped_by_deletion(hand, cluster):
    """It is seen until all that it made has ended, and then no more."""
    hand.start()
    pod(cluster, "trap '' TERM; while :; do sleep 0.1; done")
    until(lambda: cluster.pods(NAME)[0]["status"]["phase"] == "Running")
    say(cluster, ("Running", BEGUN))

    hand.stop()

    assert (hand.seen().phase, hand.seen().note) == (Phase.RUNNING, "it is being deleted")
    until(lambda: not hand.look())
    hand.stop()
    hand.remove()


def test_starting_it_twice(hand, cluster):
    """It is one object; somebody else's of that name is refused."""
    first = hand.start()
    assert hand.start().handle == first.handle

    thing = made(cluster)
    cluster.change(PYTORCH_JOB, NAME, metadata={**thing["metadata"], "labels": {"upshot.job": "another"}})

    with pytest.raises(StartRefused, match="of somebody else's"):
        hand.start()


@pytest.mark.parametrize("where", ["PATCH .*-env", "POST .*/pytorchjobs"])
def test_a_start_that_is_refused_leaves_nothing(hand, cluster, where):
    """Neither object nor Secrets."""
    cluster.fault(where, status=422, message="spec.master: Required value")

    with pytest.raises(StartRefused, match=r"spec\.master: Required value"):
        hand.start()

    assert hand.look() == {}
    assert not cluster.do(cluster.store.all, SECRET)


def test_a_start_that_breaks_off_is_taken_up(hand, cluster):
    """Secrets without an object are found by their names again."""
    cluster.fault("POST .*/pytorchjobs", status=500)
    with pytest.raises(EngineUnavailable):
        hand.start()

    hand.start()

    assert set(hand.look()) == {NAME}
    assert len(cluster.do(cluster.store.all, SECRET)) == 2


def test_a_kind_that_the_cluster_does_not_know(tmp_path, cluster, connect):
    """It is said which one; when somebody installs it, all goes on."""
    (tmp_path / "template.yaml").write_text(TEMPLATE.replace("PyTorchJob", "RayJob"))
    hand = connect(template=str(tmp_path / "template.yaml"), **OPTIONS)

    with pytest.raises(EngineUnavailable, match=r"no RayJob of kubeflow\.org/v1"):
        hand.look()

    ray = Kind("kubeflow.org/v1", "RayJob", "rayjobs")
    cluster.server.kinds[ray.version, ray.plural] = ray
    cluster.server.rules[0].resources.append("rayjobs")
    for rule in cluster.server.rules:
        if "pytorchjobs" in rule.resources:
            rule.resources.append("rayjobs")
    assert hand.look() == {}


def test_it_is_another_engine_than_jobs(hand):
    """Nobody takes up its jobs for those of another kind."""
    identity = hand.do(hand.backend.engine_id())

    assert identity == f"kubernetes:{KUBE_SYSTEM_UID}/{NAMESPACE}/PyTorchJob.kubeflow.org"


def test_the_role_on_the_page_is_exact(hand, cluster):
    """All that is needed is in the Role for custom resources, and nothing else is."""
    hand.start()
    hand.start()
    pod(cluster, "echo epoch 1")
    hand.until(lambda: _says(hand, b"epoch 1\n"))
    hand.look()
    hand.stop()
    hand.remove()
    hand.start()

    async def first_hint() -> None:
        async for _ in hand.backend.watch_events(INSTALLATION):
            return

    hand.do(first_hint())

    rules = documented_rules("upshot-pytorchjobs")
    assert cluster.do(cluster.server.used.copy) == set().union(*(rule.needs for rule in rules))


def test_the_template_on_the_page(tmp_path):
    """It is one that we take, and that names what a job has."""
    block = next(block for block in PAGE.read_text().split("```yml\n") if "kind: PyTorchJob" in block).split("```")[0]
    (tmp_path / "t.yaml").write_text(block)

    filled = read_template(str(tmp_path / "t.yaml")).fill(order(memory_bytes=2**30, gpus=1), "jobs")

    assert "{{" not in json.dumps(filled)
    container = filled["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": 2**30, "nvidia.com/gpu": 1}
