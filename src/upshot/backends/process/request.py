"""From an order to what a shim is told; what a command without a container cannot have is refused."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

from upshot.backends.process.cgroups import Cgroup
from upshot.backends.process.options import ProcessOptions
from upshot.backends.process.shim import OUTPUT, SECRETS, ShimRequest
from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain.job import FailureKind, JobSpec, Network

EVENT = "event.json"  #: names within a job's folder, here and below
INPUT = "input"
WORK = "work"

_FILE_NAME = re.compile(r"(?!\.{1,2}$)[^/\0]{1,255}")


def refuse(order: ContainerRequest, options: ProcessOptions) -> None:
    """
    Raise StartRefused, with all that stands against it, where an order asks for what cannot be had.

    Args:
        order: What is asked for.
        options: Of this backend.
    """
    if objections := list(_objections(order.spec, options)):
        raise StartRefused(FailureKind.REFUSED, "; ".join(objections))


def _objections(spec: JobSpec, options: ProcessOptions) -> Iterator[str]:
    if spec.image:
        yield f"image: a process runs without one; leave {spec.image!r} out, or choose a queue of containers"
    if not (spec.command or spec.args):
        yield "command: there is nothing to run; a process needs one"
    if spec.network is Network.NONE:
        yield "network: a process reaches what its machine reaches; leave `none` out, or choose a queue of containers"
    if spec.gpus > 0:
        yield (
            "gpus: a process sees all GPUs of its machine; leave the number out, and let the queue's "
            "`per-machine` say how many jobs share them"
        )
    if spec.privileged:
        yield "privileged: a process has the rights of its user, and gets no others"
    if spec.read_only:
        yield "read-only: the machine's files are not a container's; leave it out, or choose a queue of containers"
    if spec.mounts:
        yield "mounts: a process sees its machine's folders as they are; name them by their own paths"
    yield from _misnamed(spec, options)


def _misnamed(spec: JobSpec, options: ProcessOptions) -> Iterator[str]:
    if spec.user is not None and spec.user not in _names(options):
        yield f"user: processes of this backend run as {options.account.name}; leave {spec.user!r} out"
    if spec.workdir is not None and not spec.workdir.startswith("/"):
        yield f"workdir: {spec.workdir!r} is not absolute; a process begins in a folder of its own where it is left out"
    if bad := [name for name in spec.files if not _FILE_NAME.fullmatch(name)]:
        yield f"files: {bad[0]!r} is no name of a file"


def _names(options: ProcessOptions) -> set[str]:
    account = options.account
    return {account.name, str(account.uid), f"{account.uid}:{account.gid}"}


def errand(order: ContainerRequest, options: ProcessOptions, folder: Path, group: Cgroup | None) -> ShimRequest:
    """
    Say what the shim is to do.

    Args:
        order: That was not refused.
        options: Of this backend.
        folder: The job's.
        group: Its control group; None: limits are what a process can be given alone.
    """
    spec, account = order.spec, options.account
    return ShimRequest(
        folder=str(folder),
        argv=[*(spec.command or ()), *(spec.args or ())],
        env=_environment(order, options, folder),
        workdir=spec.workdir or str(folder / WORK),
        timeout_seconds=spec.timeout_seconds,
        grace_seconds=spec.grace_seconds,
        log_bytes=options.log_bytes,
        limits=_limits(spec, options, in_group=group is not None),
        cpus=[] if group is not None else _some_processors(spec.cpus),
        uid=None if account.is_us else account.uid,
        gid=account.gid,
        groups=list(account.groups),
        cgroups=group.folders if group else [],
        oom_file=group.oom_file if group and spec.memory_bytes is not None else None,
    )


def mark(folder: Path) -> bytes:
    """The part of its environment that tells a job's processes from all others."""
    return f"UPSHOT_OUTPUT={folder / OUTPUT}".encode()


def _environment(order: ContainerRequest, options: ProcessOptions, folder: Path) -> dict[str, str]:
    account = options.account
    worker = {name: value for name, value in os.environ.items() if name in options.env}  # noqa: TID251 - names are the operator's
    return {
        "PATH": os.defpath,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        **worker,
        **order.env,
        "UPSHOT_EVENT_FILE": str(folder / EVENT),
        "UPSHOT_INPUT": str(folder / INPUT),
        "UPSHOT_OUTPUT": str(folder / OUTPUT),
        "UPSHOT_SECRETS": str(folder / SECRETS),
    }


def _limits(spec: JobSpec, options: ProcessOptions, *, in_group: bool) -> dict[str, int]:
    limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": options.open_files}
    if options.file_bytes is not None:
        limits["RLIMIT_FSIZE"] = options.file_bytes
    if in_group:
        return limits
    # Crude: the kernel counts addresses, not memory, and processes over all that a user runs.
    if spec.memory_bytes is not None:
        limits["RLIMIT_AS"] = spec.memory_bytes
    limits["RLIMIT_NPROC"] = spec.pids + _threads_of(options.account.uid)
    return limits


def _threads_of(uid: int) -> int:
    """How many a user runs now; the limit is on all of them."""
    count = 0
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and process.stat().st_uid == uid:
                count += len(list((process / "task").iterdir()))
        except OSError:  # it has ended
            continue
    return count


def _some_processors(cpus: float | None) -> list[int]:
    """As many as were asked for, whole ones; empty where that is no limit."""
    ours = sorted(os.sched_getaffinity(0))
    if cpus is None or math.ceil(cpus) >= len(ours):
        return []
    return random.sample(ours, max(math.ceil(cpus), 1))
