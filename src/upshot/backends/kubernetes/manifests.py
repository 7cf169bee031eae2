"""Build the Kubernetes objects of an attempt: a Job that stays suspended until its Secrets exist, and the Secrets."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from upshot.backends.image_registry import credentials_key
from upshot.backends.kubernetes.options import AuthorOptions, KubernetesOptions, read_author_options
from upshot.backends.kubernetes.outputs_sidecar import SCRIPT, SIDECAR
from upshot.backends.protocol import INSTALLATION_LABEL, JOB_LABEL, ContainerRequest, JobInput, StartRefused
from upshot.domain.job import (
    EVENT_FILE,
    INPUT_DIR,
    OUTPUT_DIR,
    SECRETS_DIR,
    FailureKind,
    ImagePullCredentials,
    InputFiles,
    JobSpec,
    Mount,
    Network,
    Pull,
)
from upshot.errors import ConfigError

MAIN = "main"  #: name of the container that runs the job's own command
INPUT = "upshot-input"  #: name of the container that downloads the input
#: The command of that container, followed by the reference of an artifact version.
DOWNLOAD = ("upshot", "download", "--stored", "--root", INPUT_DIR, "--")
NETWORK_LABEL = "upshot.network"
STOPPED = "upshot.stopped"  #: annotation of a Job that Upshot has stopped

# The sidecar stops after the job's container, and needs at least this long to write the outputs to its log.
MIN_GRACE_SECONDS = 5

_SLOWEST_BYTES_PER_SECOND = 1024 * 1024  # of a download, after which the kubelet may end the pod
_BYTES_PER_FILE = 16 * 1024  # that a file may take beside its content, with its directories
_SPARE_BYTES = 64 * 1024 * 1024

_EVENT_KEY = "event.json"
_FILE_KEY = "secret."  # prefix of the keys of an author's files, so that none of them is the event's
_EVENT, _FILES, _OUTPUT, _INPUT = "upshot-event", "upshot-files", "upshot-output", "upshot-input"
_TMP, _SHM = "upshot-tmp", "upshot-shm"
_PULL_POLICIES = {Pull.ALWAYS: "Always", Pull.MISSING: "IfNotPresent", Pull.NEVER: "Never"}
#: The container runtime's filter of system calls. Docker applies its own by default; Kubernetes applies none.
_SECCOMP = {"type": "RuntimeDefault"}
#: The cluster autoscaler must not move the pod: a job cannot continue on another node.
_NOT_EVICTABLE = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SecretNames:
    """Names of the Secrets of one attempt."""

    env: str  #: contains all environment variables by name
    files: str  #: contains `event.json`, and the author's files as `secret.NAME`
    pull: str  #: contains the credentials for the image; exists only if the job has some

    @classmethod
    def of(cls, container: str) -> SecretNames:
        """Return the names for an attempt's container."""
        return cls(f"{container}-env", f"{container}-files", f"{container}-pull")


def author_options(request: ContainerRequest) -> AuthorOptions:
    """
    Return what the step sets under `kubernetes`.

    Raises:
        StartRefused: An option is invalid.
    """
    try:
        return read_author_options(request.spec.kubernetes)
    except ConfigError as error:
        raise _refused(f"kubernetes: {error}") from error


def job_manifest(request: ContainerRequest, options: KubernetesOptions, author: AuthorOptions) -> Manifest:
    """
    Return the Job of one attempt.

    It is suspended, so no pod starts before the Secrets exist. After a crash in between, it shows that the attempt
    was never started.

    Raises:
        StartRefused: The spec asks for something that no pod can have.
    """
    spec = request.spec
    _check_spec(spec, options)
    _check_input(request.input)
    labels = labels_of(request, options, author)
    annotations = {**_NOT_EVICTABLE, **author.annotations, **options.annotations}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": request.name, "labels": labels, "annotations": annotations},
        "spec": {
            "suspend": True,
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,  # Upshot decides about further attempts
            "ttlSecondsAfterFinished": options.ttl_seconds_after_finished,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": _pod_spec(request, options, author),
            },
        },
    }


def labels_of(request: ContainerRequest, options: KubernetesOptions, author: AuthorOptions) -> dict[str, str]:
    """Return all labels. The operator's take precedence over the author's, and Upshot's over both."""
    return {
        **request.spec.labels,
        **author.labels,
        **options.labels,
        **request.identity_labels,
        NETWORK_LABEL: request.spec.network.value,
    }


def is_same_attempt(item: Manifest, other: Manifest) -> bool:
    """Return whether two objects of one name belong to the same job of the same installation."""
    labels, other_labels = (each["metadata"].get("labels") or {} for each in (item, other))
    return all(labels.get(name) == other_labels.get(name) for name in (INSTALLATION_LABEL, JOB_LABEL))


def secret_manifests(request: ContainerRequest, owner: Manifest | None) -> Iterator[Manifest]:
    """
    Yield the Secrets of one attempt.

    Args:
        request: The attempt, with its secrets filled in.
        owner: The object that the Secrets are removed with; None: it does not exist yet.
    """
    names = SecretNames.of(request.name)
    files = {_FILE_KEY + name: text.encode() for name, text in request.spec.secret_files.items()}
    yield _secret(request, owner, names.env, {name: value.encode() for name, value in request.env.items()})
    yield _secret(request, owner, names.files, {**files, _EVENT_KEY: request.event})
    if (credentials := request.spec.registry_auth) is not None:
        data = {".dockerconfigjson": _docker_config(request.spec.image, credentials)}
        yield _secret(request, owner, names.pull, data, kind="kubernetes.io/dockerconfigjson")


def _secret(
    request: ContainerRequest, owner: Manifest | None, name: str, data: Mapping[str, bytes], *, kind: str = "Opaque"
) -> Manifest:
    metadata: Manifest = {"name": name, "labels": dict(request.identity_labels)}
    if owner is not None:
        reference = {key: owner[key] for key in ("apiVersion", "kind")}
        metadata["ownerReferences"] = [reference | {key: owner["metadata"][key] for key in ("name", "uid")}]
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": encoded}


def _docker_config(image: str, credentials: ImagePullCredentials) -> bytes:
    username, password = credentials.username, credentials.password
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    return orjson.dumps({"auths": {credentials_key(image): {"username": username, "password": password, "auth": auth}}})


def _check_spec(spec: JobSpec, options: KubernetesOptions) -> None:
    if not spec.image:
        raise _refused("a job on Kubernetes needs an image; write `image`")
    if spec.network is Network.NONE and not options.network_policy:
        raise _refused(
            "a pod cannot turn off its own network; the operator can do it with a NetworkPolicy "
            f"for the label `{NETWORK_LABEL}: none`, and `network-policy: true` among the backend's options"
        )
    if spec.gpus < 0:
        raise _refused("Kubernetes assigns GPUs by number; write a number instead of `all`")
    if spec.user is not None and not all(part.isdecimal() for part in spec.user.split(":")):
        raise _refused(f"Kubernetes identifies users by number; write the number of {spec.user!r} in the image")


def _check_input(files: JobInput | None) -> None:
    if files is not None and files.transfer_limit is not None and files.size > files.transfer_limit:
        raise _refused(
            f"input: {files.reference} has {files.size:,} bytes, and the queue's `input-size` allows "
            f"{files.transfer_limit:,} in a pod; raise it, or mount a volume that has the files"
        )


def _refused(reason: str) -> StartRefused:
    return StartRefused(FailureKind.REFUSED, reason)


# --- the pod --------------------------------------------------------------------------------------


def _pod_spec(request: ContainerRequest, options: KubernetesOptions, author: AuthorOptions) -> Manifest:
    spec = request.spec
    volumes, mounts = _volumes(request, options)
    input_image = _input_image(request, options)
    download_seconds = request.input.size / _SLOWEST_BYTES_PER_SECOND if request.input and input_image else 0.0
    pull_secrets = [*options.image_pull_secrets]
    if spec.registry_auth is not None:
        pull_secrets.append(SecretNames.of(request.name).pull)
    pod: Manifest = {
        "restartPolicy": "Never",
        # The kubelet ends the pod then, even if all workers are down. It counts from the pod's arrival on the node,
        # so this includes the time for pulling the image and downloading the input. A running worker enforces the exact
        # timeout itself.
        "activeDeadlineSeconds": math.ceil(spec.timeout_seconds + options.pull_time + download_seconds),
        "terminationGracePeriodSeconds": max(math.ceil(spec.grace_seconds), MIN_GRACE_SECONDS),
        "automountServiceAccountToken": options.service_account is not None,
        "enableServiceLinks": False,  # keeps the addresses of all Services out of the environment
        "imagePullSecrets": [{"name": name} for name in pull_secrets],
        "nodeSelector": {**author.node_selector, **options.node_selector},
        "tolerations": [*options.tolerations, *author.tolerations],
        "initContainers": [_sidecar(spec, options)],
        "containers": [_main_container(request, options, mounts)],
        "volumes": volumes,
    }
    if request.input is not None and input_image is not None:
        pod["initContainers"].insert(0, _input_container(request, request.input.reference, input_image))
    if options.service_account is not None:
        pod["serviceAccountName"] = options.service_account
    if options.priority_class is not None:
        pod["priorityClassName"] = options.priority_class
    if spec.network is Network.HOST:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    return pod


def _main_container(request: ContainerRequest, options: KubernetesOptions, mounts: list[Manifest]) -> Manifest:
    spec = request.spec
    container: Manifest = {
        "name": MAIN,
        "image": spec.image,
        "imagePullPolicy": _PULL_POLICIES[spec.pull],
        "envFrom": [{"secretRef": {"name": SecretNames.of(request.name).env}}],
        "resources": _resources(spec, options),
        "securityContext": _security_context(spec),
        "volumeMounts": mounts,
    }
    if spec.command is not None:
        container["command"] = [_escape(word) for word in spec.command]
    if spec.args is not None:
        container["args"] = [_escape(word) for word in spec.args]
    if spec.workdir is not None:
        container["workingDir"] = spec.workdir
    return container


def _escape(word: str) -> str:
    """Escape a word of a command, in which Kubernetes would replace `$(NAME)`."""
    return word.replace("$", "$$")


def _sidecar(spec: JobSpec, options: KubernetesOptions) -> Manifest:
    """Return the container that writes the outputs to its log; see `outputs_sidecar`."""
    resources = {"cpu": "10m", "memory": "32Mi"}
    return {
        "name": SIDECAR,
        "image": options.helper_image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",  # makes an init container a sidecar
        "command": ["sh", "-c", _escape(SCRIPT)],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": _sidecar_security_context(spec),
        "volumeMounts": [{"name": _OUTPUT, "mountPath": OUTPUT_DIR, "readOnly": True}],
    }


def _input_image(request: ContainerRequest, options: KubernetesOptions) -> str | None:
    """Return the image that downloads the input, or None if nothing is downloaded."""
    if request.input is None:
        return None
    # Without the option, only a step that requires its input is known to have an image with `upshot`.
    own = request.spec.image if request.spec.input is InputFiles.REQUIRED else None
    return options.input_image or own


def _input_container(request: ContainerRequest, reference: str, image: str) -> Manifest:
    """Return the container that downloads the input before the others start."""
    spec = request.spec
    resources = {"cpu": "500m", "memory": "512Mi"}
    pull = spec.pull if image == spec.image else Pull.MISSING
    return {
        "name": INPUT,
        "image": image,
        "imagePullPolicy": _PULL_POLICIES[pull],
        "command": [*DOWNLOAD, _escape(reference)],
        "envFrom": [{"secretRef": {"name": SecretNames.of(request.name).env}}],
        "env": [{"name": "UPSHOT_CACHE_GB", "value": "0"}],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": _security_context(replace(spec, read_only=True, privileged=False, capabilities=())),
        "volumeMounts": [{"name": _INPUT, "mountPath": INPUT_DIR}],
    }


def _input_volume(files: JobInput | None) -> Manifest:
    """Return the volume of the input, with as much room as its files need."""
    if files is None:
        return {"emptyDir": {}}
    bytes_needed = files.size + files.file_count * _BYTES_PER_FILE + _SPARE_BYTES
    return {"emptyDir": {"sizeLimit": str(bytes_needed)}}


def _resources(spec: JobSpec, options: KubernetesOptions) -> Manifest:
    resources: dict[str, str] = {}
    if spec.cpus is not None:
        resources["cpu"] = f"{max(1, round(spec.cpus * 1000))}m"
    if spec.memory_bytes is not None:
        resources["memory"] = str(spec.memory_bytes)
    if spec.gpus:
        resources[options.gpu_resource] = str(spec.gpus)
    return {"requests": resources, "limits": resources}


def _security_context(spec: JobSpec) -> Manifest:
    context: Manifest = {"readOnlyRootFilesystem": spec.read_only, **_run_as(spec)}
    if spec.privileged:
        return {**context, "privileged": True}
    capabilities: Manifest = {"drop": ["ALL"]}
    if spec.capabilities:
        capabilities["add"] = [*spec.capabilities]
    return {
        **context,
        "allowPrivilegeEscalation": False,
        "seccompProfile": _SECCOMP,
        "capabilities": capabilities,
    }


def _run_as(spec: JobSpec) -> Manifest:
    if spec.user is None:
        return {}
    user, _, group = spec.user.partition(":")
    context: Manifest = {"runAsUser": int(user), "runAsNonRoot": int(user) != 0}
    return {**context, "runAsGroup": int(group)} if group else context


def _sidecar_security_context(spec: JobSpec) -> Manifest:
    """Run the sidecar as the job's user; without one, as a root that can only read files of other users."""
    run_as = _run_as(spec)
    capabilities: Manifest = {"drop": ["ALL"]}
    if not run_as.get("runAsUser"):
        run_as, capabilities["add"] = {"runAsUser": 0}, ["DAC_OVERRIDE"]
    return {
        **run_as,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "seccompProfile": _SECCOMP,
        "capabilities": capabilities,
    }


# --- volumes --------------------------------------------------------------------------------------


def _volumes(request: ContainerRequest, options: KubernetesOptions) -> tuple[list[Manifest], list[Manifest]]:
    """Return the volumes of the pod, and the mounts of the job's container."""
    spec = request.spec
    secret = SecretNames.of(request.name).files
    volumes: list[Manifest] = [
        {"name": _EVENT, **_secret_volume(secret, {_EVENT_KEY: _EVENT_KEY})},
        {"name": _FILES, **_secret_volume(secret, {_FILE_KEY + name: name for name in spec.secret_files})},
        {"name": _OUTPUT, "emptyDir": {}},
        {"name": _INPUT, **_input_volume(request.input)},
    ]
    mounts: list[Manifest] = [
        {"name": _EVENT, "mountPath": EVENT_FILE, "subPath": _EVENT_KEY, "readOnly": True},
        {"name": _FILES, "mountPath": SECRETS_DIR, "readOnly": True},
        {"name": _OUTPUT, "mountPath": OUTPUT_DIR},
        {"name": _INPUT, "mountPath": INPUT_DIR, "readOnly": True},
    ]
    if spec.read_only:
        volumes.append({"name": _TMP, "emptyDir": {}})
        mounts.append({"name": _TMP, "mountPath": "/tmp"})  # noqa: S108 - inside the container
    if spec.shm_bytes is not None:
        volumes.append({"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": str(spec.shm_bytes)}})
        mounts.append({"name": _SHM, "mountPath": "/dev/shm"})  # noqa: S108 - inside the container
    volumes += map(dict, options.volumes)
    mounts += map(dict, options.volume_mounts)
    for number, mount in enumerate(spec.mounts):
        name, volume = _mounted_volume(number, mount, options)
        if volume is not None:
            volumes.append({"name": name, **volume})
        mounts.append({"name": name, "mountPath": mount.target, "readOnly": mount.read_only})
    return volumes, mounts


def _secret_volume(secret: str, paths: Mapping[str, str]) -> Manifest:
    """Return a volume with values of a Secret as files, by key. Every user of the image can read them."""
    if not paths:
        return {"emptyDir": {}}  # a Secret's volume without items would contain all of it
    items = [{"key": key, "path": path} for key, path in paths.items()]
    return {"secret": {"secretName": secret, "defaultMode": 0o444, "items": items}}


def _mounted_volume(number: int, mount: Mount, options: KubernetesOptions) -> tuple[str, Manifest | None]:
    """Return a mount's volume: a directory of the node, one of the operator's volumes (None), or a claim."""
    name = f"upshot-mount-{number}"
    if mount.source.startswith("/"):
        return name, {"hostPath": {"path": mount.source}}
    if any(volume["name"] == mount.source for volume in options.volumes):
        return mount.source, None
    return name, {"persistentVolumeClaim": {"claimName": mount.source}}
