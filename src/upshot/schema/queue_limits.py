"""
The limits of a queue: what a step cannot exceed.

How each option is limited is declared with the option, in `domain.job`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from upshot.domain.image import image_matches
from upshot.domain.job import ALL_GPUS, JOB_OPTIONS, JobSpec, Mount
from upshot.domain.job_options import LimitKind, Option, ValueKind
from upshot.schema.job_spec import JobOptions
from upshot.schema.quantities import show_amount

ASK_TO_ALLOW = "leave it out, or ask the operator of the queue to allow it"
ASK_TO_RAISE = "ask for less, or ask the operator of the queue to raise the limit"

_ENGINE_SOCKETS = frozenset({"docker.sock", "podman.sock", "containerd.sock", "crio.sock"})


DEFAULT_INPUT_BYTES = 10 * 1024**3


class Violation(NamedTuple):
    """Something that a queue forbids."""

    path: str  #: dotted path in `with`
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class MountRule:
    """
    A directory of the machine with everything below it, or a volume, that jobs can mount.

    A writable directory can be mounted only as a whole. If its subdirectories could be mounted, a job could replace
    one with a link, and the machine would follow that link anywhere when it mounts it for the next job.
    """

    source: str
    writable: bool = False

    def allows(self, mount: Mount) -> bool:
        """Return whether the rule allows a mount. The operator is responsible for links in it."""
        if not (mount.read_only or self.writable):
            return False
        if self._is_exact:
            return _path(mount.source) == _path(self.source)
        return _path(mount.source).is_relative_to(self.source)

    def contains(self, mount: Mount) -> bool:
        """Return whether a mount is below the writable directory, where a job may have left a link."""
        below = _path(mount.source).is_relative_to(self.source) and _path(mount.source) != _path(self.source)
        return self.writable and self._is_exact and below

    @property
    def _is_exact(self) -> bool:
        # A job that can write to `/` needs no links.
        return not self.source.startswith("/") or (self.writable and self.source != "/")


def _path(source: str) -> PurePosixPath:
    """Return a path that is compared part by part, so that `/data` does not contain `/data-secret`."""
    return PurePosixPath(posixpath.normpath(source))


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The limits of one queue."""

    options: Mapping[str, Any] = field(
        default_factory=dict
    )  #: by field of `JobSpec`; an option that is missing has its declared default
    priority: int | None = None  #: the highest priority; None: no limit
    #: bytes of an input that is copied to another machine: uploaded to its engine, or downloaded into a pod
    input_bytes: int = DEFAULT_INPUT_BYTES
    backends: frozenset[str] = frozenset()  #: backends that a step can choose instead of the queue's own
    #: prefixes of labels that a step can set; None allows all, but none on Kubernetes
    label_prefixes: tuple[str, ...] | None = None
    annotation_prefixes: tuple[str, ...] = ()  #: prefixes of Kubernetes annotations that a step can set

    def of(self, name: str) -> Any:
        """Return the limit of the option that is this field of `JobSpec`."""
        limit = JOB_OPTIONS[name].limit
        return self.options.get(name, limit and limit.default)

    @classmethod
    def without_restrictions(cls) -> QueueLimits:
        """Return limits that allow everything."""
        allowed = {
            LimitKind.PERMISSION: True,
            LimitKind.NON_ROOT: False,
            LimitKind.MOUNTS: (MountRule("/", writable=True),),
        }
        return cls(
            {
                name: frozenset(option.choices or ()) if option.choices else allowed.get(option.limit.kind)
                for name, option in JOB_OPTIONS.items()
                if option.limit
            },
            label_prefixes=("",),
            annotation_prefixes=("",),
        )

    def unset_values(self) -> JobOptions:
        """
        Return the values of options that neither the step nor the queue's defaults set.

        A job that sets no option is within the limits. Where it could otherwise use any amount, it gets the limit.
        """
        values: dict[str, Any] = {}
        spec = JobSpec()
        for name, option in JOB_OPTIONS.items():
            limit, default = self.of(name), getattr(spec, name)
            if option.limit is None or limit is None:
                continue
            if option.limit.kind is LimitKind.MAXIMUM:
                is_over = option.limit.caps_unset if default is None else _is_over(option, default, limit)
                values[name] = limit if is_over else default
            elif option.limit.kind is LimitKind.CHOICES and option.choices:
                values[name] = next(choice for choice in (default, *option.choices) if choice in limit)
        return values


def _is_over(option: Option, amount: float, limit: float) -> bool:
    def as_number(value: float) -> float:
        return inf if option.kind is ValueKind.GPUS and value == ALL_GPUS else value

    return as_number(amount) > as_number(limit)


def violations(
    spec: JobSpec,
    limits: QueueLimits,
    defaults: JobOptions,
    writable: Collection[MountRule],
    *,
    on_kubernetes: bool = False,
) -> Iterator[Violation]:
    """
    Find the options that exceed the limits of a queue.

    Args:
        spec: What the job asks for.
        limits: The limits of the queue.
        defaults: The defaults of the queue. A job may use them even if the limits forbid them.
        writable: All paths that jobs of any queue can write to.
        on_kubernetes: Whether the job runs on Kubernetes, where labels and annotations control other programs.
    """
    for name, option in JOB_OPTIONS.items():
        value, limit, default = getattr(spec, name), limits.of(name), defaults.get(name, ())
        match option.limit and option.limit.kind:
            case LimitKind.MAXIMUM if limit is not None:
                yield from _check_maximum(option, value, limit)
            case LimitKind.CHOICES if value not in limit:
                yield Violation(option.key, f"{value.value} is not allowed; {join_or(limit)} is", ASK_TO_ALLOW)
            case LimitKind.PERMISSION if value and not limit and option.limit:
                yield Violation(option.key, f"{option.limit.reason}, and is not allowed", ASK_TO_ALLOW)
            case LimitKind.NON_ROOT if limit and not _is_other_than_root(value):
                user = "the image's own user may be root" if value is None else f"{value!r} is root, or may be root"
                yield Violation(
                    option.key, f"{user}, and root is not allowed", 'name a user by number, such as user: "1000"'
                )
            case LimitKind.IMAGES if value and limit is not None:
                yield from _check_image(option, value, limit)
            case LimitKind.MOUNTS:
                yield from _check_mounts(option, value, limit, default, writable)
            case LimitKind.KEYS if limit is not None:
                keys = [key for key in value if key not in default or default[key] != value[key]]
                yield from _check_keys(option, keys, limit)
            case LimitKind.NAMES if limit is not None:
                yield from _check_names(option, value, {*limit, *default})
    yield from _check_labels(spec, limits, defaults, on_kubernetes=on_kubernetes)


def _check_names(option: Option, names: Iterable[str], allowed: Collection[str]) -> Iterator[Violation]:
    for index, name in enumerate(names):
        if name not in allowed:
            problem = f"{name} is not allowed; {join_or(allowed) or 'nothing'} is"
            yield Violation(f"{option.key}.{index}", problem, ASK_TO_ALLOW)


def _check_labels(
    spec: JobSpec, limits: QueueLimits, defaults: JobOptions, *, on_kubernetes: bool
) -> Iterator[Violation]:
    label_prefixes = () if on_kubernetes and limits.label_prefixes is None else limits.label_prefixes
    own, given = spec.kubernetes, defaults.get("kubernetes", {})
    if label_prefixes is not None:
        yield from _check_prefixes("labels", spec.labels, defaults.get("labels"), label_prefixes)
        yield from _check_prefixes("kubernetes.labels", own.get("labels"), given.get("labels"), label_prefixes)
    annotations = own.get("annotations"), given.get("annotations")
    yield from _check_prefixes("kubernetes.annotations", *annotations, limits.annotation_prefixes)


def _check_prefixes(path: str, texts: Any, defaults: Any, prefixes: Sequence[str]) -> Iterator[Violation]:
    """
    Check the names of labels or annotations.

    A list of forbidden names could not be complete, because each controller of a cluster reads its own names.
    """
    if not isinstance(texts, Mapping):
        return  # not set, or a template that is not rendered yet
    for name, value in texts.items():
        is_default = isinstance(defaults, Mapping) and defaults.get(name) == value
        if not is_default and not name.startswith(tuple(prefixes)):
            allowed = f"names that begin with {join_or(prefixes)}" if prefixes else "none"
            kind = path.rpartition(".")[2].removesuffix("s")
            limit = f"`{kind}-prefixes`"
            yield Violation(
                f"{path}.{name}",
                f"a step cannot set this {kind}; it can set {allowed}",
                f"leave it out, or ask the operator of the queue to name its prefix in {limit}",
            )


def _check_maximum(option: Option, value: float | None, limit: float) -> Iterator[Violation]:
    shown = show_amount(option, limit)
    if value is not None and _is_over(option, value, limit):
        yield Violation(option.key, f"{show_amount(option, value)} is more than the limit of {shown}", ASK_TO_RAISE)
    elif value is None and option.limit and option.limit.caps_unset:
        yield Violation(
            option.key, f"a job without a maximum exceeds the limit of {shown}", "write how much the job needs"
        )


def _is_other_than_root(user: str | None) -> bool:
    """Return whether a user is certainly not root. The image decides which number a name has."""
    number = (user or "").partition(":")[0]
    return number.isascii() and number.isdigit() and int(number) != 0


def _check_image(option: Option, image: str, allowed: Collection[str]) -> Iterator[Violation]:
    if not any(image_matches(image, pattern) for pattern in allowed):
        remedy = "use an allowed image, or ask the operator of the queue to allow this one"
        yield Violation(option.key, f"{image} is not allowed; {join_or(allowed) or 'none'} is", remedy)


def _check_keys(option: Option, keys: Iterable[str], allowed: Collection[str]) -> Iterator[Violation]:
    for key in keys:
        if key not in allowed:
            problem = f"a step cannot set this; it can set {join_or(allowed) or 'nothing'}"
            yield Violation(f"{option.key}.{key}", problem, ASK_TO_ALLOW)


def _check_mounts(
    option: Option,
    mounts: Iterable[Mount],
    allowed: Collection[MountRule],
    defaults: Collection[Mount],
    writable: Collection[MountRule],
) -> Iterator[Violation]:
    for index, mount in enumerate(mounts):
        path, source = f"{option.key}.{index}", posixpath.normpath(mount.source)
        if mount in defaults:
            continue
        if parent := next((rule.source for rule in writable if rule.contains(mount)), None):
            problem = f"{source} is in {parent}, where a job can leave a link that leads anywhere"
            yield Violation(path, problem, f"mount {parent} itself")
        elif any(rule.allows(mount) for rule in allowed):
            continue
        elif any(rule.allows(replace(mount, read_only=True)) for rule in allowed):
            yield Violation(path, f"{source} can only be mounted read-only", "leave out `read-only: false`")
        elif set(source) == {"/"}:
            yield Violation(
                path, "/ is the machine's whole file system; mounting it gives root on the machine", ASK_TO_ALLOW
            )
        elif source.rpartition("/")[2] in _ENGINE_SOCKETS:
            yield Violation(path, f"{source} is the engine itself; mounting it gives root on the machine", ASK_TO_ALLOW)
        else:
            sources = join_or(rule.source for rule in allowed) or "nothing"
            yield Violation(path, f"{source} cannot be mounted; {sources} can", ASK_TO_ALLOW)


def join_or(words: Iterable[str]) -> str:
    """Join words for a message: `a, b or c`."""
    *rest, last = sorted(words) or [""]
    return f"{', '.join(rest)} or {last}" if rest else last
