"""Validate the options of a process backend, and resolve them on this machine."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from upshot.backends.options import BackendOptions, Size, validate_options
from upshot.backends.process.cgroups import Cgroup, CgroupsUnavailable, find_cgroup_mount
from upshot.errors import ConfigError
from upshot.validation import invalid

DEFAULT_ENV = ("PATH", "LANG")
DEFAULT_LOG_BYTES = 16 * 1024 * 1024  # per job, in two segments; at least the newest half is always on disk
DEFAULT_OPEN_FILES = 65_536

_CGROUP_PATH = re.compile(r"(?!\.)[\w.@:-]+(/(?!\.)[\w.@:-]+)*")


def _read_user(value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise invalid(f"{value!r} is not a user; write a name or a number")


class _LimitOptions(BackendOptions):
    open_files: int = Field(DEFAULT_OPEN_FILES, ge=16)
    file_size: Size | None = None


class _Options(BackendOptions):
    directory: str = Field(min_length=1)
    user: Annotated[str | None, BeforeValidator(_read_user)] = None
    env: list[str] = Field(list(DEFAULT_ENV))
    cgroup: str | None = None
    log_size: Size = Field(DEFAULT_LOG_BYTES, ge=8192)
    limits: _LimitOptions = _LimitOptions()


@dataclass(frozen=True, slots=True)
class Account:
    """The user of this machine that commands run as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    is_worker: bool  #: the worker itself runs as this user

    @property
    def owner(self) -> tuple[int, int] | None:
        """The uid and gid to give files to; None if the user owns new files anyway."""
        return None if self.is_worker else (self.uid, self.gid)


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """Options of a process backend on this machine."""

    directory: Path  #: absolute path of the directory that contains the job directories
    account: Account
    env: tuple[str, ...] = DEFAULT_ENV  #: names of the worker's variables that commands get
    log_bytes: int = DEFAULT_LOG_BYTES
    open_files: int = DEFAULT_OPEN_FILES
    file_bytes: int | None = None
    cgroup: Cgroup | None = None  #: parent of the jobs' cgroups; None: do not use cgroups


def read_options(options: Mapping[str, Any]) -> ProcessOptions:
    """
    Read the options of the backend from the operator's file.

    Raises:
        ConfigError: An option is invalid, or this machine does not support it.
    """
    if sys.platform != "linux":
        raise ConfigError("the process backend needs Linux; on this machine, use the docker backend")
    parsed = validate_options(_Options, options)
    for name in parsed.env:
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"env: {name!r} is not the name of a variable; list names, such as [PATH, LANG]")
        if name.upper().startswith("UPSHOT_"):
            raise ConfigError(
                f"env: {name} belongs to the worker and may be a secret; put secrets into the step's `env` instead"
            )
    return ProcessOptions(
        directory=Path(parsed.directory).expanduser().resolve(),
        account=_find_account(parsed.user),
        env=tuple(parsed.env),
        log_bytes=parsed.log_size,
        open_files=parsed.limits.open_files,
        file_bytes=parsed.limits.file_size,
        cgroup=_find_cgroup(parsed.cgroup),
    )


def _find_cgroup(path: str | None) -> Cgroup | None:
    if path is None:
        return None
    if not _CGROUP_PATH.fullmatch(path):
        raise ConfigError(f"cgroup: {path!r} is not a path below the cgroup mount; write a path such as upshot")
    try:
        return Cgroup(find_cgroup_mount(Path("/proc/self/mountinfo").read_text()), Path(path))
    except (CgroupsUnavailable, OSError) as error:
        raise ConfigError(f"cgroup: {error}") from error


def _find_account(user: str | None) -> Account:
    worker_uid = os.geteuid()
    if user is None:
        if worker_uid == 0:
            raise ConfigError(
                "user: the worker runs as root, so without this option every author of an automation could run "
                "commands as root; name the user that commands run as (root, if you want that)"
            )
        entry = _passwd_entry(worker_uid)
        entry = entry or pwd.struct_passwd((str(worker_uid), "", worker_uid, os.getegid(), "", "/", ""))
    else:
        entry = _passwd_entry(int(user) if user.isdecimal() else user)
        if entry is None:
            raise ConfigError(
                f"user: this machine has no user {user!r}; create one, for example with useradd --system {user}"
            )
        if worker_uid not in (0, entry.pw_uid):
            raise ConfigError(
                f"user: only a worker that runs as root can run commands as {user}; run the worker as root or as {user}"
            )
    return Account(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        home=entry.pw_dir or "/",
        is_worker=entry.pw_uid == worker_uid,
    )


def _passwd_entry(user: int | str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        return None
