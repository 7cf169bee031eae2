"""
The vocabulary in which `JobSpec` (`domain.job`) declares the options of a job.

Everything that handles options is derived from those declarations:

- the keys of `launch` and of a queue's `defaults`: `schema.launch_inputs`
- the keys of a queue's `limits`: `schema.jobs_file_inputs`, and their enforcement: `schema.queue_limits`
- receipts, the API and `upshot jobs show`: `schema.job_spec`
- the row in the database: `adapters.serialization.jobs`
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from math import inf
from typing import Any

from upshot.suggestions import did_you_mean

TextCheck = Callable[[str], str | None]  #: returns what is wrong with a text, or None

MAX_NAME_CHARS = 64
RESERVED_VARIABLES = "UPSHOT_"  #: first characters of the environment variables that Upshot sets
RESERVED_LABELS = "upshot."  #: first characters of the labels that Upshot sets

_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")  # the names that Kubernetes accepts
_FILE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")  # the keys of a Secret that Kubernetes accepts
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")  # the names of volumes that Docker accepts
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
#: The capabilities of capabilities(7), without `CAP_`, as Docker and Kubernetes write them.
CAPABILITIES = frozenset(
    {
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    }
)
_RESERVED_DIRS = ("/upshot", "/proc", "/sys", "/dev")  # in a container


class ValueKind(Enum):
    """How the value of an option is written in YAML."""

    TEXT = auto()
    WORDS = auto()  #: a list of strings: a command line
    NAMES = auto()  #: a list of names, each with the option's check
    TEXTS = auto()  #: a mapping of names to strings
    FLAG = auto()  #: true or false
    CHOICE = auto()  #: one of the words of `Option.choices`
    CPUS = auto()  #: `2`, `0.5`
    BYTES = auto()  #: `4GiB`
    SECONDS = auto()  #: `30m`
    COUNT = auto()  #: a whole number
    GPUS = auto()  #: a whole number, or `all`
    MOUNTS = auto()  #: a list of `{source, target, read-only}`
    CREDENTIALS = auto()  #: `{username, password}`
    KUBERNETES = auto()  #: settings that only the Kubernetes backend has


class LimitKind(Enum):
    """How a queue limits an option."""

    MAXIMUM = auto()  #: the largest amount; None: no limit
    CHOICES = auto()  #: the words that a step can use
    PERMISSION = auto()  #: whether a step can set the option to true
    IMAGES = auto()  #: patterns of images; None: all images
    MOUNTS = auto()  #: directories and volumes that a step can mount
    NON_ROOT = auto()  #: whether a job must name a user other than root
    KEYS = auto()  #: keys that a step can set; None: all keys
    NAMES = auto()  #: names that a step can list; None allows all names


@dataclass(frozen=True, slots=True)
class Limit:
    """How a queue limits an option, and what holds in a queue that sets no limit."""

    kind: LimitKind
    key: str | None = None  #: path in `limits`; None: the same as the path of the option
    default: Any = None
    reason: str = ""  #: why a PERMISSION is needed, for messages
    caps_unset: bool = True  #: a job that sets no amount could exceed a MAXIMUM, so it gets the maximum itself


@dataclass(frozen=True, slots=True)
class Option:
    """The declaration of one option."""

    key: str  #: path in the `with` block of `launch`, such as `resources.memory`
    kind: ValueKind
    check: TextCheck | None = None  #: check of a TEXT, or of each name in NAMES and TEXTS
    choices: type[StrEnum] | None = None  #: the words of a CHOICE
    smallest: float = 0  #: the smallest valid amount
    largest: float = inf  #: the largest valid amount
    unit: str = ""  #: what a COUNT counts, for messages
    can_be_empty: bool = True  #: WORDS can be an empty list
    can_hold_nul: bool = False  #: the texts in TEXTS can contain NUL characters
    holds_secrets: bool = False  #: templates can use `secrets` in this option
    needs_container: bool = False  #: has no meaning for a backend that runs no containers
    in_defaults: bool = False  #: a queue's `defaults` can set it
    limit: Limit | None = None


# --- checks of texts ------------------------------------------------------------------------------


def check_argument(value: str) -> str | None:
    """Return what is wrong with a text that a program receives."""
    return "contains a NUL character, which no program can receive" if "\x00" in value else None


def check_name(value: str) -> str | None:
    """Return what is wrong with the name of a job, a queue or a backend."""
    if _NAME.fullmatch(value) and len(value) <= MAX_NAME_CHARS:
        return None
    return f"{value[:40]!r} is not a name; use letters, digits, `.`, `_` and `-`, at most {MAX_NAME_CHARS} characters"


def check_user(value: str) -> str | None:
    """Return what is wrong with a user of a container."""
    if _USER.fullmatch(value):
        return None
    return f"{value[:40]!r} is not a user; write a number, number:number, or a name that the image has"


def check_path(value: str) -> str | None:
    """Return what is wrong with an absolute path."""
    if not value.startswith("/"):
        return f"{value!r} is not absolute; write /{value.removeprefix('./')}"
    if "\x00" in value or ".." in value.split("/"):
        return f"{value!r} contains `..` or a NUL character; write the path that it leads to"
    return None


def check_mount_target(value: str) -> str | None:
    """Return what is wrong with the path at which a container sees a mount."""
    if problem := check_path(value):
        return problem
    path = posixpath.normpath(value)
    if set(path) == {"/"}:
        return "/ is the container's whole file system, which comes from its image; write a directory, such as /data"
    if reserved := next((parent for parent in _RESERVED_DIRS if f"{path}/".startswith(f"{parent}/")), None):
        return f"{value} is in {reserved}, where nothing can be mounted; write another directory, such as /data"
    return None


def check_mount_source(value: str) -> str | None:
    """Return what is wrong with the path or the volume that is mounted."""
    if "/" in value:
        return check_path(value)
    return None if _VOLUME.fullmatch(value) else f"{value!r} is neither a path nor the name of a volume"


def check_variable(name: str) -> str | None:
    """Return what is wrong with the name of an environment variable."""
    if name.upper().startswith(RESERVED_VARIABLES):
        return f"{name}: Upshot sets the variables that begin with {RESERVED_VARIABLES}; choose another name"
    return None if _VARIABLE.fullmatch(name) else f"{name!r} is not the name of a variable"


def check_file_name(name: str) -> str | None:
    """Return what is wrong with the name of a secret file."""
    if _FILE_NAME.fullmatch(name) and name not in (".", ".."):
        return None
    return f"{name!r} is not a plain file name; the file is created in the directory /upshot/secrets"


def check_capability(name: str) -> str | None:
    """Return what is wrong with the name of a capability."""
    if name in CAPABILITIES:
        return None
    plain = name.upper().removeprefix("CAP_")
    if plain in CAPABILITIES:
        return f"{name!r} must be written {plain}"
    if plain == "ALL":
        return "ALL gives root on the machine; list the capabilities that the job needs"
    return f"{name[:40]!r} is not a capability{did_you_mean(plain, CAPABILITIES)}"


def check_label(name: str) -> str | None:
    """Return what is wrong with the name of a label."""
    if name.startswith(RESERVED_LABELS):
        return f"{name}: Upshot sets the labels that begin with `{RESERVED_LABELS}`; choose another name"
    return None if name.strip() else "a label has no name"
