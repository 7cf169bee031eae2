"""Cgroups v2: how they are found, and what is written to them. The files are those of a directory without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable, find_cgroup_mount
from upshot.domain.job import JobSpec

#: Lines of /proc/self/mountinfo, as a machine that mounts both versions has them.
MOUNTINFO = """\
31 25 0:27 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
33 25 0:29 / {mount} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """Create the files that the kernel shows in the root of the hierarchy."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    return tmp_path


def create_interface_files(cgroup: Cgroup, *names: str) -> None:
    """Create the files that the kernel creates in a new cgroup."""
    cgroup.directory.mkdir(parents=True)
    for name in ("cgroup.subtree_control", *names):
        (cgroup.directory / name).write_text("")


def test_the_mount_is_found(mount):
    """Mounts of cgroups v1 are ignored."""
    assert find_cgroup_mount(MOUNTINFO.format(mount=mount)) == mount


def test_all_three_controllers_are_required(mount):
    """On a machine whose memory controller belongs to cgroups v1, jobs cannot have cgroups."""
    (mount / "cgroup.controllers").write_text("cpuset cpu io hugetlb pids\n")

    with pytest.raises(CgroupsUnavailable, match="no cgroups v2 with the controllers memory, pids, cpu; leave"):
        find_cgroup_mount(MOUNTINFO.format(mount=mount))


def test_a_machine_without_cgroups_v2(tmp_path):
    """The error names the remedy, whether nothing is mounted or only cgroups v1."""
    for mountinfo in ("", MOUNTINFO.rpartition("33 ")[0], MOUNTINFO.format(mount=tmp_path / "gone")):
        with pytest.raises(CgroupsUnavailable, match="leave `cgroup` out"):
            find_cgroup_mount(mountinfo)


def test_limits_are_written_in_the_kernels_format(mount):
    """Every ancestor enables the controllers for its children, and each limit is in its own file."""
    top = Cgroup(mount, Path("system.slice"))
    parent = top.child("upshot")
    job = parent.child("job")
    create_interface_files(top)
    create_interface_files(parent)
    create_interface_files(job, "memory.swap.max")

    job.create(JobSpec(memory_bytes=1 << 20, cpus=1.5, pids=7))

    for directory in (mount, top.directory, parent.directory):
        assert (directory / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert {path.name: path.read_text() for path in job.directory.iterdir()} == {
        "cgroup.subtree_control": "",
        "memory.max": "1048576",
        "memory.swap.max": "0",
        "pids.max": "7",
        "cpu.max": "150000 100000",
    }


def test_controllers_that_are_enabled_already_are_left_alone(mount):
    """In a delegated subtree, the worker may not write to the cgroups above it."""
    (mount / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (mount / "cgroup.subtree_control").chmod(0o400)
    parent = Cgroup(mount, Path("upshot"))
    create_interface_files(parent)

    parent.child("job").create(JobSpec())

    assert (mount / "cgroup.subtree_control").read_text() == "cpu memory pids\n"
    assert {path.name for path in parent.child("job").directory.iterdir()} == {"pids.max"}


def test_limits_that_a_job_does_not_have_are_not_written(mount):
    """Without a request for memory or CPUs, only the number of processes is limited."""
    parent = Cgroup(mount, Path("upshot"))
    create_interface_files(parent)

    parent.child("job").create(JobSpec(pids=9))

    assert {path.name: path.read_text() for path in parent.child("job").directory.iterdir()} == {"pids.max": "9"}


def test_a_cgroup_that_cannot_be_created(mount):
    """The error says what failed, and what an operator can do."""
    (mount / "upshot").write_text("a file in the way")

    with pytest.raises(CgroupsUnavailable, match=r"cannot create the cgroup upshot/job: .*Delegate=yes"):
        Cgroup(mount, Path("upshot/job")).create(JobSpec())
