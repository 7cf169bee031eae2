"""From an order to what Kubernetes is told: a Job that is suspended until its Secrets are there."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from upshot.backends.kubernetes.options import AuthorOptions, Options, read_author_options
from upshot.backends.kubernetes.outputs_sidecar import COLLECTOR, SCRIPT
from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain.job import (
    EVENT_FILE,
    INPUT_FOLDER,
    OUTPUT_FOLDER,
    SECRETS_FOLDER,
    FailureKind,
    JobSpec,
    Mount,
    Network,
    Pull,
)
from upshot.errors import ConfigError

MAIN = "main"  #: the container that the job's own command runs in
INSTALLATION = "upshot.installation"
JOB = "upshot.job"
CONTAINER = "upshot.container"
NETWORK = "upshot.network"
STOPPED = "upshot.stopped"  #: annotation of a Job that was told to end

# A sidecar is told to end when the job's container has ended, and has at least so long to say the outputs.
SHORTEST_GRACE_SECONDS = 5

_EVENT_KEY = "event.json"
_FILE_KEY = "secret."  # before the names of an author's files, so that none of them is the event's
_EVENT, _FILES, _OUTPUT, _INPUT = "upshot-event", "upshot-files", "upshot-output", "upshot-input"
_TMP, _SHM = "upshot-tmp", "upshot-shm"
_PULL_POLICIES = {Pull.ALWAYS: "Always", Pull.MISSING: "IfNotPresent", Pull.NEVER: "Never"}
_HUB = "https://index.docker.io/v1/"  # what Docker Hub is called among logins
_RUNTIMES_FILTER = {"type": "RuntimeDefault"}  # of system calls, as Docker has it; a pod would have none
_KEEP_PLACE = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}  # a job cannot go on elsewhere

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SecretNames:
    """The Secrets of one try."""

    env: str  #: all of the environment, by name
    files: str  #: `event.json`, and an author's files as `secret.NAME`
    pull: str  #: with what the image is pulled; made only where that is said

    @classmethod
    def of(cls, container: str) -> SecretNames:
        """Named after their try."""
        return cls(f"{container}-env", f"{container}-files", f"{container}-pull")


def author_options(order: ContainerRequest) -> AuthorOptions:
    """
    What the step says under `kubernetes`.

    Raises:
        StartRefused: It cannot be meant.
    """
    try:
        return read_author_options(order.spec.options)
    except ConfigError as error:
        raise _refused(f"kubernetes: {error}") from error


def job_manifest(order: ContainerRequest, options: Options, author: AuthorOptions) -> Manifest:
    """
    The Job of one try.

    It is born suspended: no pod begins before the Secrets are there, and whoever comes after a
    crash in between sees that it was never started.

    Raises:
        StartRefused: The spec asks for what no pod can have.
    """
    check_spec(order.spec, options)
    spec = order.spec
    labels = labels_of(order, options, author)
    annotations = {**_KEEP_PLACE, **author.annotations, **options.annotations}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": order.name, "labels": labels, "annotations": annotations},
        "spec": {
            "suspend": True,
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,  # tries are counted by us, who tell those that are worth it
            "ttlSecondsAfterFinished": options.ttl_seconds_after_finished,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": _pod(order, spec, options, author),
            },
        },
    }


def labels_of(order: ContainerRequest, options: Options, author: AuthorOptions) -> dict[str, str]:
    """The author's labels, the operator's over them, ours over all."""
    return {
        **order.spec.labels,
        **author.labels,
        **options.labels,
        INSTALLATION: order.installation,
        JOB: order.job_id,
        CONTAINER: order.name,
        NETWORK: order.spec.network.value,
    }


def is_same_try(one: Manifest, other: Manifest) -> bool:
    """Whether two objects of one name are of the same job of the same installation."""
    labels = [thing["metadata"].get("labels") or {} for thing in (one, other)]
    return all(labels[0].get(name) == labels[1].get(name) for name in (INSTALLATION, JOB))


def secret_manifests(order: ContainerRequest, owner: Manifest | None) -> Iterator[Manifest]:
    """
    The Secrets of one try.

    Args:
        order: Secrets filled in.
        owner: What they go with when it is removed; None: it is not there yet.
    """
    names = SecretNames.of(order.name)
    files = {_FILE_KEY + name: text.encode() for name, text in order.spec.files.items()}
    yield _secret(order, owner, names.env, {name: value.encode() for name, value in order.env.items()})
    yield _secret(order, owner, names.files, {**files, _EVENT_KEY: order.event})
    if order.spec.registry_auth is not None:
        data = {".dockerconfigjson": _login(order.spec)}
        yield _secret(order, owner, names.pull, data, kind="kubernetes.io/dockerconfigjson")


def _secret(
    order: ContainerRequest, owner: Manifest | None, name: str, data: Mapping[str, bytes], *, kind: str = "Opaque"
) -> Manifest:
    metadata: Manifest = {
        "name": name,
        "labels": {INSTALLATION: order.installation, JOB: order.job_id, CONTAINER: order.name},
    }
    if owner is not None:
        about = owner["metadata"]
        metadata["ownerReferences"] = [
            {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": about["name"], "uid": about["uid"]}
        ]
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": encoded}


def _login(spec: JobSpec) -> bytes:
    assert spec.registry_auth is not None  # noqa: S101 - the caller has asked
    host, slash, _ = spec.image.partition("/")
    registry = host if slash and (host == "localhost" or "." in host or ":" in host) else _HUB
    auth = spec.registry_auth
    both = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
    return orjson.dumps({"auths": {registry: {"username": auth.username, "password": auth.password, "auth": both}}})


# --- what cannot be had ---------------------------------------------------------------------------


def check_spec(spec: JobSpec, options: Options) -> None:
    """
    Refuse what no pod can have.

    Raises:
        StartRefused: With what to write instead.
    """
    if not spec.image:
        raise _refused("a job on Kubernetes runs in an image; write `image`")
    if spec.network is Network.NONE and not options.network_policy:
        raise _refused(
            "a pod cannot be without a network by its own word; let the operator shut it off with a NetworkPolicy "
            f"for the label `{NETWORK}: none`, and say `network-policy: true` among the backend's options"
        )
    if spec.gpus < 0:
        raise _refused("Kubernetes hands out GPUs by number; write how many, in place of `all`")
    if spec.user is not None and not all(part.isdecimal() for part in spec.user.split(":")):
        raise _refused(f"Kubernetes knows users by number; write the number of {spec.user!r} in the image")


def _refused(reason: str) -> StartRefused:
    return StartRefused(FailureKind.REFUSED, reason)


# --- the pod --------------------------------------------------------------------------------------


def _pod(order: ContainerRequest, spec: JobSpec, options: Options, author: AuthorOptions) -> Manifest:
    volumes, mounts = _volumes(order, spec, options)
    pull_secrets = [*options.image_pull_secrets]
    if spec.registry_auth is not None:
        pull_secrets.append(SecretNames.of(order.name).pull)
    pod: Manifest = {
        "restartPolicy": "Never",
        # The kubelet ends the pod then, though all of ours were down. It counts from when the pod came to
        # its node, so that the image's pull is in it; while we are there, we keep the exact time ourselves.
        "activeDeadlineSeconds": math.ceil(spec.timeout_seconds + options.pull_time),
        "terminationGracePeriodSeconds": max(math.ceil(spec.grace_seconds), SHORTEST_GRACE_SECONDS),
        "automountServiceAccountToken": options.service_account is not None,
        "enableServiceLinks": False,  # the environment is the author's; not an address of every Service
        "imagePullSecrets": [{"name": name} for name in pull_secrets],
        "nodeSelector": {**author.node_selector, **options.node_selector},
        "tolerations": [*options.tolerations, *author.tolerations],
        "initContainers": [_collector(spec, options)],
        "containers": [_main(order, spec, options, mounts)],
        "volumes": volumes,
    }
    if options.service_account is not None:
        pod["serviceAccountName"] = options.service_account
    if options.priority_class is not None:
        pod["priorityClassName"] = options.priority_class
    if spec.network is Network.HOST:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    return pod


def _main(order: ContainerRequest, spec: JobSpec, options: Options, mounts: list[Manifest]) -> Manifest:
    container: Manifest = {
        "name": MAIN,
        "image": spec.image,
        "imagePullPolicy": _PULL_POLICIES[spec.pull],
        "envFrom": [{"secretRef": {"name": SecretNames.of(order.name).env}}],
        "resources": _resources(spec, options),
        "securityContext": _rights(spec),
        "volumeMounts": mounts,
    }
    if spec.command is not None:
        container["command"] = [_literal(word) for word in spec.command]
    if spec.args is not None:
        container["args"] = [_literal(word) for word in spec.args]
    if spec.workdir is not None:
        container["workingDir"] = spec.workdir
    return container


def _literal(word: str) -> str:
    """Kubernetes replaces `$(NAME)` in commands; what an author writes is meant for the program."""
    return word.replace("$", "$$")


def _collector(spec: JobSpec, options: Options) -> Manifest:
    """The sidecar that says the outputs; see `collector`."""
    return {
        "name": COLLECTOR,
        "image": options.helper_image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",  # that is what makes an init container a sidecar
        "command": ["sh", "-c", _literal(SCRIPT)],
        "resources": {"requests": (share := {"cpu": "10m", "memory": "32Mi"}), "limits": share},
        "securityContext": _collectors_rights(spec),
        "volumeMounts": [{"name": _OUTPUT, "mountPath": OUTPUT_FOLDER, "readOnly": True}],
    }


def _resources(spec: JobSpec, options: Options) -> Manifest:
    share: dict[str, str] = {}
    if spec.cpus is not None:
        share["cpu"] = f"{max(1, round(spec.cpus * 1000))}m"
    if spec.memory_bytes is not None:
        share["memory"] = str(spec.memory_bytes)
    if spec.gpus:
        share[options.gpu_resource] = str(spec.gpus)
    return {"requests": share, "limits": share}


def _rights(spec: JobSpec) -> Manifest:
    rights: Manifest = {"readOnlyRootFilesystem": spec.read_only, **_account(spec)}
    if spec.privileged:
        return {**rights, "privileged": True}
    rights |= {"allowPrivilegeEscalation": False, "seccompProfile": _RUNTIMES_FILTER}
    if rights.get("runAsUser"):
        # Such a user can use no capability anyway, and namespaces with the standard `restricted` want to hear so.
        rights["capabilities"] = {"drop": ["ALL"]}
    return rights


def _account(spec: JobSpec) -> Manifest:
    if spec.user is None:
        return {}
    user, _, group = spec.user.partition(":")
    account: Manifest = {"runAsUser": int(user), "runAsNonRoot": int(user) != 0}
    return {**account, "runAsGroup": int(group)} if group else account


def _collectors_rights(spec: JobSpec) -> Manifest:
    """Of the job's own user; without one, those of a root that may do nothing but read what others wrote."""
    account = _account(spec)
    capabilities: Manifest = {"drop": ["ALL"]}
    if not account.get("runAsUser"):
        account, capabilities["add"] = {"runAsUser": 0}, ["DAC_OVERRIDE"]
    return {
        **account,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "seccompProfile": _RUNTIMES_FILTER,
        "capabilities": capabilities,
    }


# --- volumes --------------------------------------------------------------------------------------


def _volumes(order: ContainerRequest, spec: JobSpec, options: Options) -> tuple[list[Manifest], list[Manifest]]:
    """All volumes of the pod, and where the job's container sees them."""
    secret = SecretNames.of(order.name).files
    volumes: list[Manifest] = [
        {"name": _EVENT, **_files_of(secret, {_EVENT_KEY: _EVENT_KEY})},
        {"name": _FILES, **_files_of(secret, {_FILE_KEY + name: name for name in spec.files})},
        {"name": _OUTPUT, "emptyDir": {}},
        {"name": _INPUT, "emptyDir": {}},
    ]
    mounts: list[Manifest] = [
        {"name": _EVENT, "mountPath": EVENT_FILE, "subPath": _EVENT_KEY, "readOnly": True},
        {"name": _FILES, "mountPath": SECRETS_FOLDER, "readOnly": True},
        {"name": _OUTPUT, "mountPath": OUTPUT_FOLDER},
        {"name": _INPUT, "mountPath": INPUT_FOLDER, "readOnly": True},
    ]
    if spec.read_only:
        volumes.append({"name": _TMP, "emptyDir": {}})
        mounts.append({"name": _TMP, "mountPath": "/tmp"})  # noqa: S108 - the container's own
    if spec.shm_bytes is not None:
        volumes.append({"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": str(spec.shm_bytes)}})
        mounts.append({"name": _SHM, "mountPath": "/dev/shm"})  # noqa: S108 - the same
    asked = [_mount(number, mount, options) for number, mount in enumerate(spec.mounts)]
    volumes += [*map(dict, options.volumes), *(volume for volume, _ in asked if volume)]
    mounts += [*map(dict, options.volume_mounts), *(mount for _, mount in asked)]
    return volumes, mounts


def _files_of(secret: str, paths: Mapping[str, str]) -> Manifest:
    """A volume with a Secret's values as files that any user of the image can read, by key."""
    if not paths:
        return {"emptyDir": {}}  # a Secret's volume without items would hold all of it
    items = [{"key": key, "path": path} for key, path in paths.items()]
    return {"secret": {"secretName": secret, "defaultMode": 0o444, "items": items}}


def _mount(number: int, mount: Mount, options: Options) -> tuple[Manifest | None, Manifest]:
    """A folder of the node, a volume of the operator's, or a claim of that name."""
    name = f"upshot-mount-{number}"
    volume: Manifest | None
    if mount.source.startswith("/"):
        volume = {"name": name, "hostPath": {"path": mount.source}}
    elif any(one["name"] == mount.source for one in options.volumes):
        name, volume = mount.source, None
    else:
        volume = {"name": name, "persistentVolumeClaim": {"claimName": mount.source}}
    return volume, {"name": name, "mountPath": mount.target, "readOnly": mount.read_only}
