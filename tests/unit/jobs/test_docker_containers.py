"""What an engine is told of a container, where no engine of the tests can show it."""

import pytest

from upshot.backends.docker.containers import container_config
from upshot.backends.docker.options import DockerSettings
from upshot.backends.protocol import ContainerRequest
from upshot.domain.job import JobSpec, Mount, Network


def config(*, is_podman: bool = False, **spec):
    order = ContainerRequest("upshot-1-1", "inst", "job_1", JobSpec(image="a", **spec), {"A": "b=c"}, b"{}", {})
    return container_config(order, DockerSettings(), is_podman=is_podman)


@pytest.mark.parametrize(("gpus", "count"), [(1, 1), (8, 8), (-1, -1)])
def test_gpus(gpus, count):
    """So many of them, or all; without the word, none."""
    requests = config(gpus=gpus)["HostConfig"]["DeviceRequests"]

    assert requests == [{"Driver": "", "Count": count, "Capabilities": [["gpu"]]}]
    assert "DeviceRequests" not in config()["HostConfig"]


def test_privileged():
    """Only where the spec says so; then no new privileges are kept from it either."""
    assert config()["HostConfig"]["Privileged"] is False
    privileged = config(privileged=True)["HostConfig"]
    assert (privileged["Privileged"], privileged["SecurityOpt"]) == (True, [])


def test_an_engine_that_goes_down_does_not_wait_for_an_hour():
    """A job's grace is the engine's as well, up to a minute."""
    assert config(grace_seconds=0.5)["StopTimeout"] == 1
    assert config(grace_seconds=3600)["StopTimeout"] == 60


def test_a_machines_own_name_is_known_in_its_network():
    """Where a job has a network of its own, it finds the engine's machine by a name."""
    assert config()["HostConfig"]["ExtraHosts"] == ["host.docker.internal:host-gateway"]
    for network in (Network.NONE, Network.HOST):
        assert "ExtraHosts" not in config(network=network)["HostConfig"]


def test_folders_and_volumes():
    """A path is a folder of the machine, anything else a volume by its name."""
    mounts = (Mount("/data", "/in"), Mount("cache", "/cache", read_only=False))

    assert config(mounts=mounts)["HostConfig"]["Mounts"][1:] == [
        {"Type": "bind", "Source": "/data", "Target": "/in", "ReadOnly": True},
        {"Type": "volume", "Source": "cache", "Target": "/cache", "ReadOnly": False},
    ]


def test_what_podman_does_not_know():
    """It is told of one log file, for it keeps one, and gives the machine its names itself."""
    host = config(is_podman=True)["HostConfig"]

    assert host["LogConfig"] == {"Type": "k8s-file", "Config": {"max-size": str(64 * 1024**2)}}
    assert "ExtraHosts" not in host
