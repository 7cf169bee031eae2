"""
The Kubernetes backend: on the stand-in for a cluster, or on a real one.

`make test-kind` names an image in TEST_CLUSTER_IMAGE: the suite runs on the cluster of KUBECONFIG then.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.contract.backends.harness import Bench, Can
from tests.kubernetes.stand_in import IMAGE, StandIn, write_kubeconfig
from tests.servers import free_port
from upshot.backends.kubernetes import make
from upshot.backends.protocol import Backend, ContainerRequest
from upshot.domain.job import Pull

CLUSTERS_IMAGE = os.environ.get("TEST_CLUSTER_IMAGE")


class KubernetesGround:
    """
    A cluster.

    Args:
        options: With which it is reached.
        image: Has a shell, and is on its nodes.
    """

    use_of_power = "mount -t tmpfs none /mnt"

    def __init__(self, options: Mapping[str, Any], image: str) -> None:
        self.options = options
        self.image = image

    def connect(self) -> Backend:
        """A backend with a connection of its own."""
        return make(self.options)

    def connect_to_nothing(self) -> Iterator[Backend]:
        """A closed port, somebody who says nothing, and a kubeconfig that is none."""
        with TemporaryDirectory() as name, closing(socket.create_server(("127.0.0.1", 0))) as silent:
            folder = Path(name)
            nobody = write_kubeconfig(folder / "nobody", f"http://127.0.0.1:{free_port()}")
            mute = write_kubeconfig(folder / "mute", f"http://127.0.0.1:{silent.getsockname()[1]}")
            (folder / "broken").write_text("clusters: []\n")
            for path in (nobody, mute, str(folder / "broken")):
                yield make({"kubeconfig": path})

    async def leave_created(self, order: ContainerRequest) -> None:
        """Die between the Job and its Secrets."""
        backend = make(self.options)

        async def die(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        backend._cluster.put_secrets = die  # type: ignore[attr-defined]  # the moment cannot be had from outside
        with pytest.raises(KeyboardInterrupt):
            await backend.start(order)
        await backend.close()

    def log_bytes_kept(self, name: str) -> int:
        """The kubelet's business."""
        raise NotImplementedError

    def clean(self, installation: str) -> None:
        """Remove its jobs."""

        async def remove() -> None:
            backend = make(self.options)
            for name in await backend.list_containers(installation):
                await backend.remove(name)
            await backend.close()

        asyncio.run(remove())


class StandInGround(KubernetesGround):
    """
    The stand-in, which can be looked into.

    Args:
        cluster: The stand-in.
        folder: For its kubeconfig.
    """

    def __init__(self, cluster: StandIn, folder: Path) -> None:
        super().__init__({"kubeconfig": write_kubeconfig(folder / "config", cluster.url)}, IMAGE)
        self.cluster = cluster

    def log_bytes_kept(self, name: str) -> int:
        """Of the file that is written to; a kubelet keeps four older ones beside it."""
        return self.cluster.life(name).containers["main"].log_bytes


_OF_EVERY_CLUSTER = {
    Can.IMAGES: "a node finds an image missing when the job has been started: tests/kubernetes/test_sightings.py",
    Can.OWN_ROOT: "a pod has a network, unless an operator's policy shuts it off",
    Can.USERS: "Kubernetes knows users by number only, and its Secrets' files belong to root",
    Can.PIDS: "a kubelet holds all its pods to one number, which its operator sets",
    Can.LINKS: "the output folder is a mount, which no job can replace",
    Can.SHORTENS_GRACE: "a pod that is told to end sooner than it was made for is deleted, with its code",
}


class KubernetesProvider:
    """The stand-in for a cluster; see docs/jobs-kubernetes.md on what that shows."""

    name = "kubernetes"
    lacks: Mapping[Can, str] = {
        **_OF_EVERY_CLUSTER,
        Can.PRIVILEGES: "the stand-in's containers are processes of this machine; "
        "what a pod asks for is checked in tests/kubernetes/test_manifests.py",
        Can.ALL_POWER: "the same",
    }

    @contextmanager
    def ready(self) -> Iterator[KubernetesGround]:
        """Start one."""
        with StandIn() as cluster, TemporaryDirectory() as folder:
            yield StandInGround(cluster, Path(folder))


class ClusterProvider:
    """A real cluster."""

    name = "cluster"
    lacks: Mapping[Can, str] = {
        **_OF_EVERY_CLUSTER,
        Can.MEMORY: "newer kubelets end the whole container with the child that ran out of memory",
        Can.BIG_LOGS: "how much of a log is kept is the kubelet's business, and cannot be seen from outside",
        Can.ALL_POWER: "a cluster's rules may forbid it",
    }

    @contextmanager
    def ready(self) -> Iterator[KubernetesGround]:
        """Reach it, and have the image pulled to its node."""
        assert CLUSTERS_IMAGE
        ground = KubernetesGround({}, CLUSTERS_IMAGE)

        async def pull() -> None:
            async with Bench(ground) as bench:
                assert (await bench.run("true", pull=Pull.MISSING)).exit_code == 0

        asyncio.run(pull())
        yield ground


def kubernetes_provider() -> KubernetesProvider | ClusterProvider:
    """The real one, where there is one."""
    return ClusterProvider() if CLUSTERS_IMAGE else KubernetesProvider()
