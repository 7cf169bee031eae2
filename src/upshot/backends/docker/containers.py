"""What the engine is told of a container that it is to make."""

from __future__ import annotations

import math
from typing import Any

from upshot.backends.docker.options import DockerSettings
from upshot.backends.protocol import ContainerRequest
from upshot.domain.job import JobSpec, Mount, Network

INSTALLATION, JOB, CONTAINER = "upshot.installation", "upshot.job", "upshot.container"  #: labels
UPSHOT = "/upshot"  #: a volume of the container's own: it can be filled before the start, and read after the end
LOG_FILES = 4  # the log is rotated over; three quarters of it, at least, are there

_ALL_GPUS = -1
_MOST_STOP_SECONDS = 60  # an engine that goes down, or comes back from a crash, waits so long for each
#: Docker's own name for its default; Podman has another one, for a user without rights.
_NETWORKS = {Network.NONE: "none", Network.BRIDGE: "default", Network.HOST: "host"}
#: So that a job can reach what its machine serves; Podman says so by itself.
_MACHINE = "host.docker.internal:host-gateway"


def container_config(order: ContainerRequest, settings: DockerSettings, *, is_podman: bool = False) -> dict[str, Any]:
    """
    Body of the request that makes a container.

    Args:
        order: What is to run.
        settings: What the operator gives to every container.
        is_podman: The engine is Podman, which knows the same fields, save a few.
    """
    spec = order.spec
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in order.env.items()],
        "Labels": labels(order, settings),
        "StopTimeout": min(math.ceil(spec.grace_seconds), _MOST_STOP_SECONDS),
        "Healthcheck": {"Test": ["NONE"]},  # nobody would ask for it, and each one is a process
        "HostConfig": _host_config(order, settings, is_podman=is_podman),
    }
    if spec.command is not None:
        config["Entrypoint"] = list(spec.command)
    if spec.args is not None:
        config["Cmd"] = list(spec.args)
    if spec.workdir is not None:
        config["WorkingDir"] = spec.workdir
    if spec.user is not None:
        config["User"] = spec.user
    return config


def labels(order: ContainerRequest, settings: DockerSettings) -> dict[str, str]:
    """The author's labels, the operator's over them, ours over both."""
    ours = {INSTALLATION: order.installation, JOB: order.job_id, CONTAINER: order.name}
    return {**order.spec.labels, **settings.labels, **ours}


def _host_config(order: ContainerRequest, settings: DockerSettings, *, is_podman: bool) -> dict[str, Any]:
    spec = order.spec
    config: dict[str, Any] = {
        "NetworkMode": _NETWORKS[spec.network],
        "PidsLimit": spec.pids,
        "Privileged": spec.privileged,
        "SecurityOpt": [] if spec.privileged else ["no-new-privileges"],
        "Init": settings.init,
        "ReadonlyRootfs": spec.read_only,
        "Mounts": [_upshot_volume(order), *map(_mount, spec.mounts)],
        "LogConfig": _log_config(settings, is_podman=is_podman),
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        **_resources(spec),
    }
    if spec.read_only:
        config["Tmpfs"] = {"/tmp": "rw,exec,nosuid,nodev,mode=1777"}  # noqa: S108 - the container's own
    if spec.network is Network.BRIDGE and not is_podman:
        config["ExtraHosts"] = [_MACHINE]
    return config


def _resources(spec: JobSpec) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if spec.cpus is not None:
        config["NanoCpus"] = round(spec.cpus * 1_000_000_000)
    if spec.memory_bytes is not None:
        # Swap counts as memory: the same number means none of it.
        config |= {"Memory": spec.memory_bytes, "MemorySwap": spec.memory_bytes}
    if spec.shm_bytes is not None:
        config["ShmSize"] = spec.shm_bytes
    if spec.gpus:
        # Docker counts all with -1, too; it is said here, lest one of the two numbers changes.
        count = -1 if spec.gpus == _ALL_GPUS else spec.gpus
        config["DeviceRequests"] = [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]
    return config


def _upshot_volume(order: ContainerRequest) -> dict[str, Any]:
    """Without a name: so it goes with its container. Nothing that an image has at the place gets into it."""
    volume_labels = {INSTALLATION: order.installation, JOB: order.job_id, CONTAINER: order.name}
    return {"Type": "volume", "Target": UPSHOT, "VolumeOptions": {"NoCopy": True, "Labels": volume_labels}}


def _mount(mount: Mount) -> dict[str, Any]:
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {"Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}


def _log_config(settings: DockerSettings, *, is_podman: bool) -> dict[str, Any]:
    if is_podman:  # it keeps one file, and half of it when that is full
        return {"Type": "k8s-file", "Config": {"max-size": str(settings.log_size)}}
    piece = str(settings.log_size // LOG_FILES)
    return {"Type": "json-file", "Config": {"max-size": piece, "max-file": str(LOG_FILES)}}
