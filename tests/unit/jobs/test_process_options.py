"""What an operator may write of a process backend, and what a command without a container may ask for."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from pathlib import Path

import pytest

from upshot.backends.catalog import make_backends
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable, find_hierarchies
from upshot.backends.process.options import Account, ProcessOptions, read_options
from upshot.backends.process.request import errand, refuse
from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain.job import FailureKind, JobSpec, Mount, Network
from upshot.errors import ConfigError
from upshot.schema.queues import PROCESS, BackendSettings, JobsConfig

US = pwd.getpwuid(os.geteuid()).pw_name
ACCOUNT = Account("jobs", 990, 991, (991, 44), "/var/lib/jobs", is_us=False)
OPTIONS = ProcessOptions(Path("/srv/jobs"), ACCOUNT)
#: as this kernel's and systemd's machines have them
VERSION_1 = """\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
33 25 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
VERSION_2 = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def order(**spec) -> ContainerRequest:
    spec = {"command": ("train", "--all"), **spec}
    return ContainerRequest("upshot-01-1", "inst", "job_1", JobSpec(**spec), {"MINE": "1"}, b"{}", {})


# --- the operator's ------------------------------------------------------------------------------


def test_what_is_left_out_has_defaults(tmp_path):
    """A folder and a user are enough; the environment that is handed on is the least that a command needs."""
    options = read_options({"folder": str(tmp_path / "jobs"), "user": US})

    assert options.folder == tmp_path / "jobs"
    assert options.account.name == US
    assert options.account.is_us
    assert options.env == ("PATH", "LANG")
    assert options.hierarchies is None


@pytest.mark.parametrize(
    ("written", "finding"),
    [
        ({"foldr": "/x"}, "foldr: unknown key; did you mean 'folder'?"),
        ({"x": 1}, "x: unknown key; it has folder, user, env, cgroup, log-size, limits"),
        ({"log_size": "1MiB"}, "log_size: unknown key; did you mean 'log-size'?"),
        ({"folder": None}, "folder: Input should be a valid string"),
        ({"limits": {"files": 3}}, "limits.files: unknown key"),
        ({"folder": 3}, "folder: Input should be a valid string, and this is 3"),
        ({"env": "PATH"}, "env: Input should be a valid list, and this is 'PATH'"),
        ({"env": ["A=B"]}, "env: 'A=B' is no name of a variable"),
        ({"env": ["UPSHOT_SECRET_KEY"]}, "env: UPSHOT_SECRET_KEY is the worker's own"),
        ({"log-size": "1KiB"}, "log-size: Input should be greater than or equal to 8192"),
        ({"log-size": 1}, "log-size: 1 is not a size; write 1B"),
        ({"limits": {"file-size": "1 G"}}, "limits.file-size: '1 G' is not a size; write"),
        ({"user": "no-such-user"}, "this machine has no user 'no-such-user'"),
        ({"user": ["x"]}, "user: ['x'] is no user; write a name, or a number"),
        ({"user": 4_000_000_000}, "this machine has no user '4000000000'"),
        ({"user": ""}, "this machine has no user ''"),
        ({"cgroup": "/sys/fs/cgroup/x"}, "is no path below the mount"),
        ({"cgroup": "a/../../b"}, "is no path below the mount"),
    ],
)
def test_mistakes_are_named(written, finding):
    """A wrong key or value is an error of configuration that names it, and the right word where one is near."""
    with pytest.raises(ConfigError, match=re.escape(finding)):
        read_options({"folder": "/srv/jobs", "user": US, **written})


def test_each_declared_backend_has_a_folder_of_its_own(tmp_path):
    """Two process backends are two engines, in the data folder, without a word on folders."""
    book = JobsConfig(backends={name: BackendSettings(PROCESS, {"user": US}) for name in ("one", "two")})

    identities = {asyncio.run(backend.engine_id()) for backend in make_backends(book, tmp_path).values()}

    assert len(identities) == 2
    assert sorted(path.name for path in (tmp_path / "processes").iterdir()) == ["one", "two"]


def test_a_folder_must_be_named():
    """Whoever makes a backend by hand is not left to guess where its jobs are kept."""
    with pytest.raises(ConfigError, match="folder: is missing; name a folder"):
        read_options({"user": US})


def test_a_worker_of_root_says_whose_rights_commands_have(monkeypatch):
    """Nobody who writes automations gets root's rights because a line was forgotten."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    with pytest.raises(ConfigError, match="name the user that commands run as"):
        read_options({"folder": "/srv/jobs"})


def test_a_worker_without_roots_rights_runs_commands_as_itself_alone(monkeypatch):
    """Another user is refused when the file is read, not when the first job fails."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)

    with pytest.raises(ConfigError, match="only a worker that runs as root"):
        read_options({"folder": "/srv/jobs", "user": "root"})


# --- the author's ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "finding"),
    [
        ({"command": None}, "command: there is nothing to run"),
        ({"image": "busybox"}, "image: a process runs without one; leave 'busybox' out"),
        ({"network": Network.NONE}, "network: a process reaches what its machine reaches"),
        ({"gpus": 2}, "gpus: a process sees all GPUs"),
        ({"privileged": True}, "privileged:"),
        ({"read_only": True}, "read-only:"),
        ({"mounts": (Mount("/data", "/data"),)}, "mounts:"),
        ({"user": "root"}, "user: processes of this backend run as jobs; leave 'root' out"),
        ({"workdir": "src"}, "workdir: 'src' is not absolute"),
        ({"files": {"../x": "1"}}, "files: '../x' is no name of a file"),
        ({"files": {"..": "1"}}, "files: '..' is no name of a file"),
    ],
)
def test_what_a_process_cannot_have_is_refused(spec, finding):
    """Each wish that needs a container is named, with what to do instead."""
    with pytest.raises(StartRefused, match=re.escape(finding)) as refused:
        refuse(order(**spec), OPTIONS)

    assert refused.value.failure is FailureKind.REFUSED


def test_all_objections_are_said_at_once():
    """An author does not meet them one by one."""
    with pytest.raises(StartRefused, match=r"image: .*; .*network: .*; .*privileged: "):
        refuse(order(image="x", network=Network.NONE, privileged=True), OPTIONS)


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
def test_what_the_machine_gives_anyhow_is_no_objection(spec):
    """The machine's network, all of its GPUs, its shared memory, and the user that commands run as."""
    refuse(order(**spec), OPTIONS)


def test_an_errand_says_where_the_files_are():
    """The paths of containers that an order holds are replaced by the job's own."""
    told = errand(order(args=("--fast",)), OPTIONS, Path("/srv/jobs/upshot-01-1"), None)

    assert told.argv == ["train", "--all", "--fast"]
    assert told.workdir == "/srv/jobs/upshot-01-1/work"
    assert told.env["UPSHOT_OUTPUT"] == "/srv/jobs/upshot-01-1/output"
    assert (told.env["MINE"], told.env["HOME"]) == ("1", "/var/lib/jobs")
    assert (told.uid, told.gid, told.groups) == (990, 991, [991, 44])
    assert told.limits["RLIMIT_CORE"] == 0


def test_without_a_control_group_limits_are_crude():
    """Memory is held by addresses, processes by all that the user runs; in a group neither is needed."""
    spec = {"memory_bytes": 1 << 30, "pids": 50}
    place = Path("/srv/jobs/upshot-01-1")
    group = Cgroup(find_hierarchies(VERSION_2), "upshot", "upshot-01-1")

    alone, grouped = errand(order(**spec), OPTIONS, place, None), errand(order(**spec), OPTIONS, place, group)

    assert alone.limits["RLIMIT_AS"] == 1 << 30
    assert alone.limits["RLIMIT_NPROC"] >= 50
    assert not {"RLIMIT_AS", "RLIMIT_NPROC"} & grouped.limits.keys()
    assert grouped.cgroups == ["/sys/fs/cgroup/upshot/upshot-01-1"]
    assert grouped.oom_file == "/sys/fs/cgroup/upshot/upshot-01-1/memory.events"


# --- control groups -------------------------------------------------------------------------------


def test_control_groups_are_found():
    """Version 1 has a folder for each controller; version 2 one for all of them."""
    first, second = find_hierarchies(VERSION_1), find_hierarchies(VERSION_2)

    assert first.version == 1
    assert [str(path) for path in first.folders("up", "job")] == [
        "/sys/fs/cgroup/memory/up/job",
        "/sys/fs/cgroup/pids/up/job",
        "/sys/fs/cgroup/cpu,cpuacct/up/job",
    ]
    assert second.version == 2
    assert [str(path) for path in second.folders("up", "job")] == ["/sys/fs/cgroup/up/job"]


@pytest.mark.parametrize("mountinfo", ["", VERSION_1.replace("cgroup rw,memory", "cgroup rw,devices")])
def test_a_machine_without_a_controller(mountinfo):
    """Control groups are all three controllers, or not used."""
    with pytest.raises(CgroupsUnavailable, match="leave `cgroup` out"):
        find_hierarchies(mountinfo)


def test_the_limits_of_version_2_are_written(tmp_path):
    """Controllers are handed down to the jobs' groups, and each limit is in its file in the kernel's form."""
    parent = tmp_path / "up"
    parent.mkdir()
    (parent / "cgroup.subtree_control").write_text("")
    job = parent / "job"
    job.mkdir()
    (job / "memory.swap.max").write_text("max")
    hierarchies = find_hierarchies(VERSION_2.replace("/sys/fs/cgroup", str(tmp_path)))

    Cgroup(hierarchies, "up", "job").make(JobSpec(memory_bytes=1 << 20, cpus=1.5, pids=7))

    assert (parent / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert {path.name: path.read_text() for path in job.iterdir()} == {
        "memory.max": "1048576",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "7",
        "cpu.max": "150000 100000",
    }


def test_control_groups_that_may_not_be_made(tmp_path):
    """The refusal says what failed, and what an operator can do."""
    (tmp_path / "up").write_text("in the way")
    hierarchies = find_hierarchies(VERSION_2.replace("/sys/fs/cgroup", str(tmp_path)))

    with pytest.raises(CgroupsUnavailable, match="Delegate=yes"):
        Cgroup(hierarchies, "up", "job").make(JobSpec())
