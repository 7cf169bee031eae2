"""Control groups (cgroups v2): the kernel limits a job's memory, number of processes and CPU time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from upshot.domain.job import JobSpec

_CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_MICROSECONDS = 100_000  # period of a CPU quota; the kernel's default


class CgroupsUnavailable(Exception):
    """Cgroups cannot be used on this machine. The text says why, and what an operator can do."""


def find_cgroup_mount(mountinfo: str) -> Path:
    """
    Return the directory where cgroups v2 are mounted.

    Args:
        mountinfo: Text of `/proc/self/mountinfo`.

    Raises:
        CgroupsUnavailable: They are not mounted, or a controller is missing. On machines that also
            mount cgroups v1, the controllers usually belong to v1.
    """
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")  # the fields are described in proc(5)
        if after.startswith("cgroup2 "):
            mount = Path(before.split(" ")[4])
            with contextlib.suppress(OSError):
                if set(_CONTROLLERS) <= set((mount / "cgroup.controllers").read_text().split()):
                    return mount
    raise CgroupsUnavailable(
        f"this machine has no cgroups v2 with the controllers {', '.join(_CONTROLLERS)}; "
        "leave `cgroup` out of the backend's options, and processes get resource limits (rlimits) instead"
    )


@dataclass(frozen=True, slots=True)
class Cgroup:
    """
    A control group, whether it exists or not.

    Args:
        mount: Directory where cgroups v2 are mounted.
        path: Path below the mount.
    """

    mount: Path
    path: Path

    @property
    def directory(self) -> Path:
        """Directory of the cgroup in the file system."""
        return self.mount / self.path

    @property
    def memory_events(self) -> Path:
        """File in which the kernel counts OOM kills."""
        return self.directory / "memory.events"

    def child(self, name: str) -> Self:
        """Return a cgroup below this one."""
        return type(self)(self.mount, self.path / name)

    def create(self, spec: JobSpec) -> None:
        """
        Create the cgroup with the limits of a job.

        Raises:
            CgroupsUnavailable: The worker may not create it, or a controller is not available to it.
        """
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            for ancestor in reversed(self.path.parents):
                self._enable_controllers(self.mount / ancestor)
            self.directory.mkdir(exist_ok=True)
            for name, value in _limits(spec).items():
                file = self.directory / name
                if name != "memory.swap.max" or file.exists():  # missing if the kernel does not account for swap
                    file.write_text(value)
        except OSError as error:
            raise CgroupsUnavailable(
                f"cannot create the cgroup {self.path}: {error}; let the worker's user write there "
                "(systemd: Delegate=yes), or leave `cgroup` out of the backend's options"
            ) from error

    def remove(self) -> None:
        """Remove the cgroup. Do nothing if it does not exist or still contains a process."""
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    @staticmethod
    def _enable_controllers(directory: Path) -> None:
        """Make the controllers available in the children of a cgroup."""
        control = directory / "cgroup.subtree_control"
        if not set(_CONTROLLERS) <= set(control.read_text().split()):
            control.write_text(" ".join(f"+{controller}" for controller in _CONTROLLERS))


def _limits(spec: JobSpec) -> dict[str, str]:
    """Return the content of each interface file that sets a limit of the job."""
    limits = {"pids.max": str(spec.pids)}
    if spec.memory_bytes is not None:
        # Without memory.oom.group, the kernel kills a single process, and the job decides what happens, as in Docker.
        limits |= {"memory.max": str(spec.memory_bytes), "memory.swap.max": "0"}
    if spec.cpus is not None:
        quota = max(round(spec.cpus * _PERIOD_MICROSECONDS), 1000)  # the kernel's minimum
        limits["cpu.max"] = f"{quota} {_PERIOD_MICROSECONDS}"
    return limits
