"""Turn a container request into a request to the shim. Refuse what a process without a container cannot have."""

from __future__ import annotations

import math
import os
import random
import re
from pathlib import Path

from upshot.backends.process.cgroups import Cgroup
from upshot.backends.process.options import ProcessOptions
from upshot.backends.process.shim import OUTPUT, SECRETS, ShimRequest
from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain.job import FailureKind, JobSpec, Network

# Names in a job directory.
EVENT = "event.json"
INPUT = "input"
WORK = "work"

_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\0]{1,255}")


def validate(request: ContainerRequest, options: ProcessOptions) -> None:
    """
    Check that a process can have everything that the request asks for.

    Raises:
        StartRefused: It cannot. The text names every problem and its remedy.
    """
    spec, account = request.spec, options.account
    user_names = (None, account.name, str(account.uid), f"{account.uid}:{account.gid}")
    bad_file_names = [name for name in spec.secret_files if not _FILE_NAME.fullmatch(name)]
    problems = [
        (spec.image, f"image: a process has no image; remove {spec.image!r}, or choose a queue that runs containers"),
        (not (spec.command or spec.args), "command: it is missing, and a process has no image to take it from"),
        (
            spec.network is Network.NONE,
            "network: a process uses its machine's network; remove `none`, or choose a queue that runs containers",
        ),
        (
            spec.gpus > 0,
            "gpus: a process sees all GPUs of its machine; remove it, and limit the jobs by the queue's `per-machine`",
        ),
        (spec.privileged, "privileged: a process cannot have more rights than its user; remove it"),
        (
            spec.read_only,
            "read-only: a process uses its machine's files; remove it, or choose a queue that runs containers",
        ),
        (spec.mounts, "mounts: a process sees all directories of its machine; remove them, and use the original paths"),
        (spec.user not in user_names, f"user: this backend runs processes as {account.name}; remove {spec.user!r}"),
        (
            spec.workdir is not None and not spec.workdir.startswith("/"),
            f"workdir: {spec.workdir!r} is not an absolute path; write one, or remove it to use an empty directory",
        ),
        (bad_file_names, f"secret-files: not the names of files: {', '.join(map(repr, bad_file_names))}"),
    ]
    if found := [text for is_problem, text in problems if is_problem]:
        raise StartRefused(FailureKind.REFUSED, "; ".join(found))


def build_request(
    request: ContainerRequest, options: ProcessOptions, directory: Path, cgroup: Cgroup | None
) -> ShimRequest:
    """
    Build the request to the shim.

    Args:
        request: A valid request.
        options: Options of the backend.
        directory: The job directory.
        cgroup: The job's cgroup; None: use only the limits that a single process can have (rlimits).
    """
    spec, account = request.spec, options.account
    return ShimRequest(
        directory=str(directory),
        argv=[*(spec.command or ()), *(spec.args or ())],
        env=_environment(request, options, directory),
        workdir=spec.workdir or str(directory / WORK),
        timeout_seconds=spec.timeout_seconds,
        grace_seconds=spec.grace_seconds,
        log_bytes=options.log_bytes,
        rlimits=_rlimits(spec, options, in_cgroup=cgroup is not None),
        cpus=[] if cgroup is not None else _pick_cpus(spec.cpus),
        uid=None if account.is_worker else account.uid,
        gid=account.gid,
        groups=list(account.groups),
        cgroup=str(cgroup.directory) if cgroup else None,
        memory_events=str(cgroup.memory_events) if cgroup and spec.memory_bytes is not None else None,
    )


def environ_marker(directory: Path) -> bytes:
    """Return the environment variable, as `NAME=value`, that only the processes of this job have."""
    return f"UPSHOT_OUTPUT={directory / OUTPUT}".encode()


def _environment(request: ContainerRequest, options: ProcessOptions, directory: Path) -> dict[str, str]:
    account = options.account
    inherited = {name: value for name, value in os.environ.items() if name in options.env}  # noqa: TID251 - the operator chooses the names
    return {
        "PATH": os.defpath,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        **inherited,
        **request.env,
        "UPSHOT_EVENT_FILE": str(directory / EVENT),
        "UPSHOT_INPUT": str(directory / INPUT),
        "UPSHOT_OUTPUT": str(directory / OUTPUT),
        "UPSHOT_SECRETS": str(directory / SECRETS),
    }


def _rlimits(spec: JobSpec, options: ProcessOptions, *, in_cgroup: bool) -> dict[str, int]:
    rlimits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": options.open_files}
    if options.file_bytes is not None:
        rlimits["RLIMIT_FSIZE"] = options.file_bytes
    if not in_cgroup:
        # These are approximations. The kernel limits address space instead of memory, and the number of
        # processes per user instead of per job.
        if spec.memory_bytes is not None:
            rlimits["RLIMIT_AS"] = spec.memory_bytes
        rlimits["RLIMIT_NPROC"] = spec.pids + _count_threads(options.account.uid)
    return rlimits


def _count_threads(uid: int) -> int:
    """Count the threads that a user runs now. RLIMIT_NPROC counts threads."""
    count = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and process.stat().st_uid == uid:
                count += len(list((process / "task").iterdir()))
        except OSError:  # the process has ended
            continue
    return count


def _pick_cpus(cpus: float | None) -> list[int]:
    """Pick as many CPUs as requested, rounded up. Return an empty list if that does not limit the job."""
    available = sorted(os.sched_getaffinity(0))
    if cpus is None or math.ceil(cpus) >= len(available):
        return []
    return random.sample(available, max(math.ceil(cpus), 1))
