"""
The Kubernetes backend on a fake cluster, or on a real one.

`make test-kind` sets TEST_CLUSTER_IMAGE to the name of an image. Then the suite runs on the cluster of KUBECONFIG.
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

from tests.contract.backends.harness import BackendHarness, Capability
from tests.contract.backends.process import remove_jobs
from tests.fakes.kubernetes.cluster import IMAGE, FakeCluster, write_kubeconfig
from tests.servers import free_port
from upshot.backends.kubernetes import make
from upshot.backends.protocol import Backend, ContainerRequest
from upshot.domain.job import Pull

CLUSTER_IMAGE = os.environ.get("TEST_CLUSTER_IMAGE")


class KubernetesEngine:
    """
    A cluster.

    Args:
        options: Options of the backend.
        image: An image with a shell, which the nodes have.
    """

    privileged_command = "mount -t tmpfs none /mnt"

    def __init__(self, options: Mapping[str, Any], image: str) -> None:
        self.options = options
        self.image = image

    def connect(self) -> Backend:
        """Return a backend with a new connection."""
        return make(self.options)

    def connect_to_unreachable_engines(self) -> Iterator[Backend]:
        """Yield backends for a closed port, a silent server, and an invalid kubeconfig."""
        with TemporaryDirectory() as name, closing(socket.create_server(("127.0.0.1", 0))) as silent:
            directory = Path(name)
            (directory / "invalid").write_text("clusters: []\n")
            for path in (
                write_kubeconfig(directory / "closed", f"http://127.0.0.1:{free_port()}"),
                write_kubeconfig(directory / "silent", f"http://127.0.0.1:{silent.getsockname()[1]}"),
                str(directory / "invalid"),
            ):
                yield make({"kubeconfig": path})

    async def create_without_starting(self, request: ContainerRequest) -> None:
        """Create the Job, and stop before its Secrets."""
        backend = make(self.options)

        async def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        backend._cluster.apply_secrets = interrupt  # type: ignore[attr-defined]  # no other way to hit this moment
        with pytest.raises(KeyboardInterrupt):
            await backend.start(request)
        await backend.close()

    def stored_log_bytes(self, name: str) -> int:
        """Raise NotImplementedError: a real kubelet does not report it."""
        raise NotImplementedError

    def remove_all(self, installation_id: str) -> None:
        """Remove all jobs of an installation."""
        asyncio.run(remove_jobs(make(self.options), installation_id))


class FakeKubernetesEngine(KubernetesEngine):
    """
    A fake cluster, whose node can be inspected.

    Args:
        cluster: The fake cluster.
        directory: For its kubeconfig.
    """

    def __init__(self, cluster: FakeCluster, directory: Path) -> None:
        super().__init__({"kubeconfig": write_kubeconfig(directory / "config", cluster.url)}, IMAGE)
        self.cluster = cluster

    def stored_log_bytes(self, name: str) -> int:
        """Return the size of the current log file. A kubelet keeps four older files beside it."""
        return self.cluster.fake_pod(name).containers["main"].log_bytes


_LACKED_BY_ALL_CLUSTERS = {
    Capability.INPUT: "a pod downloads its input itself; see tests/kubernetes/test_backend.py",
    Capability.IMAGES: "a node finds out after the start that an image is missing; "
    "see tests/unit/backends/kubernetes/test_status.py",
    Capability.OWN_ROOT: "a pod has a network unless the operator's policy isolates it",
    Capability.USERS: "Kubernetes identifies users by number only, and root owns the files of its Secrets",
    Capability.PIDS: "a kubelet has one limit for all its pods, which its operator sets",
    Capability.LINKS: "the output directory is a mount, which no job can replace",
    Capability.SHORTER_GRACE: "a pod whose grace period is shortened is deleted together with its exit code",
}


class FakeClusterProvider:
    """A fake cluster; docs/jobs-kubernetes.md explains what that proves."""

    name = "kubernetes"
    lacks: Mapping[Capability, str] = {
        **_LACKED_BY_ALL_CLUSTERS,
        Capability.ISOLATION: "the fake cluster's containers are processes of this machine; "
        "tests/unit/backends/kubernetes/test_manifests.py checks what a pod asks for",
        Capability.PRIVILEGED: "the fake cluster's containers are processes of this machine",
    }

    @contextmanager
    def provide_engine(self) -> Iterator[KubernetesEngine]:
        """Start a fake cluster."""
        with FakeCluster() as cluster, TemporaryDirectory() as directory:
            yield FakeKubernetesEngine(cluster, Path(directory))


class RealClusterProvider:
    """A real cluster."""

    name = "cluster"
    lacks: Mapping[Capability, str] = {
        **_LACKED_BY_ALL_CLUSTERS,
        Capability.MEMORY: "newer kubelets end the whole container if one of its processes runs out of memory",
        Capability.BIG_LOGS: "the kubelet decides how much of a log it keeps, and does not report it",
        Capability.PRIVILEGED: "the rules of the cluster may forbid privileged containers",
    }

    @contextmanager
    def provide_engine(self) -> Iterator[KubernetesEngine]:
        """Yield the cluster after its node has pulled the image."""
        assert CLUSTER_IMAGE
        engine = KubernetesEngine({}, CLUSTER_IMAGE)

        async def pull() -> None:
            async with BackendHarness(engine) as harness:
                assert (await harness.run("true", pull=Pull.MISSING)).exit_code == 0

        asyncio.run(pull())
        yield engine


def kubernetes_provider() -> FakeClusterProvider | RealClusterProvider:
    """Return the real cluster if TEST_CLUSTER_IMAGE is set, and the fake one otherwise."""
    return RealClusterProvider() if CLUSTER_IMAGE else FakeClusterProvider()
