"""The process backend on this machine, with resource limits of single processes and with cgroups."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.contract.backends.harness import Capability
from upshot.backends.process import make
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable, find_cgroup_mount
from upshot.backends.process.directories import JobDirectories
from upshot.backends.process.options import read_options
from upshot.backends.protocol import Backend, ContainerRequest
from upshot.domain.job import JobSpec

HOW_TO = "run the tests as root, on a machine or in a container that may write to /sys/fs/cgroup"
_USER = {"user": "nobody"} if os.geteuid() == 0 else {}


class ProcessEngine:
    """
    A directory of this machine.

    Args:
        directory: The user `nobody` can enter it.
        options: Options of the backend, other than directory and user.
    """

    image = ""
    privileged_command = ""  # unused: a process has the permissions of its user

    def __init__(self, directory: Path, options: Mapping[str, Any]) -> None:
        self.options = {"directory": str(directory / "jobs"), **_USER, **options}
        self._directory = directory

    def connect(self) -> Backend:
        """Return a backend on the directory."""
        return make(self.options)

    def connect_to_unreachable_engines(self) -> Iterator[Backend]:
        """Yield backends whose directory is a file, is below a file, or is writable for other users."""
        (self._directory / "file").touch()
        (self._directory / "open").mkdir(exist_ok=True)
        (self._directory / "open").chmod(0o777)
        for path in ("file", "file/jobs", "open"):
            yield make({**self.options, "directory": str(self._directory / path)})

    async def create_without_starting(self, request: ContainerRequest) -> None:
        """Create the directory of the job, and stop before the shim is started."""

        def create() -> None:
            options = read_options(self.options)
            directories = JobDirectories(options.directory, options.account)
            directories.prepare()
            directories.create(request, directories.copy_input(request, lambda: None))

        await asyncio.to_thread(create)

    def stored_log_bytes(self, name: str) -> int:
        """Return the size of the log's segments."""
        return sum(segment.stat().st_size for segment in (self._directory / "jobs" / name / "log").iterdir())

    def remove_all(self, installation_id: str) -> None:
        """Remove all jobs of an installation."""
        asyncio.run(remove_jobs(make(self.options), installation_id))


async def remove_jobs(backend: Backend, installation_id: str) -> None:
    """Remove all jobs of an installation, and close the backend."""
    for name in await backend.list_containers(installation_id):
        await backend.remove(name)
    await backend.close()


class ProcessProvider:
    """Processes, each with its own resource limits."""

    name = "process"
    lacks: Mapping[Capability, str] = {
        Capability.IMAGES: "a process runs without an image",
        Capability.OWN_ROOT: "a process sees the machine's files",
        Capability.USERS: "a process runs as the user that the operator names",
        Capability.MEMORY: "without cgroups, address space is limited, and each program fails in its own way",
        Capability.ISOLATION: "a process has the permissions of its user, and gets no others",
        Capability.LINKS: "a job cannot reach its record or the machine's root; see tests/live/test_process_jobs.py",
    }

    @contextmanager
    def provide_engine(self) -> Iterator[ProcessEngine]:
        """Yield a new directory."""
        # Not in pytest's own temporary directory, which other accounts must not enter.
        with TemporaryDirectory(prefix="upshot-processes-") as name:
            Path(name).chmod(0o711)
            yield ProcessEngine(Path(name), {})


class CgroupProcessProvider(ProcessProvider):
    """Processes, each job in its own cgroup."""

    name = "process-in-cgroups"
    lacks: Mapping[Capability, str] = {
        capability: reason
        for capability, reason in ProcessProvider.lacks.items()
        if capability is not Capability.MEMORY
    }

    @contextmanager
    def provide_engine(self) -> Iterator[ProcessEngine]:
        """Yield a new directory and a new cgroup. Skip if this machine has no usable cgroups."""
        path = f"upshot-tests-{os.getpid()}"
        try:
            parent = Cgroup(find_cgroup_mount(Path("/proc/self/mountinfo").read_text()), Path(path))
            probe = parent.child("probe")
            probe.create(JobSpec())
        except CgroupsUnavailable as error:
            pytest.skip(f"{error}: {HOW_TO}")
        probe.remove()
        with super().provide_engine() as engine:
            engine.options["cgroup"] = path
            yield engine
        parent.remove()
