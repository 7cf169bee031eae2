"""The Docker backend on the engine of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.contract.backends.harness import Capability
from tests.docker_engines import HOW_TO, PODMAN_HOW_TO, EngineApi, Podman, busybox_image, can_run_podman, find_engine
from tests.servers import free_port
from upshot.backends.docker import make
from upshot.backends.docker.backend import DockerBackend
from upshot.backends.docker.options import read_options
from upshot.backends.protocol import INSTALLATION_LABEL, Backend, ContainerRequest


class _Interrupted(Exception):
    pass


class DockerEngine:
    """
    An engine with a test image.

    Args:
        api: For requests beside the backend.
        image: A small image with a shell.
        options: Options of the backend, other than the host.
    """

    privileged_command = "mount -t tmpfs none /mnt"

    def __init__(self, api: EngineApi, image: str, options: Mapping[str, Any] | None = None) -> None:
        self.api = api
        self.image = image
        self.options = {"host": f"unix://{api.socket}", **(options or {})}

    def connect(self) -> Backend:
        """Return a backend with a new connection."""
        return make(self.options)

    def connect_to_unreachable_engines(self) -> Iterator[Backend]:
        """Yield backends for a missing socket, a socket without a listener, a closed port and a silent server."""
        with TemporaryDirectory() as directory, closing(socket.socket(socket.AF_UNIX)) as silent:
            dead = Path(directory) / "dead.sock"
            with closing(socket.socket(socket.AF_UNIX)) as unused:
                unused.bind(str(dead))
            silent.bind(str(Path(directory) / "silent.sock"))
            silent.listen()
            yield make({"host": f"unix://{directory}/none.sock"})
            yield make({"host": f"unix://{dead}"})
            yield make({"host": f"tcp://127.0.0.1:{free_port()}"})
            yield make({"host": f"unix://{directory}/silent.sock", "timeout": "2s"})

    async def create_without_starting(self, request: ContainerRequest) -> None:
        """Create the container, and stop before the next request."""
        backend = DockerBackend(read_options(self.options))

        async def interrupt(request: ContainerRequest, handle: str, user: str) -> None:
            raise _Interrupted

        backend._fill_and_start = interrupt  # type: ignore[method-assign]  # no other way to hit this moment
        with pytest.raises(_Interrupted):
            await backend.start(request)
        await backend.close()

    def stored_log_bytes(self, name: str) -> int:
        """Return the size of the container's log files."""
        log = Path(self.api.inspect(name)["LogPath"])
        return sum(file.stat().st_size for file in log.parent.glob(f"{log.name}*"))

    def remove_all(self, installation_id: str) -> None:
        """Remove all containers of an installation."""
        self.api.remove_containers(f"{INSTALLATION_LABEL}={installation_id}")


def _missing_capabilities() -> Mapping[Capability, str]:
    status = Path("/proc/self/status").read_text().splitlines()
    bounding_set = int(next(line for line in status if line.startswith("CapBnd")).split()[1], 16)
    full_set = 2 ** (int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1
    if bounding_set == full_set:
        return {}
    return {Capability.PRIVILEGED: "this machine's root lacks capabilities, so Docker starts no privileged container"}


class DockerProvider:
    """Docker has every capability that its machine allows."""

    name = "docker"
    lacks = _missing_capabilities()

    @contextmanager
    def provide_engine(self) -> Iterator[DockerEngine]:
        """Yield the engine of this machine."""
        api = find_engine()
        if api is None:
            pytest.skip(f"no Docker engine answers; {HOW_TO}")
        with closing(api), busybox_image(api) as image:
            yield DockerEngine(api, image)


class PodmanProvider:
    """The Docker backend on Podman's implementation of Docker's API, as `make test-podman` runs it."""

    name = "podman"
    lacks: Mapping[Capability, str] = {
        **_missing_capabilities(),
        Capability.MEMORY: "Podman 4.3 does not report that a job exceeded its memory limit (cgroups v1)",
        Capability.DETECTS_LINKS: "Podman resolves links itself, and none of them can leave the volume",
    }

    @contextmanager
    def provide_engine(self) -> Iterator[DockerEngine]:
        """Yield a new Podman service."""
        if not can_run_podman():
            pytest.skip(f"Podman is not installed; {PODMAN_HOW_TO}")
        # Not in pytest's own temporary directory: mounts below it would prevent its removal.
        with (
            TemporaryDirectory(prefix="upshot-podman-", ignore_cleanup_errors=True) as directory,
            Podman(Path(directory)) as podman,
            busybox_image(podman.api) as image,
        ):
            yield DockerEngine(podman.api, image)


def docker_provider() -> DockerProvider | PodmanProvider:
    """Return Docker, or Podman if TEST_ON_PODMAN is set: Podman starts containers slowly, and few machines have it."""
    return PodmanProvider() if os.environ.get("TEST_ON_PODMAN") else DockerProvider()
