"""Control groups: the kernel's own way to hold a job to its memory, its processes and its share of the processors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upshot.domain.job import JobSpec

_CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_MICROSECONDS = 100_000  # over which a share of the processors is counted; the kernel's default


class CgroupsUnavailable(Exception):
    """This machine does not let us use them; the text says what is missing, and the remedy."""


@dataclass(frozen=True, slots=True)
class CgroupMounts:
    """Where the three controllers are mounted; all in one place in version 2."""

    version: int
    mounts: dict[str, Path]

    def folders(self, group: str, name: str) -> list[Path]:
        """Of a job's control groups, each once."""
        return list(dict.fromkeys(mount / group / name for mount in self.mounts.values()))


def find_hierarchies(mountinfo: str) -> CgroupMounts:
    """
    Read them off the text of /proc/self/mountinfo.

    Raises:
        NoControlGroups: A controller is nowhere to be found.
    """
    first, second = _mounts(mountinfo)
    if all(controller in first for controller in _CONTROLLERS):
        return CgroupMounts(1, {controller: first[controller] for controller in _CONTROLLERS})
    if second is not None and not first.keys() & set(_CONTROLLERS):
        return CgroupMounts(2, dict.fromkeys(_CONTROLLERS, second))
    raise CgroupsUnavailable(
        f"this machine has no control groups for {', '.join(_CONTROLLERS)}; leave `cgroup` out of the backend's options"
    )


def _mounts(mountinfo: str) -> tuple[dict[str, Path], Path | None]:
    first: dict[str, Path] = {}
    second = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        folder = Path(before.split(" ")[4])
        if kind == "cgroup":
            first |= dict.fromkeys(options.split(","), folder)
        elif kind == "cgroup2":
            second = folder
    return first, second


@dataclass(frozen=True, slots=True)
class Cgroup:
    """
    A job's.

    Args:
        hierarchies: Of this machine.
        group: Path of the group that all jobs are under, below each mount.
        name: The job's.
    """

    hierarchies: CgroupMounts
    group: str
    name: str

    @property
    def folders(self) -> list[str]:
        """What a process is put into."""
        return [str(folder) for folder in self.hierarchies.folders(self.group, self.name)]

    @property
    def oom_file(self) -> str:
        """Where the kernel counts what it killed for want of memory."""
        word = "memory.events" if self.hierarchies.version == 2 else "memory.oom_control"  # noqa: PLR2004 - cgroup v2
        return str(self._folder("memory") / word)

    def _folder(self, controller: str) -> Path:
        return self.hierarchies.mounts[controller] / self.group / self.name

    def make(self, spec: JobSpec) -> None:
        """
        Make it, with the limits of the spec.

        Raises:
            NoControlGroups: We may not, or a controller is not handed down to us.
        """
        try:
            for folder in map(Path, self.folders):
                folder.parent.mkdir(parents=True, exist_ok=True)
                self._hand_down(folder.parent)
                folder.mkdir(exist_ok=True)
            for (controller, file), value in self._limits(spec).items():
                self._set(self._folder(controller) / file, value)
        except OSError as error:
            raise CgroupsUnavailable(
                f"cannot make the control group {self.group}/{self.name}: {error}; "
                "let the worker's user write there (systemd: Delegate=yes), or leave `cgroup` out of the options"
            ) from error

    def remove(self) -> None:
        """Remove it; a process in it, or that it is not there, is nobody's error."""
        for folder in map(Path, self.folders):
            try:
                folder.rmdir()
            except OSError:
                continue

    def _hand_down(self, parent: Path) -> None:
        """Version 2: a controller works in a group only where its parent hands it down."""
        control = parent / "cgroup.subtree_control"
        if self.hierarchies.version == 1 or set(_CONTROLLERS) <= set(control.read_text().split()):
            return
        control.write_text(" ".join(f"+{controller}" for controller in _CONTROLLERS))

    def _limits(self, spec: JobSpec) -> dict[tuple[str, str], str]:
        quota = None if spec.cpus is None else max(round(spec.cpus * _PERIOD_MICROSECONDS), 1000)
        memory = None if spec.memory_bytes is None else str(spec.memory_bytes)
        if self.hierarchies.version == 1:
            wanted = {
                ("memory", "memory.limit_in_bytes"): memory,
                ("memory", "memory.memsw.limit_in_bytes"): memory,  # with swap; only where the kernel counts that
                ("pids", "pids.max"): str(spec.pids),
                ("cpu", "cpu.cfs_quota_us"): None if quota is None else str(quota),
            }
        else:
            wanted = {
                ("memory", "memory.max"): memory,
                ("memory", "memory.swap.max"): memory and "0",
                ("memory", "memory.oom.group"): memory and "1",
                ("pids", "pids.max"): str(spec.pids),
                ("cpu", "cpu.max"): None if quota is None else f"{quota} {_PERIOD_MICROSECONDS}",
            }
        return {place: value for place, value in wanted.items() if value is not None}

    def _set(self, file: Path, value: str) -> None:
        is_of_swap = "swap" in file.name or "memsw" in file.name
        if not is_of_swap or file.exists():  # not every kernel counts swap
            file.write_text(value)
