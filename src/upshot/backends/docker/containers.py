"""Build the request body for creating a container."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from upshot.backends.docker.options import DockerOptions
from upshot.backends.protocol import ContainerRequest
from upshot.domain.job import INPUT_DIR, JobSpec, Mount, Network

UPSHOT = "/upshot"  #: an anonymous volume of each container, filled before the start and read after the exit
LOG_FILES = 4  # the log rotates over them, so at least three quarters of its maximum size are kept

_ALL_GPUS = -1
_MAX_STOP_SECONDS = 60  # an engine waits this long for each container when it shuts down or recovers from a crash
#: "default" is Docker's own name for its bridge. Podman uses another network for a user without rights.
_NETWORKS = {Network.NONE: "none", Network.BRIDGE: "default", Network.HOST: "host"}
#: Lets a job reach services of its engine's machine. Podman adds this entry by itself.
_HOST_ENTRY = "host.docker.internal:host-gateway"


def container_config(
    request: ContainerRequest, options: DockerOptions, *, is_podman: bool = False, input_directory: Path | None = None
) -> dict[str, Any]:
    """
    Build the request body for creating a container.

    Args:
        request: What is to run.
        options: What the operator gives to every container.
        is_podman: The engine is Podman, which differs in a few fields.
        input_directory: A directory of the engine's machine that is mounted as the input; None: nothing is mounted.
    """
    spec = request.spec
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in request.env.items()],
        "Labels": {**spec.labels, **options.labels, **request.identity_labels},
        "StopTimeout": min(math.ceil(spec.grace_seconds), _MAX_STOP_SECONDS),
        "Healthcheck": {"Test": ["NONE"]},  # nothing reads its result, and each check starts a process
        "HostConfig": _host_config(request, options, is_podman=is_podman),
    }
    if input_directory is not None:
        config["HostConfig"]["Mounts"].append(_mount(Mount(str(input_directory), INPUT_DIR)))
    if spec.command is not None:
        config["Entrypoint"] = list(spec.command)
    if spec.args is not None:
        config["Cmd"] = list(spec.args)
    if spec.workdir is not None:
        config["WorkingDir"] = spec.workdir
    if spec.user is not None:
        config["User"] = spec.user
    return config


def _host_config(request: ContainerRequest, options: DockerOptions, *, is_podman: bool) -> dict[str, Any]:
    spec = request.spec
    # The volume has no name, so it is removed with its container. NoCopy keeps the image's files out of it.
    upshot_volume = {
        "Type": "volume",
        "Target": UPSHOT,
        "VolumeOptions": {"NoCopy": True, "Labels": dict(request.identity_labels)},
    }
    config: dict[str, Any] = {
        "NetworkMode": _NETWORKS[spec.network],
        "PidsLimit": spec.pids,
        "Privileged": spec.privileged,
        "SecurityOpt": [] if spec.privileged else ["no-new-privileges"],
        "Init": options.init,
        "ReadonlyRootfs": spec.read_only,
        "Mounts": [upshot_volume, *map(_mount, spec.mounts)],
        "LogConfig": _log_config(options, is_podman=is_podman),
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        **_resources(spec),
    }
    if not spec.privileged:
        config["CapDrop"] = ["ALL"]
    if spec.capabilities:
        config["CapAdd"] = list(spec.capabilities)
    if spec.read_only:
        config["Tmpfs"] = {"/tmp": "rw,exec,nosuid,nodev,mode=1777"}  # noqa: S108 - inside the container
    if spec.network is Network.BRIDGE and not is_podman:
        config["ExtraHosts"] = [_HOST_ENTRY]
    return config


def _resources(spec: JobSpec) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if spec.cpus is not None:
        config["NanoCpus"] = round(spec.cpus * 1_000_000_000)
    if spec.memory_bytes is not None:
        # MemorySwap limits memory and swap together, so the same number means no swap.
        config |= {"Memory": spec.memory_bytes, "MemorySwap": spec.memory_bytes}
    if spec.shm_bytes is not None:
        config["ShmSize"] = spec.shm_bytes
    if spec.gpus:
        # Docker also writes -1 for all GPUs. This line keeps working if either number changes.
        count = -1 if spec.gpus == _ALL_GPUS else spec.gpus
        config["DeviceRequests"] = [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]
    return config


def _mount(mount: Mount) -> dict[str, Any]:
    kind = "bind" if mount.source.startswith("/") else "volume"
    return {"Type": kind, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}


def _log_config(options: DockerOptions, *, is_podman: bool) -> dict[str, Any]:
    if is_podman:  # Podman keeps one file, and drops half of it when it is full.
        return {"Type": "k8s-file", "Config": {"max-size": str(options.log_size)}}
    file_size = str(options.log_size // LOG_FILES)
    return {"Type": "json-file", "Config": {"max-size": file_size, "max-file": str(LOG_FILES)}}
