"""What a command without a container may ask for, and what its shim is asked to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from upshot.backends.process.cgroups import Cgroup
from upshot.backends.process.options import Account, ProcessOptions
from upshot.backends.process.request import build_request, validate
from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain.job import FailureKind, JobSpec, Mount, Network
from upshot.ids import JobId

ACCOUNT = Account("jobs", 990, 991, (991, 44), "/var/lib/jobs", is_worker=False)
OPTIONS = ProcessOptions(Path("/srv/jobs"), ACCOUNT)
DIRECTORY = Path("/srv/jobs/upshot-01-1")


def request(**spec) -> ContainerRequest:
    spec = {"command": ("train", "--all"), **spec}
    return ContainerRequest("upshot-01-1", "inst", JobId("job_1"), JobSpec(**spec), {"MINE": "1"}, b"{}", {})


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"command": None}, "command: it is missing"),
        ({"image": "busybox"}, "image: a process has no image; remove 'busybox'"),
        ({"network": Network.NONE}, "network: a process uses its machine's network"),
        ({"gpus": 2}, "gpus: a process sees all GPUs"),
        ({"privileged": True}, "privileged:"),
        ({"read_only": True}, "read-only:"),
        ({"mounts": (Mount("/data", "/data"),)}, "mounts:"),
        ({"user": "root"}, "user: this backend runs processes as jobs; remove 'root'"),
        ({"workdir": "src"}, "workdir: 'src' is not an absolute path"),
        ({"secret_files": {"../x": "1"}}, "secret-files: not the names of files: '../x'"),
        ({"secret_files": {"..": "1"}}, "secret-files: not the names of files: '..'"),
    ],
)
def test_a_request_that_needs_a_container_is_refused(spec, problem):
    """The error names the option and the remedy."""
    with pytest.raises(StartRefused, match=re.escape(problem)) as refused:
        validate(request(**spec), OPTIONS)

    assert refused.value.failure is FailureKind.REFUSED


def test_all_problems_are_reported_at_once():
    """An author does not have to find them one by one."""
    with pytest.raises(StartRefused, match=r"image: .*; .*network: .*; .*privileged: "):
        validate(request(image="x", network=Network.NONE, privileged=True), OPTIONS)


@pytest.mark.parametrize(
    "spec",
    [
        {"network": Network.HOST},
        {"network": Network.BRIDGE},
        {"gpus": -1},
        {"shm_bytes": 1 << 30},
        {"user": "jobs"},
        {"user": "990"},
        {"user": "990:991"},
        {"command": None, "args": ("true",)},
    ],
)
def test_a_request_for_what_every_process_has_is_accepted(spec):
    """The machine's network, all of its GPUs, its shared memory, and the user that commands run as."""
    validate(request(**spec), OPTIONS)


def test_the_paths_are_those_of_the_job_directory():
    """They replace the paths in a container, which the environment of the request contains."""
    shim_request = build_request(request(args=("--fast",)), OPTIONS, DIRECTORY, None)

    assert shim_request.argv == ["train", "--all", "--fast"]
    assert shim_request.workdir == "/srv/jobs/upshot-01-1/work"
    assert shim_request.env["UPSHOT_OUTPUT"] == "/srv/jobs/upshot-01-1/output"
    assert (shim_request.env["MINE"], shim_request.env["HOME"]) == ("1", "/var/lib/jobs")
    assert (shim_request.uid, shim_request.gid, shim_request.groups) == (990, 991, [991, 44])
    assert shim_request.rlimits["RLIMIT_CORE"] == 0


def test_resource_limits_replace_a_missing_cgroup():
    """Without a cgroup, address space and the user's processes are limited. With a cgroup, neither is necessary."""
    wanted = request(memory_bytes=1 << 30, pids=50, cpus=0.5)
    cgroup = Cgroup(Path("/sys/fs/cgroup"), Path("upshot/upshot-01-1"))

    without, within = build_request(wanted, OPTIONS, DIRECTORY, None), build_request(wanted, OPTIONS, DIRECTORY, cgroup)

    assert without.rlimits["RLIMIT_AS"] == 1 << 30
    assert without.rlimits["RLIMIT_NPROC"] >= 50
    assert (without.cgroup, without.memory_events) == (None, None)
    assert not {"RLIMIT_AS", "RLIMIT_NPROC"} & within.rlimits.keys()
    assert within.cpus == []
    assert within.cgroup == "/sys/fs/cgroup/upshot/upshot-01-1"
    assert within.memory_events == "/sys/fs/cgroup/upshot/upshot-01-1/memory.events"
