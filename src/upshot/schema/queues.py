"""
The operator's rules for jobs: backends, queues, what each gives to a job and what it allows.

Pure rules over plain records; `wiring.jobs_file` reads them from the operator's file. An author's
word is completed with the queue's defaults, then held against its ceilings: when the file of an
automation is loaded, when its step is rendered, and once more on the machine that starts the job.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any

from upshot.domain.image import is_meant
from upshot.domain.job import (
    DEFAULT_GRACE_SECONDS,
    DEFAULT_PIDS,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT_SECONDS,
    ImagePullCredentials,
    JobSpec,
    MemoryGrowth,
    Mount,
    Network,
    Pull,
)
from upshot.schema.quantities import show_bytes, show_duration

DOCKER = "docker"  #: the backend that exists without any file
PROCESS = "process"  #: what the backend that needs no image `uses`
KUBERNETES = "kubernetes"
DEFAULT_PER_MACHINE = 4
DEFAULT_TIMEOUT_CEILING_SECONDS = 86_400.0
ALL_GPUS = -1

Violation = tuple[str, str]  #: dotted path in `with`, and the finding

_ENGINE_SOCKETS = frozenset({"docker.sock", "podman.sock", "containerd.sock", "crio.sock"})


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What an author says of a job, or a queue's defaults do; None, or an empty mapping, says nothing."""

    image: str | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    shm_bytes: int | None = None
    pids: int | None = None
    timeout_seconds: float | None = None
    grace_seconds: float | None = None
    network: Network | None = None
    user: str | None = None
    read_only: bool | None = None
    privileged: bool | None = None
    mounts: tuple[Mount, ...] = ()
    pull: Pull | None = None
    registry_auth: ImagePullCredentials | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MountRule:
    """
    A folder of the machine with all below it, or a volume, that jobs may see.

    Of one that they may write to, only the folder itself can be mounted: a job could leave a link in
    it for the next one to mount, which the machine would follow to anywhere.
    """

    source: str
    writable: bool = False

    def allows(self, mount: Mount) -> bool:
        """Tell whether a mount is within; links that the operator's folders hold are the operator's to know."""
        if not (mount.read_only or self.writable):
            return False
        if self._is_alone:
            return _path(mount.source) == _path(self.source)
        return _path(mount.source).is_relative_to(self.source)

    def holds(self, mount: Mount) -> bool:
        """Tell whether what is mounted lies below, where jobs may have put it."""
        below = _path(mount.source).is_relative_to(self.source) and _path(mount.source) != _path(self.source)
        return self.writable and self._is_alone and below

    @property
    def _is_alone(self) -> bool:
        # Who may write to `/` needs no links.
        return not self.source.startswith("/") or (self.writable and self.source != "/")


def _path(source: str) -> PurePosixPath:
    """A path to be compared by its parts, so that `/data` is not the beginning of `/data-secret`."""
    return PurePosixPath(posixpath.normpath(source))


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What an author cannot exceed; None: no limit."""

    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    shm_bytes: int | None = None
    pids: int | None = None
    timeout_seconds: float | None = DEFAULT_TIMEOUT_CEILING_SECONDS
    grace_seconds: float | None = None
    networks: frozenset[Network] = frozenset({Network.NONE, Network.BRIDGE})
    mounts: tuple[MountRule, ...] = ()
    privileged: bool = False
    images: tuple[str, ...] | None = None  #: globs (see `image.is_meant`); None: any
    non_root: bool = False  #: jobs must name a user by a number that is not 0
    priority: int | None = None  #: the highest
    pull: frozenset[Pull] = frozenset(Pull)
    backends: frozenset[str] = frozenset()  #: that an author may choose, beside the queue's own
    options: frozenset[str] | None = None  #: keys of `kubernetes` that an author may set; None: all that it takes


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """An engine that jobs run on."""

    uses: str  #: docker, kubernetes, process, or the name of an entry point
    options: Mapping[str, Any] = field(default_factory=dict)  #: as the backend reads them
    source: str | None = None  #: place in the operator's file


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """One queue."""

    name: str
    concurrency: int | None = None  #: jobs at the same time over all machines; None: any number
    per_machine: int | None = DEFAULT_PER_MACHINE  #: and on each; None: any number
    backend: str = DOCKER
    defaults: JobOptions = JobOptions()
    priority: int = 0  #: of a job whose author says none
    ceilings: QueueLimits = QueueLimits()
    description: str = ""
    source: str | None = None  #: place of the ceilings in the operator's file; None: built in

    @property
    def place(self) -> str:
        """Where its ceilings are set, for messages."""
        where = f" in {self.source}" if self.source else ", built in; UPSHOT_JOBS_FILE names a file with others"
        return f"ceilings of queue {self.name!r}{where}"


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """All queues and backends of an installation; as it is without an operator's file, unless said otherwise."""

    machine_limit: int | None = None  #: jobs at the same time on each machine, over all queues; None: any number
    backends: Mapping[str, BackendSettings] = field(default_factory=lambda: {DOCKER: BackendSettings(DOCKER)})
    queues: Mapping[str, QueueConfig] = field(default_factory=lambda: {DEFAULT_QUEUE: QueueConfig(DEFAULT_QUEUE)})
    source: str | None = None  #: the operator's file; None: there is none

    def unknown_queue(self, name: str) -> str | None:
        """What to say of a queue that there is not; None of one that there is."""
        if name in self.queues:
            return None
        if name == DEFAULT_QUEUE:
            return f"{self.source} declares no queue {name!r}; say which is meant: {_one_of(self.queues)}"
        return self._undeclared("queue", name, self.queues)

    def unknown_backend(self, name: str) -> str | None:
        """What to say of a backend that there is not; None of one that there is."""
        if name in self.backends:
            return None
        return self._undeclared("backend", name, self.backends)

    def _undeclared(self, what: str, name: str, known: Mapping[str, Any]) -> str:
        near = get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]!r}?" if near else f"there is {_one_of(known)}"
        if self.source is None:
            return f"there is no {what} {name!r} without an operator's file, which UPSHOT_JOBS_FILE names; {guess}"
        return f"{self.source} declares no {what} {name!r}; {guess}"

    def needs_image(self, backend: str) -> bool:
        """Tell whether jobs of the backend run in a container."""
        settings = self.backends.get(backend)
        return settings is None or settings.uses != PROCESS

    def complete(self, asked: JobOptions, queue: str) -> JobSpec:
        """
        Fill in what the author leaves open: the queue's defaults, and where it has none, its ceilings.

        What the author says stands, even where it exceeds a ceiling; that is for `objections`.
        Mappings are merged, and so are mounts, by target. Raises KeyError for a queue that there is not.
        """
        rules = self.queues[queue]
        defaults, ceilings = rules.defaults, rules.ceilings
        said = {
            **_said(defaults),
            **_said(asked),
            "env": {**defaults.env, **asked.env},
            "files": {**defaults.files, **asked.files},
            "labels": {**defaults.labels, **asked.labels},
            "options": {**defaults.options, **asked.options},
            "mounts": (*asked.mounts, *_not_taken(defaults.mounts, asked.mounts)),
        }
        return JobSpec(**{**_open(ceilings), **said})

    def objections(self, spec: JobSpec, queue: str) -> tuple[str, ...]:
        """What the queue forbids of a job, each with its ceiling, where that is set, and what to do."""
        return tuple(f"{place}: {finding}" for place, finding in self.objections_by_place(spec, queue))

    def objections_by_place(self, spec: JobSpec, queue: str) -> tuple[Violation, ...]:
        """The same, by dotted path in `with`."""
        if unknown := self.unknown_queue(queue):
            return (("queue", unknown),)
        rules = self.queues[queue]
        return tuple(
            (place, f"{finding} ({rules.place}); {remedy}")
            for place, finding, remedy in _objections(spec, rules, self._written)
        )

    @property
    def _written(self) -> tuple[MountRule, ...]:
        """What jobs of any queue may write to."""
        allowed = (rule for rules in self.queues.values() for rule in rules.ceilings.mounts if rule.writable)
        given = (mount for rules in self.queues.values() for mount in rules.defaults.mounts if not mount.read_only)
        return (*allowed, *(MountRule(mount.source, writable=True) for mount in given))

    def choice_objections(self, queue: str, backend: str, priority: int) -> tuple[Violation, ...]:
        """What a queue forbids beyond the spec: a backend that is not its own, a priority above its ceiling."""
        rules = self.queues[queue]
        found = []
        if backend in self.backends and backend != rules.backend and backend not in rules.ceilings.backends:
            allowed = _one_of({rules.backend, *rules.ceilings.backends})
            found.append(("backend", f"its jobs run on {allowed}, not on {backend}", _OPERATOR))
        if rules.ceilings.priority is not None and priority > rules.ceilings.priority:
            found.append(("priority", f"{priority} is more than {rules.ceilings.priority}, the ceiling", _LESS))
        return tuple((place, f"{finding} ({rules.place}); {remedy}") for place, finding, remedy in found)

    def grow(self, spec: JobSpec, growth: MemoryGrowth, queue: str) -> JobSpec | None:
        """The spec with more memory for another try; None where more is not to be had."""
        rules = self.queues.get(queue)
        if spec.memory_bytes is None or rules is None:
            return None
        limits = (int(spec.memory_bytes * growth.factor), growth.up_to_bytes, rules.ceilings.memory_bytes)
        more = min(limit for limit in limits if limit is not None)
        return replace(spec, memory_bytes=more) if more > spec.memory_bytes else None


# --- filled in ------------------------------------------------------------------------------------


def _said(asked: JobOptions) -> dict[str, Any]:
    return {one.name: value for one in fields(asked) if (value := getattr(asked, one.name)) is not None}


def _not_taken(defaults: tuple[Mount, ...], asked: tuple[Mount, ...]) -> tuple[Mount, ...]:
    taken = {mount.target for mount in asked}
    return tuple(mount for mount in defaults if mount.target not in taken)


def _open(ceilings: QueueLimits) -> dict[str, Any]:
    """What a job has that neither its author nor its queue says anything of."""
    return {
        "cpus": ceilings.cpus,
        "memory_bytes": ceilings.memory_bytes,
        "pids": _at_most(DEFAULT_PIDS, ceilings.pids),
        "timeout_seconds": _at_most(DEFAULT_TIMEOUT_SECONDS, ceilings.timeout_seconds),
        "grace_seconds": _at_most(DEFAULT_GRACE_SECONDS, ceilings.grace_seconds),
        "network": next((one for one in (Network.BRIDGE, Network.NONE) if one in ceilings.networks), Network.HOST),
        "pull": next((one for one in (Pull.MISSING, Pull.ALWAYS) if one in ceilings.pull), Pull.NEVER),
    }


def _at_most(default: float, ceiling: float | None) -> float:
    return default if ceiling is None else min(default, ceiling)


# --- held against the ceilings --------------------------------------------------------------------

_OPERATOR = "leave it out, or ask whoever operates the queue to allow it"
_LESS = "ask for less, or ask whoever operates the queue to raise it"
_Finding = tuple[str, str, str]  #: place, what is wrong, remedy


def _objections(spec: JobSpec, rules: QueueConfig, written: tuple[MountRule, ...]) -> Iterator[_Finding]:
    yield from _amounts(spec, rules.ceilings)
    yield from _rights(spec, rules.ceilings)
    yield from _images(spec, rules.ceilings)
    for place, mount in enumerate(spec.mounts):
        yield from _mount(mount, f"mounts.{place}", rules, written)
    yield from _options(spec, rules)


def _amounts(spec: JobSpec, ceilings: QueueLimits) -> Iterator[_Finding]:
    amounts: tuple[tuple[str, float | None, float | None, Callable[[float], str]], ...] = (
        ("resources.cpus", spec.cpus, ceilings.cpus, "{:g} processors".format),
        ("resources.memory", spec.memory_bytes, ceilings.memory_bytes, _show_size),
        ("resources.shm", spec.shm_bytes or 0, ceilings.shm_bytes, _show_size),
        ("resources.pids", spec.pids, ceilings.pids, "{} processes".format),
        ("timeout", spec.timeout_seconds, ceilings.timeout_seconds, show_duration),
        ("grace", spec.grace_seconds, ceilings.grace_seconds, show_duration),
    )
    for place, asked, ceiling, show in amounts:
        if ceiling is None:
            continue
        if asked is None:
            yield place, f"no limit is more than {show(ceiling)}, the ceiling", "say how much it needs"
        elif asked > ceiling:
            yield place, f"{show(asked)} is more than {show(ceiling)}, the ceiling", _LESS
    most = ceilings.gpus
    if most is not None and most != ALL_GPUS and (spec.gpus == ALL_GPUS or spec.gpus > most):
        asked_gpus = "all GPUs" if spec.gpus == ALL_GPUS else f"{spec.gpus} GPUs"
        yield "resources.gpus", f"{asked_gpus} is more than {most}, the ceiling", _LESS


def _show_size(size: float) -> str:
    return show_bytes(int(size))


def _rights(spec: JobSpec, ceilings: QueueLimits) -> Iterator[_Finding]:
    if spec.privileged and not ceilings.privileged:
        yield "privileged", "a privileged job is root on the machine, and is not allowed", _OPERATOR
    if spec.network not in ceilings.networks:
        yield "network", f"{spec.network.value} is not allowed; {_one_of(ceilings.networks)} is", _OPERATOR
    if spec.pull not in ceilings.pull:
        yield "pull", f"{spec.pull.value} is not allowed; {_one_of(ceilings.pull)} is", _OPERATOR
    if ceilings.non_root and not _is_other_than_root(spec.user):
        who = "the image's own user may be root" if spec.user is None else f"{spec.user!r} is root, or may be"
        yield "user", f"{who}, and root is not allowed", 'name a user by number, such as user: "1000"'


def _is_other_than_root(user: str | None) -> bool:
    """A name says nothing: which number it has, the image decides."""
    number = (user or "").partition(":")[0]
    return number.isascii() and number.isdigit() and int(number) != 0


def _images(spec: JobSpec, ceilings: QueueLimits) -> Iterator[_Finding]:
    if spec.image and ceilings.images is not None and not any(is_meant(spec.image, one) for one in ceilings.images):
        allowed = _one_of(ceilings.images) if ceilings.images else "none"
        yield "image", f"{spec.image} is not allowed; {allowed} is", "use one of those, or ask for this one"


def _mount(mount: Mount, place: str, rules: QueueConfig, written: tuple[MountRule, ...]) -> Iterator[_Finding]:
    allowed, source = rules.ceilings.mounts, posixpath.normpath(mount.source)
    if mount in rules.defaults.mounts:
        return
    if holder := next((rule.source for rule in written if rule.holds(mount)), None):
        finding = f"{source} is in {holder}, where jobs may write, and so leave a link to anywhere"
        yield place, finding, f"mount {holder} itself"
    elif any(rule.allows(mount) for rule in allowed):
        return
    elif any(rule.allows(replace(mount, read_only=True)) for rule in allowed):
        yield place, f"{source} may be mounted to be read only", "leave out `read-only: false`"
    else:
        yield place, _not_mounted(source, allowed), _OPERATOR


def _not_mounted(source: str, allowed: Iterable[MountRule]) -> str:
    if set(source) == {"/"}:
        return "/ is the machine's whole file system: whoever mounts it is root there, and that is not allowed"
    if source.rpartition("/")[2] in _ENGINE_SOCKETS:
        return f"{source} is the engine itself: whoever mounts it is root on the machine, and that is not allowed"
    return f"{source} may not be mounted; {_one_of(rule.source for rule in allowed) or 'nothing'} may"


def _options(spec: JobSpec, rules: QueueConfig) -> Iterator[_Finding]:
    may_set, defaults = rules.ceilings.options, rules.defaults.options
    for key, value in spec.options.items():
        if may_set is None or key in may_set or (key in defaults and defaults[key] == value):
            continue
        allowed = _one_of(may_set) or "nothing"
        yield f"{KUBERNETES}.{key}", f"an author may not set this; {allowed} may be set", _OPERATOR


def _one_of(words: Iterable[str]) -> str:
    known = sorted(words)
    return " or ".join(filter(None, (", ".join(known[:-1]), *known[-1:])))
