"""What an operator writes of a process backend, and what it means on this machine."""

from __future__ import annotations

import difflib
import os
import pwd
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from upshot.backends.process.cgroups import CgroupMounts, CgroupsUnavailable, find_hierarchies
from upshot.errors import ConfigError
from upshot.schema.quantities import InvalidQuantity, read_bytes

DEFAULT_ENV = ("PATH", "LANG")
DEFAULT_LOG_BYTES = 16 * 1024 * 1024  # of one job, in two pieces; between half of it and all of it is there
DEFAULT_OPEN_FILES = 65_536

_GROUP = re.compile(r"(?!\.)[\w.@:-]+(/(?!\.)[\w.@:-]+)*")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=_kebab)


_Size = Annotated[int, BeforeValidator(read_bytes)]


class _Limits(_Record):
    open_files: int = Field(DEFAULT_OPEN_FILES, ge=16)
    file_size: _Size | None = None


class _Written(_Record):
    folder: str = Field(min_length=1)
    user: str | int | None = None
    env: list[str] = list(DEFAULT_ENV)
    cgroup: str | None = None
    log_size: _Size = Field(DEFAULT_LOG_BYTES, ge=8192)
    limits: _Limits = _Limits()


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that commands run as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    is_us: bool  #: the worker runs as this user already

    @property
    def owner(self) -> tuple[int, int] | None:
        """Whom files are given to; None where they are the user's as we make them."""
        return None if self.is_us else (self.uid, self.gid)


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """A backend as it is to be on this machine."""

    folder: Path  #: of the jobs; absolute
    account: Account
    env: tuple[str, ...] = DEFAULT_ENV  #: handed on from the worker's environment
    log_bytes: int = DEFAULT_LOG_BYTES
    open_files: int = DEFAULT_OPEN_FILES
    file_bytes: int | None = None
    group: str | None = None  #: path of the control group that all jobs are under; None: control groups are not used
    hierarchies: CgroupMounts | None = None  #: where they are; None: not used


def read_options(options: Mapping[str, Any]) -> ProcessOptions:
    """
    Read what stands under the backend's name in the operator's file.

    Raises:
        ConfigError: It cannot be meant, or cannot be had on this machine.
    """
    if sys.platform != "linux":
        raise ConfigError("the process backend needs Linux; on this machine use the docker backend")
    try:
        written = _Written(**options)
    except ValidationError as error:
        raise ConfigError(_finding(error)) from error
    return ProcessOptions(
        folder=Path(written.folder).expanduser().resolve(),
        account=_account(None if written.user is None else str(written.user)),
        env=_handed_on(written.env),
        log_bytes=written.log_size,
        open_files=written.limits.open_files,
        file_bytes=written.limits.file_size,
        group=written.cgroup,
        hierarchies=_hierarchies(written.cgroup),
    )


def _finding(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    *above, key = [str(part) for part in first["loc"]]
    if first["type"] == "missing":
        return f"{key}: is missing; name a folder for the jobs, such as /var/lib/upshot/processes"
    if "user" in above:
        return f"user: {first['input']!r} is no user; write a name, or a number"
    if isinstance(cause := first.get("ctx", {}).get("error"), InvalidQuantity):
        return f"{'.'.join([*above, key])}: {first['input']!r} {cause}"
    if first["type"] == "extra_forbidden":
        record = _Limits if above else _Written
        known = [_kebab(name) for name in record.model_fields]
        near = difflib.get_close_matches(key, known, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"
        return f"{'.'.join([*above, key])}: unknown key{guess}"
    return f"{'.'.join([*above, key])}: {first['msg']}, and this is {first['input']!r}"


def _handed_on(names: list[str]) -> tuple[str, ...]:
    for name in names:
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"env: {name!r} is no name of a variable; list names, such as [PATH, LANG]")
        if name.upper().startswith("UPSHOT_"):
            raise ConfigError(f"env: {name} is the worker's own, and may be a secret; name secrets in the step's env")
    return tuple(names)


def _hierarchies(group: str | None) -> CgroupMounts | None:
    if group is None:
        return None
    if not _GROUP.fullmatch(group):
        raise ConfigError(f"cgroup: {group!r} is no path below the mount of control groups; write one such as upshot")
    try:
        return find_hierarchies(Path("/proc/self/mountinfo").read_text())
    except (CgroupsUnavailable, OSError) as error:
        raise ConfigError(f"cgroup: {error}") from error


def _account(user: str | None) -> Account:
    ours = os.geteuid()
    if user is None:
        if ours == 0:
            raise ConfigError(
                "user: the worker runs as root, and whoever writes automations would, too; "
                "name the user that commands run as, or root if that is what you want"
            )
        return _as_account(_entry(ours) or pwd.struct_passwd((str(ours), "", ours, os.getegid(), "", "/", "")))
    entry = _entry(int(user) if user.isdecimal() else user)
    if entry is None:
        raise ConfigError(f"user: this machine has no user {user!r}; make one, such as with useradd --system {user}")
    if ours not in (0, entry.pw_uid):
        raise ConfigError(f"user: only a worker that runs as root can run commands as {user}; run it as {user}")
    return _as_account(entry)


def _entry(user: int | str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        return None


def _as_account(entry: pwd.struct_passwd) -> Account:
    return Account(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        home=entry.pw_dir or "/",
        is_us=entry.pw_uid == os.geteuid(),
    )
