"""The Docker backend, on the engine of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.contract.backends.harness import Can
from tests.docker_engines import HOW_TO, PODMAN_HOW_TO, EngineApi, Podman, busybox_image, can_run_podman, find_engine
from tests.servers import free_port
from upshot.backends.docker import make
from upshot.backends.docker.backend import DockerBackend
from upshot.backends.docker.containers import INSTALLATION
from upshot.backends.docker.options import read_settings
from upshot.backends.protocol import Backend, ContainerRequest


class _Died(Exception):
    pass


class DockerGround:
    """
    An engine, with an image of ours.

    Args:
        api: For looking from outside.
        image: Small, with a shell.
        options: Beside the address.
    """

    use_of_power = "mount -t tmpfs none /mnt"

    def __init__(self, api: EngineApi, image: str, options: Mapping[str, Any] | None = None) -> None:
        self.api = api
        self.image = image
        self.options = {"host": f"unix://{api.socket}", **(options or {})}

    def connect(self) -> Backend:
        """A backend with a connection of its own."""
        return make(self.options)

    def connect_to_nothing(self) -> Iterator[Backend]:
        """No socket, a socket that nobody listens on, a closed port, somebody who takes the call and says nothing."""
        with TemporaryDirectory() as folder, closing(socket.socket(socket.AF_UNIX)) as silent:
            dead = Path(folder) / "dead.sock"
            with closing(socket.socket(socket.AF_UNIX)) as nobody:
                nobody.bind(str(dead))
            silent.bind(str(Path(folder) / "silent.sock"))
            silent.listen()
            yield make({"host": f"unix://{folder}/none.sock"})
            yield make({"host": f"unix://{dead}"})
            yield make({"host": f"tcp://127.0.0.1:{free_port()}"})
            yield make({"host": f"unix://{folder}/silent.sock", "timeout": "2s"})

    async def leave_created(self, order: ContainerRequest) -> None:
        """Die between the engine's word that it is made, and the next question."""
        backend = DockerBackend(read_settings(self.options))

        async def die(order: ContainerRequest, handle: str, user: str) -> None:
            raise _Died

        backend._begin = die  # type: ignore[method-assign]  # from outside, the moment cannot be hit
        with pytest.raises(_Died):
            await backend.start(order)
        await backend.close()

    def log_bytes_kept(self, name: str) -> int:
        """Size of its log files."""
        first = Path(self.api.inspect(name)["LogPath"])
        return sum(piece.stat().st_size for piece in first.parent.glob(f"{first.name}*"))

    def clean(self, installation: str) -> None:
        """Remove its containers."""
        self.api.remove_containers(f"{INSTALLATION}={installation}")


def _lacks() -> Mapping[Can, str]:
    bounds = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))
    all_of_them = 2 ** (int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1
    if int(bounds.split()[1], 16) == all_of_them:
        return {}
    return {Can.ALL_POWER: "root of this machine does not have all power itself, so Docker starts nothing with it"}


class DockerProvider:
    """Docker, which can do everything that its machine lets it do."""

    name = "docker"
    lacks: Mapping[Can, str] = _lacks()

    @contextmanager
    def ready(self) -> Iterator[DockerGround]:
        """The engine of this machine."""
        api = find_engine()
        if api is None:
            pytest.skip(f"no Docker engine answers; {HOW_TO}")
        with closing(api), busybox_image(api) as image:
            yield DockerGround(api, image)


class PodmanProvider:
    """The same backend on Podman's service of Docker's API; for who asks for it, as `make test-podman` does."""

    name = "podman"
    lacks: Mapping[Can, str] = {
        **_lacks(),
        Can.MEMORY: "Podman 4.3 holds a job to its memory, and does not tell when it ran out (control groups 1)",
        Can.TELLS_LINKS: "it resolves links itself, inside of the volume, which none can leave",
    }

    @contextmanager
    def ready(self) -> Iterator[DockerGround]:
        """A service of our own."""
        if not can_run_podman():
            pytest.skip(f"Podman is not here; {PODMAN_HOW_TO}")
        # Not in pytest's own temporary folder: mounts below it would be in the way when it is removed.
        with (
            TemporaryDirectory(prefix="upshot-podman-", ignore_cleanup_errors=True) as folder,
            Podman(Path(folder)) as podman,
            busybox_image(podman.api) as image,
        ):
            yield DockerGround(podman.api, image)


#: Podman is slow to start containers, and few machines have it.
ON_PODMAN = bool(os.environ.get("TEST_ON_PODMAN"))


def docker_provider() -> DockerProvider | PodmanProvider:
    """Docker, or Podman where that is asked for."""
    return PodmanProvider() if ON_PODMAN else DockerProvider()
