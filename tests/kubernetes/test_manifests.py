"""What Kubernetes is told of a job, held against its schema and its rules."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest

from tests.kubernetes.hand import order
from tests.kubernetes.rules import objections
from tests.kubernetes.schemas import problems
from tests.kubernetes.store import JOB, SECRET
from upshot.backends.kubernetes.manifests import author_options, job_manifest, secret_manifests
from upshot.backends.kubernetes.options import read_options
from upshot.backends.protocol import StartRefused
from upshot.domain.job import ImagePullCredentials, Mount, Network, Pull

MADE = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "upshot-01-1", "uid": "u-1"}}


def job(options: dict[str, Any] | None = None, /, **spec: Any) -> dict[str, Any]:
    """The Job of an order, which Kubernetes takes."""
    one = order(**spec)
    manifest = job_manifest(one, read_options(options or {}), author_options(one))
    assert not problems("batch/v1/Job", manifest)
    assert not objections(JOB, manifest)
    return manifest


def pod(options: dict[str, Any] | None = None, /, **spec: Any) -> dict[str, Any]:
    return dict(job(options, **spec)["spec"]["template"]["spec"])


def main(options: dict[str, Any] | None = None, /, **spec: Any) -> dict[str, Any]:
    (container,) = pod(options, **spec)["containers"]
    return dict(container)


def secrets(one) -> dict[str, dict[str, bytes]]:
    found = {}
    for secret in secret_manifests(one, MADE):
        assert not problems("v1/Secret", secret)
        assert not objections(SECRET, secret)
        found[secret["metadata"]["name"]] = {key: base64.b64decode(value) for key, value in secret["data"].items()}
    return found


SPECS: dict[str, list[Any]] = {
    "network": [Network.BRIDGE, Network.HOST, Network.NONE],
    "user": [None, "0", "1000", "1000:2000"],
    "read_only": [False, True],
    "privileged": [False, True],
    "gpus": [0, 2],
    "shm_bytes": [None, 2**26],
    "files": [{}, {"key": "x", "event.json": "mine"}],
}


def test_whatever_a_spec_asks_for_together_is_a_job_that_kubernetes_takes():
    """No choice of one field makes a Job that another one breaks."""
    choices: list[list[Any]] = list(SPECS.values())
    for values in itertools.product(*choices):
        assert job({"network-policy": True}, **dict(zip(SPECS, values, strict=True)))


def test_a_job_is_one_pod_once():
    """It is suspended at first, has one pod, which is not tried again, and goes by itself in the end."""
    spec = job()["spec"]

    assert (spec["suspend"], spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (True, 1, 1, 0)
    assert spec["ttlSecondsAfterFinished"] == 86_400
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_a_pod_ends_by_itself():
    """Its deadline is the job's timeout and the time for its image; its grace is never too short for the outputs."""
    assert pod({"pull-time": "2m"}, timeout_seconds=60.5, grace_seconds=30)["activeDeadlineSeconds"] == 181
    assert pod(grace_seconds=30.2)["terminationGracePeriodSeconds"] == 31
    assert pod(grace_seconds=0)["terminationGracePeriodSeconds"] == 5


def test_resources_are_requests_and_limits():
    """What a job is given is what its node sets aside for it."""
    resources = main({"gpu-resource": "amd.com/gpu"}, cpus=1.5, memory_bytes=2**30, gpus=2)["resources"]

    assert resources["limits"] == {"cpu": "1500m", "memory": "1073741824", "amd.com/gpu": "2"}
    assert resources["requests"] == resources["limits"]
    assert main(cpus=0.0001)["resources"]["limits"] == {"cpu": "1m"}
    assert main()["resources"] == {"requests": {}, "limits": {}}


def test_shared_memory():
    """`shm` is a folder in memory of that size."""
    volumes = {one["name"]: one for one in pod(shm_bytes=2**26)["volumes"]}

    assert volumes["upshot-shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(2**26)}
    assert {"name": "upshot-shm", "mountPath": "/dev/shm"} in main(shm_bytes=2**26)["volumeMounts"]


def test_a_command_is_taken_as_it_is_written():
    """Kubernetes' own `$(NAME)` is none of an author's."""
    container = main(command=("sh", "-c", "echo $(date) $$ $HOME"), args=("$(UPSHOT_TOKEN)",))

    assert container["command"] == ["sh", "-c", "echo $$(date) $$$$ $$HOME"]
    assert container["args"] == ["$$(UPSHOT_TOKEN)"]


def test_what_an_image_does_by_itself():
    """Without a command, arguments and working directory the image's are left alone."""
    assert not {"command", "args", "workingDir"} & main(command=None).keys()
    assert main(workdir="/srv")["workingDir"] == "/srv"


@pytest.mark.parametrize(
    ("pull", "policy"), [(Pull.ALWAYS, "Always"), (Pull.MISSING, "IfNotPresent"), (Pull.NEVER, "Never")]
)
def test_when_the_image_is_pulled(pull, policy):
    """`pull` is the pull policy."""
    assert main(pull=pull)["imagePullPolicy"] == policy


def test_rights():
    """A job gains no rights, and has no token of the cluster's, unless the operator gives it an account."""
    plain = pod()
    rights = plain["containers"][0]["securityContext"]

    assert rights["allowPrivilegeEscalation"] is False
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "privileged" not in rights
    assert "runAsUser" not in rights
    assert plain["automountServiceAccountToken"] is False
    assert "hostNetwork" not in plain
    assert pod({"service-account": "trainer"})["automountServiceAccountToken"] is True


def test_rights_of_a_user():
    """With a user that is not root, every container keeps to the standard `restricted`."""
    spec = pod(user="1000:2000")

    for container in (*spec["containers"], *spec["initContainers"]):
        rights = container["securityContext"]
        assert (rights["runAsUser"], rights["runAsGroup"], rights["runAsNonRoot"]) == (1000, 2000, True)
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_helper_reads_what_any_user_has_written():
    """Where nobody says who the job runs as, the container that tells the outputs may read all, and nothing else."""
    (helper,) = pod()["initContainers"]

    assert helper["securityContext"]["runAsUser"] == 0
    assert helper["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}
    assert helper["volumeMounts"] == [{"name": "upshot-output", "mountPath": "/upshot/output", "readOnly": True}]
    assert helper["restartPolicy"] == "Always"


def test_power_only_by_the_spec():
    """`privileged` and the host's network are there only where the spec says so."""
    assert main(privileged=True)["securityContext"]["privileged"] is True
    assert pod(network=Network.HOST)["hostNetwork"] is True


def test_a_read_only_root():
    """The root file system cannot be written; /tmp and the outputs can."""
    container = main(read_only=True)

    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/upshot/output"}


def test_mounts():
    """A path is the node's, a name the operator's volume, any other name a claim."""
    options = {
        "volumes": [{"name": "data", "nfs": {"server": "nas", "path": "/data"}}],
        "volume-mounts": [{"name": "data", "mountPath": "/everywhere"}],
    }
    mounts = (Mount("/srv/models", "/models"), Mount("data", "/data", read_only=False), Mount("cache", "/cache"))
    spec = pod(options, mounts=mounts)
    volumes = {one["name"]: one for one in spec["volumes"]}
    seen = {one["mountPath"]: one for one in spec["containers"][0]["volumeMounts"]}

    assert volumes[seen["/models"]["name"]]["hostPath"] == {"path": "/srv/models"}
    assert seen["/models"]["readOnly"] is True
    assert (seen["/data"]["name"], seen["/data"]["readOnly"]) == ("data", False)
    assert volumes[seen["/cache"]["name"]]["persistentVolumeClaim"] == {"claimName": "cache"}
    assert seen["/everywhere"]["name"] == "data"


def test_where_a_pod_may_run():
    """Operator's and author's wishes are joined; under one name, the operator's counts."""
    toleration = {"key": "gpu", "operator": "Exists"}
    options = {"node-selector": {"pool": "gpu"}, "tolerations": [toleration], "priority-class": "low"}
    asked = {"node-selector": {"pool": "cpu", "zone": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}

    spec = pod(options, options=asked)

    assert spec["nodeSelector"] == {"pool": "gpu", "zone": "a"}
    assert spec["tolerations"] == [toleration, {"key": "spot", "operator": "Exists"}]
    assert spec["priorityClassName"] == "low"


def test_labels():
    """Ours cannot be taken, the operator's not by authors; Job and pod have the same."""
    manifest = job(
        {"labels": {"team": "platform"}, "annotations": {"a": "operator"}},
        labels={"team": "mine", "step": "x"},
        options={"labels": {"upshot.job": "other", "extra": "y"}, "annotations": {"a": "author", "b": "author"}},
    )

    labels = manifest["metadata"]["labels"]
    assert (labels["team"], labels["step"], labels["extra"]) == ("platform", "x", "y")
    assert (labels["upshot.job"], labels["upshot.installation"]) == ("job_upshot-01-1", "inst")
    assert manifest["spec"]["template"]["metadata"]["labels"] == labels
    annotations = manifest["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["a"], annotations["b"]) == ("operator", "author")
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_nothing_secret_is_in_the_job():
    """Environment, files, event and login are in Secrets of the Job's own, and there alone."""
    one = order(
        env={"UPSHOT_TOKEN": "upj_1"},
        files={"key": "pem", "event.json": "mine"},
        registry_auth=ImagePullCredentials("me", "pass-1"),
        image="ghcr.io/acme/x:1",
    )
    manifest = json.dumps(job_manifest(one, read_options({}), author_options(one)))
    found = secrets(one)

    assert not [word for word in ("upj_1", "pem", "pass-1", "alias-added") if word in manifest]
    assert found["upshot-01-1-env"] == {"UPSHOT_TOKEN": b"upj_1"}
    assert found["upshot-01-1-files"] == {
        "event.json": b'{"kind": "alias-added"}',
        "secret.key": b"pem",
        "secret.event.json": b"mine",
    }
    for secret in secret_manifests(one, MADE):
        (owner,) = secret["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Job", "u-1")


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("ghcr.io/acme/x:1", "ghcr.io"),
        ("localhost:5000/x", "localhost:5000"),
        ("localhost/x", "localhost"),
        ("acme/x", "https://index.docker.io/v1/"),
        ("busybox", "https://index.docker.io/v1/"),
    ],
)
def test_the_login_is_for_the_images_registry(image, registry):
    """It is written under the name that container runtimes look for, and the pod is told of it."""
    one = order(image=image, registry_auth=ImagePullCredentials("me", "pass"))
    config = json.loads(secrets(one)["upshot-01-1-pull"][".dockerconfigjson"])

    assert config["auths"][registry] == {
        "username": "me",
        "password": "pass",
        "auth": base64.b64encode(b"me:pass").decode(),
    }
    names = pod({"image-pull-secrets": ["team"]}, image=image, registry_auth=one.spec.registry_auth)["imagePullSecrets"]
    assert names == [{"name": "team"}, {"name": "upshot-01-1-pull"}]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        pytest.param({"network": Network.NONE}, "network-policy: true", id="no network"),
        pytest.param({"gpus": -1}, "in place of `all`", id="all GPUs"),
        pytest.param({"user": "worker"}, "number of 'worker'", id="a user by name"),
        pytest.param({"user": "1000:staff"}, "number of '1000:staff'", id="a group by name"),
        pytest.param({"image": ""}, "write `image`", id="no image"),
        pytest.param({"options": {"volumes": []}}, "kubernetes: volumes: unknown key", id="an operator's option"),
    ],
)
def test_what_no_pod_can_have_is_refused(spec, said):
    """The reason says what to write instead."""
    one = order(**spec)

    with pytest.raises(StartRefused, match=said):
        job_manifest(one, read_options({}), author_options(one))
