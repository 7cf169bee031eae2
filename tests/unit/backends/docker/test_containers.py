"""The request body for creating a container, where no engine in the tests can show its effect."""

import pytest

from tests.container_requests import container_request
from upshot.backends.docker.containers import container_config
from upshot.backends.docker.options import DockerOptions
from upshot.domain.job import Mount, Network


def host_config(*, is_podman: bool = False, **spec):
    """Return the part of the request body that is about the engine's machine."""
    request = container_request(image="a", **spec)
    return container_config(request, DockerOptions(), is_podman=is_podman)["HostConfig"]


@pytest.mark.parametrize(("gpus", "count"), [(1, 1), (8, 8), (-1, -1)])
def test_gpus(gpus, count):
    """A job gets the number of GPUs that it asks for, or all of them, and none by default."""
    assert host_config(gpus=gpus)["DeviceRequests"] == [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]
    assert "DeviceRequests" not in host_config()


def test_privileged():
    """A container is privileged, and may gain privileges, only if the spec says so."""
    assert host_config()["Privileged"] is False
    privileged = host_config(privileged=True)
    assert (privileged["Privileged"], privileged["SecurityOpt"]) == (True, [])


@pytest.mark.parametrize(("grace_seconds", "stop_timeout"), [(0.5, 1), (3600, 60)])
def test_stop_timeout(grace_seconds, stop_timeout):
    """An engine that shuts down waits for a job's grace period, but no longer than a minute."""
    config = container_config(container_request(image="a", grace_seconds=grace_seconds), DockerOptions())

    assert config["StopTimeout"] == stop_timeout


def test_name_of_the_machine():
    """In the bridge network a job can reach its engine's machine by a name."""
    assert host_config()["ExtraHosts"] == ["host.docker.internal:host-gateway"]
    for network in (Network.NONE, Network.HOST):
        assert "ExtraHosts" not in host_config(network=network)


def test_mounts():
    """A path mounts a directory of the machine. Any other source is the name of a volume."""
    mounts = (Mount("/data", "/in"), Mount("cache", "/cache", read_only=False))

    assert host_config(mounts=mounts)["Mounts"][1:] == [
        {"Type": "bind", "Source": "/data", "Target": "/in", "ReadOnly": True},
        {"Type": "volume", "Source": "cache", "Target": "/cache", "ReadOnly": False},
    ]


def test_podman():
    """Podman keeps only one log file, and adds the machine's name by itself."""
    config = host_config(is_podman=True)

    assert config["LogConfig"] == {"Type": "k8s-file", "Config": {"max-size": str(64 * 1024**2)}}
    assert "ExtraHosts" not in config
