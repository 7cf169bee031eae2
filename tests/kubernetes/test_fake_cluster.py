"""The fake cluster rejects what a real cluster rejects; the tests of the backend prove no more than this."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import httpx
import pytest

from tests.container_requests import NAME
from tests.fakes.kubernetes.cluster import NAMESPACE, TOKEN, FakeCluster
from tests.fakes.kubernetes.node import expand
from tests.fakes.kubernetes.server import Rule
from tests.fakes.kubernetes.store import SECRET
from tests.kubernetes.driver import request
from tests.waiting import until
from upshot.backends.kubernetes.manifests import job_manifest, secret_manifests
from upshot.backends.kubernetes.options import AuthorOptions, KubernetesOptions

JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
POD_SPEC = "spec.template.spec"


@pytest.fixture
def client(cluster):
    """Return an HTTP client with the token."""
    with httpx.Client(base_url=cluster.url, headers=AUTHORIZATION) as client:
        yield client


@pytest.fixture
def job() -> dict[str, Any]:
    """Return a Job."""
    return job_manifest(request("sleep 600"), KubernetesOptions(), AuthorOptions())


@pytest.fixture
def running_pod(client, job) -> str:
    """Return the path of a running pod."""
    created = client.post(JOBS, json=job).json()
    for secret in secret_manifests(request(), created):
        client.patch(
            f"{SECRETS}/{secret['metadata']['name']}",
            content=json.dumps(secret),
            headers={"Content-Type": "application/apply-patch+yaml"},
            params={"fieldManager": "test"},
        ).raise_for_status()
    client.patch(f"{JOBS}/{NAME}", content='{"spec": {"suspend": false}}', headers=MERGE_PATCH).raise_for_status()
    until(lambda: [pod for pod in client.get(PODS).json()["items"] if pod["status"]["phase"] == "Running"])
    return f"{PODS}/{client.get(PODS).json()['items'][0]['metadata']['name']}"


def test_requests_need_the_token(cluster):
    """A request without the token is rejected."""
    for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": TOKEN}):
        assert httpx.get(cluster.url + JOBS, headers=headers).status_code == 401


def test_requests_need_permissions():
    """Each verb on each kind needs its own permission."""
    with FakeCluster(rules=[Rule(["batch"], ["jobs"], ["list"])]) as cluster:
        paths = (JOBS, f"{JOBS}/x", PODS, f"{JOBS}?watch=true")
        statuses = [httpx.get(cluster.url + path, headers=AUTHORIZATION).status_code for path in paths]

    assert statuses == [200, 403, 403, 403]


def with_value(job: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of the Job with a value at a dotted path."""
    changed = copy.deepcopy(job)
    *parents, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    node: Any = changed
    for step in parents:
        node = node[step]
    node[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param("spec.backofLimit", 0, "backofLimit", id="unknown field"),
        pytest.param("spec.backoffLimit", "0", "is not of type 'integer'", id="string in place of a number"),
        pytest.param(f"{POD_SPEC}.containers.0.volumeMounts.0.mountpath", "/x", "mountpath", id="unknown nested field"),
        pytest.param("kind", "Jobs", "Jobs", id="another kind"),
        pytest.param(f"{POD_SPEC}.restartPolicy", "Always", "restartPolicy", id="restart policy"),
        pytest.param(f"{POD_SPEC}.activeDeadlineSeconds", 0, "activeDeadlineSeconds", id="deadline of 0"),
        pytest.param(f"{POD_SPEC}.containers.0.image", " ", "image: Required", id="no image"),
        pytest.param(f"{POD_SPEC}.containers.0.imagePullPolicy", "Sometimes", "Unsupported value", id="pull policy"),
        pytest.param(f"{POD_SPEC}.containers.0.volumeMounts.0.name", "none", "Not found: 'none'", id="unknown volume"),
        pytest.param(f"{POD_SPEC}.containers.0.volumeMounts.0.mountPath", "/upshot/output", "unique", id="mount path"),
        pytest.param(f"{POD_SPEC}.volumes.0.name", "upshot-output", "Duplicate value", id="duplicate volume"),
        pytest.param(f"{POD_SPEC}.volumes.0.emptyDir", {}, "exactly one volume type", id="two types of one volume"),
        pytest.param(f"{POD_SPEC}.containers.0.resources", {"limits": {"cpu": "1 core"}}, "quantities", id="quantity"),
        pytest.param(f"{POD_SPEC}.containers.0.resources", {"requests": {"a/gpu": 1}}, "overcommitable", id="GPU"),
        pytest.param(f"{POD_SPEC}.containers.0.securityContext.privileged", True, "cannot set", id="contradiction"),
        pytest.param("metadata.labels.note", "two words", "a valid label", id="label"),
        pytest.param("metadata.name", "x" * 64, "no more than 63", id="name"),
    ],
)  # fmt: skip
def test_invalid_job(client, job, path, value, message):
    """A Job that violates the published schema or another rule is rejected with a message like Kubernetes' own."""
    response = client.post(JOBS, json=with_value(job, path, value))

    assert response.status_code == 422
    assert message in response.json()["message"]
    assert client.get(JOBS).json()["items"] == []


def test_name_of_a_job_is_unique(client, job):
    """A second Job of the same name is rejected."""
    assert client.post(JOBS, json=job).status_code == 201
    assert client.post(JOBS, json=job).json()["reason"] == "AlreadyExists"


@pytest.mark.parametrize(
    ("data", "message"),
    [({"a b": ""}, "a valid config key"), ({"a": "***"}, "illegal base64"), ({"a": 1}, "is not of type 'string'")],
)
def test_invalid_secret(client, data, message):
    """A Secret that violates the schema or a rule is rejected."""
    response = client.post(SECRETS, json={"metadata": {"name": "x"}, "data": data})

    assert message in response.json()["message"]


def test_immutable_fields_of_a_job(client, job):
    """The pod template of a Job cannot be changed, and `suspend` must be a boolean."""
    client.post(JOBS, json=job)

    for patch in ('{"spec": {"template": {"spec": {"containers": []}}}}', '{"spec": {"suspend": "no"}}'):
        assert client.patch(f"{JOBS}/{NAME}", content=patch, headers=MERGE_PATCH).status_code == 422


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
def test_mutable_fields_of_a_pod(client, running_pod, patch, status):
    """The deadline of a pod can be shortened. Other fields cannot be changed."""
    response = client.patch(running_pod, content=json.dumps({"spec": patch}), headers=MERGE_PATCH)

    assert response.status_code == status


def test_deleted_pod_exists_until_it_has_ended(client, running_pod):
    """A deleted pod gets a signal and its grace period. Then its Job has failed, and creates no other pod."""
    client.delete(running_pod, params={"gracePeriodSeconds": 1})
    assert client.get(PODS).json()["items"][0]["metadata"]["deletionTimestamp"]

    until(lambda: not client.get(PODS).json()["items"])

    assert client.get(f"{JOBS}/{NAME}").json()["status"]["conditions"][0]["type"] == "Failed"
    assert client.get(PODS).json()["items"] == []


def test_suspended_job_loses_its_pod(client, running_pod):
    """A Job that is suspended deletes its pod, and creates another when it is resumed."""
    first_uid = client.get(PODS).json()["items"][0]["metadata"]["uid"]
    client.patch(f"{JOBS}/{NAME}", content='{"spec": {"suspend": true}}', headers=MERGE_PATCH).raise_for_status()
    # `sleep` as PID 1 ignores the signal, and the grace period is long, so delete the pod with a shorter one.
    client.delete(running_pod, params={"gracePeriodSeconds": 1})
    until(lambda: not client.get(PODS).json()["items"])

    client.patch(f"{JOBS}/{NAME}", content='{"spec": {"suspend": false}}', headers=MERGE_PATCH).raise_for_status()

    until(lambda: [pod for pod in client.get(PODS).json()["items"] if pod["metadata"]["uid"] != first_uid])


def test_secrets_cannot_be_read(client, running_pod, cluster):
    """The account can write Secrets, which the pods use, but cannot read them."""
    assert client.get(f"{SECRETS}/{NAME}-env").status_code == 403
    assert any(base64.b64decode(secret["data"].get("event.json", "")) for secret in cluster.items(SECRET))


@pytest.mark.parametrize(
    ("word", "result"),
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
def test_variables_in_commands(word, result):
    """Variables in commands are replaced as Kubernetes replaces them."""
    assert expand(word, {"A": "value"}) == result


async def test_requests_from_an_event_loop(cluster):
    """The cluster runs on its own thread, so a test's event loop can send requests to it."""
    async with httpx.AsyncClient(headers=AUTHORIZATION) as client:
        assert (await client.get(cluster.url + JOBS)).status_code == 200
