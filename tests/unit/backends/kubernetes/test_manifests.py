"""The Kubernetes objects of a job are valid by Kubernetes' schema and rules, and contain what the job asks for."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest

from tests.container_requests import container_request
from tests.fakes.kubernetes.rules import violations
from tests.fakes.kubernetes.schemas import schema_errors
from tests.fakes.kubernetes.store import JOB, SECRET
from upshot.backends.kubernetes.manifests import author_options, job_manifest, secret_manifests
from upshot.backends.kubernetes.options import read_options
from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain.job import ImagePullCredentials, Mount, Network, Pull

OWNER = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "upshot-01-1", "uid": "u-1"}}


def request_for(**spec: Any) -> ContainerRequest:
    """Return a request with an image."""
    return container_request(**{"image": "shell:1", **spec})


def job(options: dict[str, Any] | None = None, /, **spec: Any) -> dict[str, Any]:
    """Return the Job for a spec, after checking that Kubernetes accepts it."""
    request = request_for(**spec)
    manifest = job_manifest(request, read_options(options or {}), author_options(request))
    assert not schema_errors("batch/v1/Job", manifest)
    assert not violations(JOB, manifest)
    return manifest


def pod(options: dict[str, Any] | None = None, /, **spec: Any) -> dict[str, Any]:
    """Return the pod's spec for a job's spec."""
    return dict(job(options, **spec)["spec"]["template"]["spec"])


def main(options: dict[str, Any] | None = None, /, **spec: Any) -> dict[str, Any]:
    """Return the main container for a job's spec."""
    (container,) = pod(options, **spec)["containers"]
    return dict(container)


def secrets(request: ContainerRequest) -> dict[str, dict[str, bytes]]:
    """Return the content of the Secrets by name, after checking that Kubernetes accepts them."""
    found = {}
    for secret in secret_manifests(request, OWNER):
        assert not schema_errors("v1/Secret", secret)
        assert not violations(SECRET, secret)
        found[secret["metadata"]["name"]] = {key: base64.b64decode(value) for key, value in secret["data"].items()}
    return found


SPECS: dict[str, list[Any]] = {
    "network": [Network.BRIDGE, Network.HOST, Network.NONE],
    "user": [None, "0", "1000", "1000:2000"],
    "read_only": [False, True],
    "privileged": [False, True],
    "gpus": [0, 2],
    "shm_bytes": [None, 2**26],
    "secret_files": [{}, {"key": "x", "event.json": "mine"}],
}


def test_every_combination_of_options_is_valid():
    """Kubernetes accepts the Job for every combination of options."""
    choices: list[list[Any]] = list(SPECS.values())
    for values in itertools.product(*choices):
        assert job({"network-policy": True}, **dict(zip(SPECS, values, strict=True)))


def test_job_runs_one_pod_once():
    """A Job is created suspended, runs one pod without retries, and is removed by itself in the end."""
    spec = job()["spec"]

    assert (spec["suspend"], spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (True, 1, 1, 0)
    assert spec["ttlSecondsAfterFinished"] == 86_400
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_deadline_and_grace_period():
    """The deadline is the timeout plus the time for the image. The grace period is long enough for the outputs."""
    assert pod({"pull-time": "2m"}, timeout_seconds=60.5, grace_seconds=30)["activeDeadlineSeconds"] == 181
    assert pod(grace_seconds=30.2)["terminationGracePeriodSeconds"] == 31
    assert pod(grace_seconds=0)["terminationGracePeriodSeconds"] == 5


def test_resources():
    """Requests and limits are equal."""
    resources = main({"gpu-resource": "amd.com/gpu"}, cpus=1.5, memory_bytes=2**30, gpus=2)["resources"]

    assert resources["limits"] == {"cpu": "1500m", "memory": "1073741824", "amd.com/gpu": "2"}
    assert resources["requests"] == resources["limits"]
    assert main(cpus=0.0001)["resources"]["limits"] == {"cpu": "1m"}
    assert main()["resources"] == {"requests": {}, "limits": {}}


def test_shared_memory():
    """`shm` mounts a volume in memory of that size."""
    volumes = {volume["name"]: volume for volume in pod(shm_bytes=2**26)["volumes"]}

    assert volumes["upshot-shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": str(2**26)}
    assert {"name": "upshot-shm", "mountPath": "/dev/shm"} in main(shm_bytes=2**26)["volumeMounts"]


def test_command_is_escaped():
    """Kubernetes does not replace `$(NAME)` in a job's command and arguments."""
    container = main(command=("sh", "-c", "echo $(date) $$ $HOME"), args=("$(UPSHOT_TOKEN)",))

    assert container["command"] == ["sh", "-c", "echo $$(date) $$$$ $$HOME"]
    assert container["args"] == ["$$(UPSHOT_TOKEN)"]


def test_defaults_of_the_image():
    """Without a command, arguments and a working directory, those of the image apply."""
    assert not {"command", "args", "workingDir"} & main(command=None).keys()
    assert main(workdir="/srv")["workingDir"] == "/srv"


@pytest.mark.parametrize(
    ("pull", "policy"), [(Pull.ALWAYS, "Always"), (Pull.MISSING, "IfNotPresent"), (Pull.NEVER, "Never")]
)
def test_pull_policy(pull, policy):
    """`pull` sets the image pull policy."""
    assert main(pull=pull)["imagePullPolicy"] == policy


def test_default_privileges():
    """A job cannot gain privileges, and has no token of the cluster unless the operator names an account."""
    default = pod()
    context = default["containers"][0]["securityContext"]

    assert context["allowPrivilegeEscalation"] is False
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "privileged" not in context
    assert "runAsUser" not in context
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert default["automountServiceAccountToken"] is False
    assert "hostNetwork" not in default
    assert pod({"service-account": "trainer"})["automountServiceAccountToken"] is True


def test_capabilities():
    """A job has only the capabilities that it lists. With privileges it has all."""
    assert main(capabilities=("CHOWN",))["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert "capabilities" not in main(privileged=True)["securityContext"]


def test_user_other_than_root():
    """With a user other than root, every container meets the standard `restricted`."""
    spec = pod(user="1000:2000")

    for container in (*spec["containers"], *spec["initContainers"]):
        context = container["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (1000, 2000, True)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_sidecar_of_an_unknown_user():
    """Without a user in the spec, the sidecar can read files of every user, and can do nothing else."""
    (sidecar,) = pod()["initContainers"]

    assert sidecar["securityContext"]["runAsUser"] == 0
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]}
    assert sidecar["volumeMounts"] == [{"name": "upshot-output", "mountPath": "/upshot/output", "readOnly": True}]
    assert sidecar["restartPolicy"] == "Always"


def test_privileged_and_host_network():
    """A spec can ask for privileges and for the network of the host."""
    assert main(privileged=True)["securityContext"]["privileged"] is True
    assert pod(network=Network.HOST)["hostNetwork"] is True


def test_read_only_root():
    """With a read-only root, only /tmp and the output directory are writable."""
    container = main(read_only=True)

    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/upshot/output"}


def test_mounts():
    """A path mounts a directory of the node, the name of a volume mounts it, and any other name mounts a claim."""
    options = {
        "volumes": [{"name": "data", "nfs": {"server": "nas", "path": "/data"}}],
        "volume-mounts": [{"name": "data", "mountPath": "/everywhere"}],
    }
    mounts = (Mount("/srv/models", "/models"), Mount("data", "/data", read_only=False), Mount("cache", "/cache"))
    spec = pod(options, mounts=mounts)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounted = {mount["mountPath"]: mount for mount in spec["containers"][0]["volumeMounts"]}

    assert volumes[mounted["/models"]["name"]]["hostPath"] == {"path": "/srv/models"}
    assert mounted["/models"]["readOnly"] is True
    assert (mounted["/data"]["name"], mounted["/data"]["readOnly"]) == ("data", False)
    assert volumes[mounted["/cache"]["name"]]["persistentVolumeClaim"] == {"claimName": "cache"}
    assert mounted["/everywhere"]["name"] == "data"


def test_choice_of_nodes():
    """Node selectors and tolerations of operator and author are combined. The operator's values win."""
    toleration = {"key": "gpu", "operator": "Exists"}
    options = {"node-selector": {"pool": "gpu"}, "tolerations": [toleration], "priority-class": "low"}
    author = {"node-selector": {"pool": "cpu", "zone": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}

    spec = pod(options, kubernetes=author)

    assert spec["nodeSelector"] == {"pool": "gpu", "zone": "a"}
    assert spec["tolerations"] == [toleration, {"key": "spot", "operator": "Exists"}]
    assert spec["priorityClassName"] == "low"


def test_labels_and_annotations():
    """Upshot's labels win over the operator's, and the operator's over the author's. Job and pod have the same."""
    manifest = job(
        {"labels": {"team": "platform"}, "annotations": {"a": "operator"}},
        labels={"team": "mine", "step": "x"},
        kubernetes={"labels": {"upshot.job": "other", "extra": "y"}, "annotations": {"a": "author", "b": "author"}},
    )

    labels = manifest["metadata"]["labels"]
    assert (labels["team"], labels["step"], labels["extra"]) == ("platform", "x", "y")
    assert (labels["upshot.job"], labels["upshot.installation"]) == ("job_upshot-01-1", "inst")
    assert manifest["spec"]["template"]["metadata"]["labels"] == labels
    annotations = manifest["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["a"], annotations["b"]) == ("operator", "author")
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_secrets_are_not_in_the_job():
    """Environment, files, event and credentials are in Secrets that belong to the Job, and not in the Job itself."""
    request = request_for(
        env={"UPSHOT_TOKEN": "upj_1"},
        secret_files={"key": "pem", "event.json": "mine"},
        registry_auth=ImagePullCredentials("me", "pass-1"),
        image="ghcr.io/acme/x:1",
    )
    manifest = json.dumps(job_manifest(request, read_options({}), author_options(request)))
    found = secrets(request)

    assert not [word for word in ("upj_1", "pem", "pass-1", "alias-added") if word in manifest]
    assert found["upshot-01-1-env"] == {"UPSHOT_TOKEN": b"upj_1"}
    assert found["upshot-01-1-files"] == {
        "event.json": b'{"kind": "alias-added"}',
        "secret.key": b"pem",
        "secret.event.json": b"mine",
    }
    for secret in secret_manifests(request, OWNER):
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
def test_pull_credentials(image, registry):
    """Credentials are stored under the name of the image's registry, and the pod uses them."""
    credentials = ImagePullCredentials("me", "pass")
    request = request_for(image=image, registry_auth=credentials)
    config = json.loads(secrets(request)["upshot-01-1-pull"][".dockerconfigjson"])

    assert config["auths"][registry] == {
        "username": "me",
        "password": "pass",
        "auth": base64.b64encode(b"me:pass").decode(),
    }
    names = pod({"image-pull-secrets": ["team"]}, image=image, registry_auth=credentials)["imagePullSecrets"]
    assert names == [{"name": "team"}, {"name": "upshot-01-1-pull"}]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({"network": Network.NONE}, "network-policy: true", id="no network"),
        pytest.param({"gpus": -1}, "instead of `all`", id="all GPUs"),
        pytest.param({"user": "worker"}, "number of 'worker'", id="name of a user"),
        pytest.param({"user": "1000:staff"}, "number of '1000:staff'", id="name of a group"),
        pytest.param({"image": ""}, "write `image`", id="no image"),
        pytest.param({"kubernetes": {"volumes": []}}, "kubernetes: volumes: unknown key", id="operator's option"),
    ],
)
def test_impossible_spec_is_refused(spec, message):
    """A spec that no pod can satisfy is refused, and the reason says what to write instead."""
    request = request_for(**spec)

    with pytest.raises(StartRefused, match=message):
        job_manifest(request, read_options({}), author_options(request))
