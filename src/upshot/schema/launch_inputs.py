"""
What a container job is asked for with: the `with` block of `uses: launch`, as a record.

As the other blocks it is validated as written and as rendered (see `with_blocks`). Quantities are
read where they are known: `4GiB` becomes a number of bytes, `30m` one of seconds, `all` GPUs -1;
a template that is still to be rendered stays the text that it is.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from upshot.domain.image import judge_image
from upshot.domain.job import ImagePullCredentials, MemoryGrowth, Mount, Network, Pull
from upshot.schema.action_inputs import ActionInputs, Items, Text, is_rendered, is_template, rule, wrong
from upshot.schema.quantities import InvalidQuantity, read_bytes, read_cpus, read_duration, show_bytes, show_duration
from upshot.schema.queues import ALL_GPUS, JobOptions

MAX_TIMEOUT_SECONDS = 7 * 86_400.0
MIN_TIMEOUT_SECONDS = 1.0
MAX_GRACE_SECONDS = 3600.0
MAX_PRIORITY = 100
MAX_GPUS = 1024
MAX_PIDS = 2**22  # Linux' own limit
MAX_CONCURRENCY = 100_000
MAX_GROWTH = 10.0
MAX_NAME_CHARS = 64
OUR_LABELS = "upshot."
OUR_VARIABLES = "UPSHOT_"

_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")  # what Kubernetes takes, and every shell can ask for most of
_FILE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")  # what Kubernetes takes as the key of a secret
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")  # as Docker has it
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
_SHELL_SIGNS = frozenset("|&;<>$`*?~")
_OUR_FOLDERS = ("/upshot", "/proc", "/sys", "/dev")  #: of a container, where nothing else is mounted


# --- rules ----------------------------------------------------------------------------------------


def _unless_template(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    return value if not is_rendered(info) and is_template(value) else check(value)


OR_TEMPLATE = WrapValidator(_unless_template)  #: as written, a template may stand here


def _quantity(read: Callable[[Any], Any], at_least: float, at_most: float, show: Callable[[Any], str]) -> Any:
    """A rule for a quantity: read from what people write, and within limits."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        if not is_rendered(info) and is_template(value):
            return value
        try:
            amount = read(value)
        except InvalidQuantity as error:
            raise wrong(f"{_shown(value)} {error}") from error
        if not at_least <= amount <= at_most:
            raise wrong(f"must be from {show(at_least)} to {show(at_most)}, and this is {_shown(value)}")
        return amount

    return PlainValidator(validate)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return str(value).lower() if isinstance(value, bool) else repr(value)[:60]


def _read_whole(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:  # noqa: PLR2004 - 64 bits
        return int(value)  # of a template, which gives text
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidQuantity("is not a whole number", "write one such as 4")
    return value


def _read_gpus(value: Any) -> int:
    if value == "all":
        return ALL_GPUS
    try:
        count = _read_whole(value)
    except InvalidQuantity:
        count = -1
    if count < 0:
        raise InvalidQuantity("is not a number of GPUs", "write 1, or all")
    return count


def _read_priority(value: Any) -> int:
    return -_read_whole(value[1:]) if isinstance(value, str) and value.startswith("-") else _read_whole(value)


def _read_factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidQuantity("is not a number", "write 2 or 1.5")
    return float(value)


def _listed(value: Any) -> Any:
    """A command as one text is a shell's habit; which shell, and whether one is there, nobody can know."""
    if not isinstance(value, str):
        return value
    in_shell = f"[sh, -c, {_quoted(value)}]"
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if not words or _SHELL_SIGNS & set(value):
        raise wrong(f"is one text, and must be a list of words; for a shell write {in_shell}")
    as_list = f"[{', '.join(word if _NAME.fullmatch(word) else _quoted(word) for word in words)}]"
    raise wrong(f"is one text, and must be a list of words; write {as_list}, or for a shell {in_shell}")


def _quoted(text: str) -> str:
    return '"' + text.strip().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _judge_argument(value: str) -> str | None:
    return "has a NUL character, which no program can be given" if "\x00" in value else None


def _judge_name(value: str) -> str | None:
    if _NAME.fullmatch(value) and len(value) <= MAX_NAME_CHARS:
        return None
    return f"{value[:40]!r} is not a name: write letters, digits, `.`, `_` and `-`, at most {MAX_NAME_CHARS}"


def _judge_user(value: str) -> str | None:
    if _USER.fullmatch(value):
        return None
    return f"{value[:40]!r} is not a user; write a number, number:number, or a name that the image has"


def _judge_path(value: str) -> str | None:
    if not value.startswith("/"):
        return f"{value!r} is not absolute; write /{value.removeprefix('./')}"
    if "\x00" in value or ".." in value.split("/"):
        return f"{value!r} has `..` in it, or a character that no path has; write where it leads"
    return None


def _judge_target(value: str) -> str | None:
    if problem := _judge_path(value):
        return problem
    path = posixpath.normpath(value)
    if set(path) == {"/"}:
        return "/ is the container's whole file system, which comes from its image; write a folder, such as /data"
    if taken := next((one for one in _OUR_FOLDERS if path == one or path.startswith(f"{one}/")), None):
        return f"{value} is under {taken}, where nothing of yours can be mounted; write another, such as /data"
    return None


def judge_source(value: str) -> str | None:
    """What is wrong with what is to be mounted; None where it is a path or the name of a volume."""
    if "/" not in value:
        return None if _VOLUME.fullmatch(value) else f"{value!r} is neither a path nor the name of a volume"
    return _judge_path(value)


def _judge_variable(name: str) -> str | None:
    if name.upper().startswith(OUR_VARIABLES):
        return f"{name} is set by Upshot, as all names that begin with {OUR_VARIABLES}; take another"
    return None if _VARIABLE.fullmatch(name) else f"{name!r} is not the name of a variable"


def _judge_file_name(name: str) -> str | None:
    if _FILE_NAME.fullmatch(name) and name not in (".", ".."):
        return None
    return f"{name!r} is not the plain name of a file; it is made in the folder /upshot/secrets"


def _judge_label(name: str) -> str | None:
    if name.startswith(OUR_LABELS):
        return f"{name} is set by Upshot, as all labels that begin with `{OUR_LABELS}`; take another"
    return None if name.strip() else "a label has no name"


def _names(judge: Callable[[str], str | None]) -> AfterValidator:
    """A rule for the keys of a mapping."""

    def validate(value: Any) -> Any:
        if problems := [problem for name in value if (problem := judge(name))]:
            raise wrong("; ".join(problems))
        return value

    return AfterValidator(validate)


def _judge_nothing(_value: str) -> str | None:
    return None


# As written, each of these may also hold a template text; as rendered, it is what its type says.
Argument = Annotated[str, rule(_judge_argument)]
Arguments = Annotated[list[Argument], BeforeValidator(_listed), OR_TEMPLATE]
Path = Annotated[str, rule(_judge_path)]
Name = Annotated[str, rule(_judge_name)]
Flag = Annotated[bool, OR_TEMPLATE]
Variables = Annotated[Mapping[str, Argument], _names(_judge_variable), OR_TEMPLATE]
Files = Annotated[Mapping[str, Annotated[str, rule(_judge_nothing)]], _names(_judge_file_name), OR_TEMPLATE]
Labels = Annotated[Mapping[str, Argument], _names(_judge_label), OR_TEMPLATE]
NetworkName = Annotated[Literal["none", "bridge", "host"], OR_TEMPLATE]
PullName = Annotated[Literal["always", "missing", "never"], OR_TEMPLATE]
Timeout = Annotated[float, _quantity(read_duration, MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS, show_duration)]
Grace = Annotated[float, _quantity(read_duration, 0, MAX_GRACE_SECONDS, show_duration)]
Cpus = Annotated[float, _quantity(read_cpus, 0, float("inf"), str)]
Size = Annotated[int, _quantity(read_bytes, 0, float("inf"), show_bytes)]
Gpus = Annotated[int, _quantity(_read_gpus, ALL_GPUS, MAX_GPUS, str)]
Pids = Annotated[int, _quantity(_read_whole, 1, MAX_PIDS, str)]
Priority = Annotated[int, _quantity(_read_priority, -MAX_PRIORITY, MAX_PRIORITY, str)]
Count = Annotated[int, _quantity(_read_whole, 1, MAX_CONCURRENCY, str)]
Factor = Annotated[float, _quantity(_read_factor, 1.01, MAX_GROWTH, str)]


# --- records --------------------------------------------------------------------------------------


class ResourcesInputs(ActionInputs):
    """How much of its machine a job may use."""

    cpus: Cpus | None = None
    memory: Size | None = None  #: bytes
    gpus: Gpus | None = None  #: -1: all
    shm: Size | None = None  #: bytes of /dev/shm
    pids: Pids | None = None  #: processes and threads


class MountInputs(ActionInputs):
    """A folder of the machine, or a volume, in the container."""

    source: Annotated[str, rule(judge_source)]
    target: Annotated[str, rule(_judge_target)]
    read_only: Flag = True


class ImagePullCredentialsInputs(ActionInputs):
    """With what the image is pulled."""

    username: Text
    password: Text


class MemoryGrowthInputs(ActionInputs):
    """More memory for another try, after one ran out of it."""

    factor: Factor = 2.0
    up_to: Size | None = None  #: bytes; None: the queue's ceiling


class KubernetesInputs(ActionInputs):
    """What only that backend understands; each key as Kubernetes has it, checked by its API server."""

    node_selector: Labels = Field(default_factory=dict)
    tolerations: Items = Field(default_factory=list)
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)


Resources = Annotated[ResourcesInputs, OR_TEMPLATE]
Mounts = Annotated[list[Annotated[MountInputs, OR_TEMPLATE]], OR_TEMPLATE]


class JobInputs(ActionInputs):
    """What both authors and a queue's defaults can say of a job."""

    env: Variables = Field(default_factory=dict)
    resources: Resources = ResourcesInputs()
    timeout: Timeout | None = None  #: seconds, from the container's start
    grace: Grace | None = None  #: seconds between the signal to end and the kill
    network: NetworkName | None = None
    user: Annotated[str, rule(_judge_user)] | None = None
    read_only: Flag | None = None  #: of the root file system
    mounts: Mounts = Field(default_factory=list)
    pull: PullName | None = None
    labels: Labels = Field(default_factory=dict)
    priority: Priority | None = None
    kubernetes: Annotated[KubernetesInputs, OR_TEMPLATE] | None = None

    @field_validator("mounts")
    @classmethod
    def _check_targets(cls, mounts: Any) -> Any:
        targets = [mount.target for mount in mounts if isinstance(mount, MountInputs)]
        if twice := {one for one in targets if targets.count(one) > 1 and not is_template(one)}:
            raise wrong(f"two mounts have the target {min(twice)}; give each its own")
        return mounts

    def asked(self, *, rendered: bool) -> JobOptions:
        """
        What it says, as far as it is known.

        Args:
            rendered: Templates have been filled in; otherwise what still is one says nothing yet.
        """

        def known(value: Any) -> Any:
            return None if not rendered and is_template(value) else value

        resources = known(self.resources) or ResourcesInputs()
        network, pull, kubernetes = known(self.network), known(self.pull), known(self.kubernetes)
        return JobOptions(
            env=known(self.env) or {},
            cpus=known(resources.cpus),
            memory_bytes=known(resources.memory),
            gpus=known(resources.gpus),
            shm_bytes=known(resources.shm),
            pids=known(resources.pids),
            timeout_seconds=known(self.timeout),
            grace_seconds=known(self.grace),
            network=network and Network(network),
            user=known(self.user),
            read_only=known(self.read_only),
            mounts=tuple(_mount(mount, known) for mount in known(self.mounts) or ()),
            pull=pull and Pull(pull),
            labels=known(self.labels) or {},
            options=kubernetes.model_dump(by_alias=True, exclude_unset=True) if kubernetes else {},
        )


def _mount(written: MountInputs, known: Callable[[Any], Any]) -> Mount:
    mount = known(written) or MountInputs(source="{{ unknown }}", target="{{ unknown }}")  # keeps its place in the list
    is_read_only = known(mount.read_only)
    return Mount(
        source=posixpath.normpath(mount.source) if mount.source.startswith("/") else mount.source,
        target=posixpath.normpath(mount.target),
        read_only=True if is_read_only is None else is_read_only,
    )


class ProgramInputs(ActionInputs):
    """What is to run."""

    image: Annotated[str, rule(judge_image)] | None = None  #: None on a backend without containers only
    command: Arguments | None = None  #: in place of the image's entry point
    args: Arguments | None = None  #: in place of the image's default arguments
    secret_files: Files = Field(default_factory=dict)  #: text by name, under /upshot/secrets
    workdir: Path | None = None


class LaunchInputs(JobInputs, ProgramInputs):
    """A container job."""

    privileged: Flag | None = None
    registry_auth: Annotated[ImagePullCredentialsInputs, OR_TEMPLATE] | None = None
    queue: Name | None = None
    backend: Name | None = None  #: None: the queue's
    concurrency: Count | None = None  #: jobs of this step at the same time; None: the queue's limits alone
    memory_growth: Annotated[MemoryGrowthInputs, OR_TEMPLATE] | None = None
    name: Name | None = None  #: under it metrics are saved; None: the step's id
    save_metrics: Flag = False  #: `metrics` of the outputs go to the version's metadata

    @field_validator("command")
    @classmethod
    def _check_command(cls, command: Any) -> Any:
        if command == []:
            raise wrong("is empty; write what is to run, or leave it out for what the image runs")
        return command

    @model_validator(mode="after")
    def _check_growth(self) -> Self:
        growth, resources = self.memory_growth, self.resources
        if not isinstance(growth, MemoryGrowthInputs) or not isinstance(resources, ResourcesInputs):
            return self
        if _is_no_more(growth.up_to, resources.memory):
            raise wrong("memory-growth: up-to must be more than resources.memory, or there is nothing to grow into")
        return self

    def asked(self, *, rendered: bool) -> JobOptions:
        """What it says, as far as it is known; see `JobWith.asked`."""

        def known(value: Any) -> Any:
            return None if not rendered and is_template(value) else value

        command, args, auth = known(self.command), known(self.args), known(self.registry_auth)
        return replace(
            super().asked(rendered=rendered),
            image=known(self.image),
            command=None if command is None else tuple(command),
            args=None if args is None else tuple(args),
            files=known(self.secret_files) or {},
            workdir=known(self.workdir),
            privileged=known(self.privileged),
            registry_auth=auth and ImagePullCredentials(auth.username, auth.password),
        )

    @property
    def growth(self) -> MemoryGrowth | None:
        """More memory for another try, if that was asked for; of a rendered block."""
        asked = self.memory_growth
        return None if asked is None else MemoryGrowth(asked.factor, asked.up_to)


def _is_no_more(up_to: Any, memory: Any) -> bool:
    return isinstance(up_to, int) and isinstance(memory, int) and up_to <= memory
