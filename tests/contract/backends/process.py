"""The process backend, on this machine: with what a process can be given alone, and in control groups."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.contract.backends.harness import Can
from upshot.backends.process import make
from upshot.backends.process.cgroups import Cgroup, CgroupMounts, CgroupsUnavailable, find_hierarchies
from upshot.backends.process.directories import JobDirectories
from upshot.backends.process.options import read_options
from upshot.backends.protocol import Backend, ContainerRequest
from upshot.domain.job import JobSpec

HOW_TO = "run the tests as root, on a machine or in a container that may write to /sys/fs/cgroup"
_USER = {"user": "nobody"} if os.geteuid() == 0 else {}


class ProcessGround:
    """
    A folder of this machine.

    Args:
        folder: That `nobody` can enter.
        options: Beside folder and user.
    """

    image = ""
    use_of_power = ""  # there is none: a process has the rights of its user

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.options = {"folder": str(folder / "jobs"), **_USER, **options}
        self._folder = folder

    def connect(self) -> Backend:
        """A backend on the folder."""
        return make(self.options)

    def connect_to_nothing(self) -> Iterator[Backend]:
        """A file in place of the folder, one in its way, and a folder that others can write to."""
        (self._folder / "file").touch()
        (self._folder / "open").mkdir(exist_ok=True)
        (self._folder / "open").chmod(0o777)
        for place in ("file", "file/jobs", "open"):
            yield make({**self.options, "folder": str(self._folder / place)})

    async def leave_created(self, order: ContainerRequest) -> None:
        """Make its folder, and die before the shim has heard anything."""
        await asyncio.to_thread(self._leave_created, order)

    def _leave_created(self, order: ContainerRequest) -> None:
        options = read_options(self.options)
        folders = JobDirectories(options.folder, options.account)
        folders.prepare()
        folders.make(order)

    def log_bytes_kept(self, name: str) -> int:
        """Size of the pieces."""
        return sum(piece.stat().st_size for piece in (self._folder / "jobs" / name / "log").iterdir())

    def clean(self, installation: str) -> None:
        """Remove its jobs."""

        async def remove() -> None:
            backend = make(self.options)
            for name in await backend.list_containers(installation):
                await backend.remove(name)
            await backend.close()

        asyncio.run(remove())


class ProcessProvider:
    """Processes, held to their limits as far as each can be alone."""

    name = "process"
    lacks: Mapping[Can, str] = {
        Can.IMAGES: "a process runs without one",
        Can.OWN_ROOT: "a process sees the machine's files",
        Can.USERS: "a process runs as the user that the operator names",
        Can.MEMORY: "without control groups a limit is on addresses, and whoever meets it fails in its own way",
        Can.PRIVILEGES: "a process has the rights of its user, and is refused others",
        Can.LINKS: "its records are out of a job's reach, or the machine's root is: tests/live/test_process_jobs.py",
    }

    @contextmanager
    def ready(self) -> Iterator[ProcessGround]:
        """A folder of our own."""
        # Not in pytest's own temporary folder: other accounts must not enter that one.
        with TemporaryDirectory(prefix="upshot-processes-") as folder:
            Path(folder).chmod(0o711)
            yield ProcessGround(Path(folder), {})


class GroupedProcessProvider(ProcessProvider):
    """Processes, each job in a control group of its own."""

    name = "process-in-groups"
    lacks: Mapping[Can, str] = {can: why for can, why in ProcessProvider.lacks.items() if can is not Can.MEMORY}

    @contextmanager
    def ready(self) -> Iterator[ProcessGround]:
        """A folder and a control group of our own."""
        group = f"upshot-tests-{os.getpid()}"
        hierarchies = _usable_hierarchies(group)
        with super().ready() as ground:
            ground.options["cgroup"] = group
            yield ground
        for folder in hierarchies.folders(group, "probe"):
            folder.parent.rmdir()


def _usable_hierarchies(group: str) -> CgroupMounts:
    try:
        hierarchies = find_hierarchies(Path("/proc/self/mountinfo").read_text())
        probe = Cgroup(hierarchies, group, "probe")
        probe.make(JobSpec())
    except CgroupsUnavailable as error:
        pytest.skip(f"{error}: {HOW_TO}")
    probe.remove()
    return hierarchies
