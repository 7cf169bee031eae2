"""The stand-in refuses what a cluster refuses; a test of the backend proves no more than this does."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest

from tests.kubernetes.hand import NAME, order
from tests.kubernetes.node import expand
from tests.kubernetes.server import Rule
from tests.kubernetes.stand_in import NAMESPACE, TOKEN, StandIn
from tests.waiting import until
from upshot.backends.kubernetes.manifests import job_manifest, secret_manifests
from upshot.backends.kubernetes.options import AuthorOptions, Options

JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def client(cluster):
    """Whoever has the token."""
    with httpx.Client(base_url=cluster.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


@pytest.fixture
def job() -> dict[str, Any]:
    return job_manifest(order("sleep 600"), Options(), AuthorOptions())


@pytest.fixture
def runs(client, job) -> str:
    """Path of a pod that runs."""
    made = client.post(JOBS, json=job).json()
    for secret in secret_manifests(order(), made):
        client.patch(
            f"{SECRETS}/{secret['metadata']['name']}",
            content=json.dumps(secret),
            headers={"Content-Type": "application/apply-patch+yaml"},
            params={"fieldManager": "test"},
        ).raise_for_status()
    client.patch(f"{JOBS}/{NAME}", content='{"spec": {"suspend": false}}', headers=MERGE).raise_for_status()
    until(lambda: [pod for pod in client.get(PODS).json()["items"] if pod["status"]["phase"] == "Running"])
    return f"{PODS}/{client.get(PODS).json()['items'][0]['metadata']['name']}"


def test_who_has_no_token(cluster):
    """Nothing is said to whoever does not bear the token."""
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": TOKEN}):
        assert httpx.get(cluster.url + JOBS, headers=headers).status_code == 401


def test_what_no_role_allows(tmp_path):
    """Each verb on each kind is asked for by itself."""
    with StandIn(rules=[Rule(["batch"], ["jobs"], ["list"])]) as cluster:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        asked = {path: httpx.get(cluster.url + path, headers=headers).status_code for path in (JOBS, f"{JOBS}/x", PODS)}
        watched = httpx.get(f"{cluster.url}{JOBS}?watch=true", headers=headers).status_code

    assert asked == {JOBS: 200, f"{JOBS}/x": 403, PODS: 403}
    assert watched == 403


def changed(job: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The same with something else at a dotted path."""
    one: dict[str, Any] = json.loads(json.dumps(job))
    *above, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    found: Any = one
    for step in above:
        found = found[step]
    found[last] = value
    return one


POD = "spec.template.spec"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param("spec.backofLimit", 0, "backofLimit", id="a field that there is not"),
        pytest.param("spec.backoffLimit", "0", "is not of type 'integer'", id="a text for a number"),
        pytest.param(f"{POD}.containers.0.volumeMounts.0.mountpath", "/x", "mountpath", id="a field deep inside"),
        pytest.param("kind", "Jobs", "Jobs", id="another kind"),
        pytest.param(f"{POD}.restartPolicy", "Always", "restartPolicy", id="restarts"),
        pytest.param(f"{POD}.activeDeadlineSeconds", 0, "activeDeadlineSeconds", id="no time at all"),
        pytest.param(f"{POD}.containers.0.image", " ", "image: Required", id="no image"),
        pytest.param(f"{POD}.containers.0.imagePullPolicy", "Sometimes", "Unsupported value", id="a policy"),
        pytest.param(f"{POD}.containers.0.volumeMounts.0.name", "none", "Not found: 'none'", id="no such volume"),
        pytest.param(f"{POD}.containers.0.volumeMounts.0.mountPath", "/upshot/output", "must be unique", id="one path"),
        pytest.param(f"{POD}.volumes.0.name", "upshot-output", "Duplicate value", id="one name"),
        pytest.param(f"{POD}.volumes.0.emptyDir", {}, "exactly one volume type", id="two volumes in one"),
        pytest.param(f"{POD}.containers.0.resources", {"limits": {"cpu": "1 core"}}, "quantities", id="a quantity"),
        pytest.param(f"{POD}.containers.0.resources", {"requests": {"a/gpu": 1}}, "non overcommitable", id="a GPU"),
        pytest.param(f"{POD}.containers.0.securityContext.privileged", True, "cannot set", id="two minds"),
        pytest.param("metadata.labels.note", "two words", "a valid label", id="a label"),
        pytest.param("metadata.name", "x" * 64, "no more than 63", id="a name"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be(client, job, path, value, said):
    """It breaks the published schema, or a rule beyond it, and is refused in words like Kubernetes' own."""
    answer = client.post(JOBS, json=changed(job, path, value))

    assert answer.status_code == 422
    assert said in answer.json()["message"]
    assert client.get(JOBS).json()["items"] == []


def test_a_job_of_a_name_that_is_taken(client, job):
    """There is one of each name."""
    assert client.post(JOBS, json=job).status_code == 201
    assert client.post(JOBS, json=job).json()["reason"] == "AlreadyExists"


@pytest.mark.parametrize(
    ("data", "said"),
    [({"a b": ""}, "a valid config key"), ({"a": "***"}, "illegal base64"), ({"a": 1}, "is not of type 'string'")],
)
def test_a_secret_that_cannot_be(client, data, said):
    """The same of Secrets."""
    assert said in client.post(SECRETS, json={"metadata": {"name": "x"}, "data": data}).json()["message"]


def test_what_of_a_job_cannot_be_changed(client, job):
    """Its pods' template stays; whether it is suspended does not."""
    client.post(JOBS, json=job)
    template: dict[str, Any] = {"spec": {"template": {"spec": {"containers": []}}}}

    assert client.patch(f"{JOBS}/{NAME}", content=json.dumps(template), headers=MERGE).status_code == 422
    assert client.patch(f"{JOBS}/{NAME}", content='{"spec": {"suspend": "no"}}', headers=MERGE).status_code == 422


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        ({"activeDeadlineSeconds": 1}, 200),
        ({"activeDeadlineSeconds": 10**6}, 422),
        ({"activeDeadlineSeconds": 0}, 422),
        ({"terminationGracePeriodSeconds": 1}, 422),
        ({"nodeSelector": {"a": "b"}}, 422),
    ],
)
def test_what_of_a_pod_can_be_changed(client, runs, patch, status):
    """Its deadline can come nearer; nothing else that we could want."""
    assert client.patch(runs, content=json.dumps({"spec": patch}), headers=MERGE).status_code == status


def test_a_pod_that_is_deleted_is_seen_until_it_has_ended(client, runs):
    """It gets its signal and its grace; its Job has failed then, and makes no other."""
    client.delete(runs, params={"gracePeriodSeconds": 1})
    assert client.get(PODS).json()["items"][0]["metadata"]["deletionTimestamp"]

    until(lambda: not client.get(PODS).json()["items"])

    assert client.get(f"{JOBS}/{NAME}").json()["status"]["conditions"][0]["type"] == "Failed"
    assert client.get(PODS).json()["items"] == []


def test_a_job_that_is_suspended_loses_its_pod(client, runs):
    """And makes another when it is let go."""
    first = client.get(PODS).json()["items"][0]["metadata"]["uid"]
    patch = '{"spec": {"suspend": true}}'
    client.patch(f"{JOBS}/{NAME}", content=patch, headers=MERGE).raise_for_status()
    # `sleep` as PID 1 does not hear the signal, and the grace is long; a person would help it.
    client.delete(runs, params={"gracePeriodSeconds": 1})
    until(lambda: not client.get(PODS).json()["items"])

    client.patch(f"{JOBS}/{NAME}", content='{"spec": {"suspend": false}}', headers=MERGE).raise_for_status()

    until(lambda: [pod for pod in client.get(PODS).json()["items"] if pod["metadata"]["uid"] != first])


def test_what_an_account_does_not_see(client, runs, cluster):
    """Values of Secrets are written, and come into the pod; nobody reads them back."""
    assert client.get(f"{SECRETS}/{NAME}-env").status_code == 403
    kept = cluster.do(lambda: [one for (kind, _), one in cluster.store.things.items() if kind.kind == "Secret"])
    assert {base64.b64decode(one["data"]["event.json"]) for one in kept if "event.json" in one["data"]}


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("$(A)", "value"),
        ("$$(A)", "$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$A $", "$A $"),
        ("$$$$", "$$"),
        ("$(A", "$(A"),
        ("x$(A)y", "xvaluey"),
    ],
)
def test_names_in_commands(word, becomes):
    """They are replaced as Kubernetes replaces them."""
    assert expand(word, {"A": "value"}) == becomes


def test_it_can_be_asked_from_anywhere(cluster):
    """It runs on a thread of its own, beside any loop."""

    async def ask() -> int:
        async with httpx.AsyncClient() as client:
            return (await client.get(cluster.url + JOBS, headers={"Authorization": f"Bearer {TOKEN}"})).status_code

    assert asyncio.run(ask()) == 200
