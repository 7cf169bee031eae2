"""
The `with` block of `uses: launch`, and a queue's `defaults`.

The keys of both are derived from the declarations in `domain.job`. This module declares only the keys that are not
options of the container. Amounts become numbers where they are known: `4GiB` a number of bytes, `30m` a number of
seconds, `all` GPUs -1. A template that is not rendered yet stays a string.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from math import isinf
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from upshot.domain.job import ALL_GPUS, JOB_OPTIONS, ImagePullCredentials, MemoryGrowth, Mount
from upshot.domain.job_options import (
    Option,
    TextCheck,
    ValueKind,
    check_argument,
    check_label,
    check_mount_source,
    check_mount_target,
    check_name,
)
from upshot.schema.action_inputs import ActionInputs
from upshot.schema.job_spec import JobOptions
from upshot.schema.quantities import (
    CPUS_SCHEMA,
    InvalidQuantity,
    duration_schema,
    read_bytes,
    read_cpus,
    read_duration,
    show_bytes,
    show_duration,
    size_schema,
)
from upshot.schema.yaml_model import (
    ANY_TEMPLATE,
    OR_TEMPLATE,
    SECRET,
    TEMPLATES,
    TEXT_OR_TEMPLATE,
    JsonSchema,
    NonBlank,
    TemplatableList,
    YamlModel,
    is_template,
    one_line,
    quantity,
    rule,
)
from upshot.validation import invalid

MAX_PRIORITY = 100
MAX_CONCURRENCY = 100_000
MAX_GROWTH = 10.0
MAX_DIGITS = 18  # of a number that is written as a string, so that it fits into 64 bits

_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHELL_SIGNS = frozenset("|&;<>$`*?~")

M = TypeVar("M", bound=YamlModel)


# --- values ---------------------------------------------------------------------------------------


def _read_count(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS:
        return int(value)  # the result of a template is a string
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidQuantity("is not a whole number", "write a number such as 4")
    return value


def _read_gpus(value: Any) -> int:
    if value == "all":
        return ALL_GPUS
    try:
        count = _read_count(value)
    except InvalidQuantity:
        count = -1
    if count < 0:
        raise InvalidQuantity("is not a number of GPUs", "write a number such as 1, or all")
    return count


def _read_priority(value: Any) -> int:
    return -_read_count(value[1:]) if isinstance(value, str) and value.startswith("-") else _read_count(value)


def _read_factor(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidQuantity("is not a number", "write a number such as 2 or 1.5")
    return float(value)


def _refuse_command_line(value: Any) -> Any:
    """Refuse a command that is one string: it needs a shell, and nobody knows which shell the image has."""
    if not isinstance(value, str):
        return value
    in_shell = f"[sh, -c, {_quoted(value)}]"
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if not words or _SHELL_SIGNS & set(value):
        raise invalid(f"is one string, and must be a list of words; to use a shell, write {in_shell}")
    as_list = f"[{', '.join(word if _PLAIN_WORD.fullmatch(word) else _quoted(word) for word in words)}]"
    raise invalid(f"is one string, and must be a list of words; write {as_list}, or {in_shell} to use a shell")


def _quoted(text: str) -> str:
    return '"' + text.strip().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def refuse_string(value: Any) -> Any:
    """Refuse a string where a list of strings is meant."""
    if isinstance(value, str):
        raise invalid(f"is one string, and must be a list; write [{value}]")
    return value


def _refuse_empty(words: list[str]) -> list[str]:
    if not words:
        raise invalid("is empty; write what to run, or leave the key out to run what the image runs")
    return words


def _refuse_shared_targets(mounts: list[Any]) -> list[Any]:
    targets = [mount.target for mount in mounts if isinstance(mount, MountInputs) and not is_template(mount.target)]
    if shared := {target for target in targets if targets.count(target) > 1}:
        raise invalid(f"two mounts have the target {min(shared)}; give each mount its own target")
    return mounts


def _names(check: TextCheck) -> AfterValidator:
    """Return a validator for the keys of a mapping."""

    def validate(value: Mapping[str, Any]) -> Mapping[str, Any]:
        if problems := [problem for name in value if (problem := check(name))]:
            raise invalid("; ".join(problems))
        return value

    return AfterValidator(validate)


def _whole_number(smallest: float, largest: float) -> JsonSchema:
    """Describe a whole number for editors. It can also be a string of digits, which templates return."""
    limits = {"minimum": smallest} | ({} if isinf(largest) else {"maximum": largest})
    number = {"type": "integer", **limits}
    return JsonSchema({"anyOf": [number, {"type": "string", "pattern": "^-?[0-9]+$"}], TEMPLATES: ANY_TEMPLATE})


# Any of these can also be a template until it is rendered.
Argument = Annotated[str, rule(check_argument)]
Name = Annotated[str, one_line(), rule(check_name)]
Flag = Annotated[bool, OR_TEMPLATE]
Labels = Annotated[Mapping[str, Argument], _names(check_label), OR_TEMPLATE]
Priority = Annotated[
    int, quantity(_read_priority, -MAX_PRIORITY, MAX_PRIORITY, str), _whole_number(-MAX_PRIORITY, MAX_PRIORITY)
]
Count = Annotated[int, quantity(_read_count, 1, MAX_CONCURRENCY, str), _whole_number(1, MAX_CONCURRENCY)]
Factor = Annotated[
    float,
    quantity(_read_factor, 1.01, MAX_GROWTH, str),
    JsonSchema({"type": "number", "minimum": 1.01, "maximum": MAX_GROWTH, TEMPLATES: ANY_TEMPLATE}),
]
Size = Annotated[int, quantity(read_bytes, 0, float("inf"), show_bytes), JsonSchema(size_schema())]


class MountInputs(YamlModel):
    """A directory of the machine, or a volume, in the container."""

    source: Annotated[str, rule(check_mount_source)]
    target: Annotated[str, rule(check_mount_target)]
    read_only: Flag = True


class ImagePullCredentialsInputs(YamlModel):
    """Credentials for pulling the image."""

    username: NonBlank
    password: Annotated[NonBlank, SECRET]


class MemoryGrowthInputs(YamlModel):
    """More memory for the next attempt after an attempt ran out of memory."""

    factor: Factor = 2.0
    up_to: Size | None = None  #: bytes; None: the queue's limit


class KubernetesInputs(YamlModel):
    """Settings that only the Kubernetes backend has. Its API server checks their values."""

    node_selector: Labels = Field(default_factory=dict)
    tolerations: TemplatableList = Field(default_factory=list)
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)


# --- from declarations to keys --------------------------------------------------------------------

_AMOUNTS: Mapping[ValueKind, tuple[type, Callable[[Any], Any], Callable[[Any], str]]] = {
    ValueKind.CPUS: (float, read_cpus, str),
    ValueKind.BYTES: (int, read_bytes, show_bytes),
    ValueKind.SECONDS: (float, read_duration, show_duration),
    ValueKind.COUNT: (int, _read_count, str),
    ValueKind.GPUS: (int, _read_gpus, str),
}


def _amount_schema(option: Option) -> JsonSchema:
    """Describe an amount for editors."""
    match option.kind:
        case ValueKind.BYTES:
            return JsonSchema(size_schema())
        case ValueKind.SECONDS:
            return JsonSchema(duration_schema(option.smallest, option.largest))
        case ValueKind.CPUS:
            return JsonSchema({**CPUS_SCHEMA, TEMPLATES: ANY_TEMPLATE})
        case ValueKind.GPUS:
            number = {"type": "integer", "minimum": 0, "maximum": option.largest}
            text = {"type": "string", "pattern": "^(all|[0-9]+)$"}
            return JsonSchema({"anyOf": [number, text], TEMPLATES: ANY_TEMPLATE})
        case _:
            return _whole_number(option.smallest, option.largest)


def choice_schema(option: Option) -> Any:
    """Return the type of one of the words of an option."""
    words = tuple(choice.value for choice in option.choices or ())
    return Literal.__getitem__(words)


def value_schema(option: Option) -> Any:
    """Return the type of an option's value in YAML, with its checks."""
    match option.kind:
        case ValueKind.TEXT:
            return Annotated[str, one_line(), rule(option.check or check_argument)]
        case ValueKind.WORDS:
            check = AfterValidator(_refuse_empty if not option.can_be_empty else list)
            smallest = JsonSchema({} if option.can_be_empty else {"minItems": 1})
            return Annotated[list[Argument], BeforeValidator(_refuse_command_line), check, smallest, OR_TEMPLATE]
        case ValueKind.NAMES:
            name = Annotated[str, rule(option.check or check_name)]
            return Annotated[list[name], BeforeValidator(refuse_string), OR_TEMPLATE]
        case ValueKind.TEXTS:
            # Only the secret files can hold any character.
            texts = Mapping[str, Annotated[str, SECRET]] if option.can_hold_nul else Mapping[str, Argument]
            return Annotated[texts, _names(option.check or check_argument), OR_TEMPLATE]
        case ValueKind.FLAG:
            return Flag
        case ValueKind.CHOICE:
            return Annotated[choice_schema(option), TEXT_OR_TEMPLATE]
        case ValueKind.MOUNTS:
            mount = Annotated[MountInputs, OR_TEMPLATE]
            return Annotated[list[mount], AfterValidator(_refuse_shared_targets), OR_TEMPLATE]
        case ValueKind.CREDENTIALS:
            return Annotated[ImagePullCredentialsInputs, OR_TEMPLATE]
        case ValueKind.KUBERNETES:
            return Annotated[KubernetesInputs, OR_TEMPLATE]
        case _:
            number, read, show = _AMOUNTS[option.kind]
            described = _amount_schema(option)
            return Annotated[number, quantity(read, option.smallest, option.largest, show), described]


def with_keys(schemas: Mapping[str, Any]) -> Callable[[type[M]], type[M]]:
    """
    Add keys to a model. A dotted key such as `resources.cpus` becomes a mapping with the key `cpus`.

    Args:
        schemas: Type and default value of each key. Without a default (`...`), a key can be left out, or be null.
    """

    def decorate(model: type[M]) -> type[M]:
        fields: dict[str, Any] = {}
        groups: dict[str, dict[str, Any]] = {}
        for key, (schema, default) in schemas.items():
            group, _, member = key.rpartition(".")
            holder = groups.setdefault(group, {}) if group else fields
            holder[member.replace("-", "_")] = (schema | None, None) if default is ... else (schema, default)
        for group, members in groups.items():
            inner = create_model(f"{group.title()}Inputs", __base__=YamlModel, **members)
            fields[group] = (Annotated[inner, OR_TEMPLATE], Field(default_factory=inner))
        return create_model(
            model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
        )

    return decorate


def _option_schemas(options: Mapping[str, Option]) -> dict[str, Any]:
    empty: dict[ValueKind, Any] = {
        ValueKind.TEXTS: Field(default_factory=dict),
        ValueKind.MOUNTS: Field(default_factory=list),
        ValueKind.NAMES: Field(default_factory=list),
    }
    return {option.key: (value_schema(option), empty.get(option.kind, ...)) for option in options.values()}


def value_at(inputs: YamlModel, key: str) -> Any:
    """Return the value at a dotted key: as it was written, or a template around it; None if it was left out."""
    value: Any = inputs
    for part in key.split("."):
        if not isinstance(value, YamlModel):
            return value
        name = part.replace("-", "_")
        value = getattr(value, name) if name in value.model_fields_set else None
    return value


class JobInputs(YamlModel):
    """What a step and a queue's `defaults` can both say about a job."""

    priority: Priority | None = None

    def options(self, *, rendered: bool) -> JobOptions:
        """
        Return the options that are set and known.

        Args:
            rendered: Whether templates have been rendered. If not, the value of a template is unknown.
        """

        def is_known(value: Any) -> bool:
            return value is not None and (rendered or not is_template(value))

        return {
            name: _domain_value(option, value, is_known)
            for name, option in JOB_OPTIONS.items()
            if is_known(value := value_at(self, option.key))
        }


def _domain_value(option: Option, value: Any, is_known: Callable[[Any], bool]) -> Any:
    match option.kind:
        case ValueKind.WORDS:
            return tuple(value)
        case ValueKind.NAMES:
            return tuple(dict.fromkeys(value))
        case ValueKind.CHOICE if option.choices is not None:
            return option.choices(value)
        case ValueKind.MOUNTS:
            return tuple(map(partial(_mount, is_known=is_known), value))
        case ValueKind.CREDENTIALS:
            return ImagePullCredentials(value.username, value.password)
        case ValueKind.KUBERNETES:
            return value.model_dump(by_alias=True, exclude_unset=True)
        case _:
            return value


def _mount(inputs: Any, *, is_known: Callable[[Any], bool]) -> Mount:
    if not is_known(inputs):  # keeps the indexes of the mounts behind it
        return Mount("{{ unknown }}", "{{ unknown }}")
    return Mount(
        source=posixpath.normpath(inputs.source) if inputs.source.startswith("/") else inputs.source,
        target=posixpath.normpath(inputs.target),
        read_only=inputs.read_only if is_known(inputs.read_only) else True,
    )


@with_keys(_option_schemas({name: option for name, option in JOB_OPTIONS.items() if option.in_defaults}))
class JobDefaultsInputs(JobInputs):
    """What a queue gives to a job whose step leaves an option out."""


@with_keys(_option_schemas(JOB_OPTIONS))
class LaunchInputs(JobInputs, ActionInputs):
    """A container job."""

    queue: Name | None = None
    backend: Name | None = None  #: None: the queue's
    concurrency: Count | None = None  #: maximum number of active jobs of this step; None: only the queue's limits
    memory_growth: Annotated[MemoryGrowthInputs, OR_TEMPLATE] | None = None
    name: Name | None = None  #: metrics are saved under this name; None: the step's id
    save_metrics: Flag = False  #: save the `metrics` among the outputs in the version's metadata

    @model_validator(mode="after")
    def _check_growth(self) -> Self:
        memory = value_at(self, "resources.memory")
        up_to = self.memory_growth.up_to if isinstance(self.memory_growth, MemoryGrowthInputs) else None
        if isinstance(up_to, int) and isinstance(memory, int) and up_to <= memory:
            raise invalid("memory-growth: up-to must be more than resources.memory, or memory cannot grow")
        return self

    @property
    def growth(self) -> MemoryGrowth | None:
        """How memory grows after an attempt ran out of it; None if it does not. For rendered inputs only."""
        growth = self.memory_growth
        return None if growth is None else MemoryGrowth(growth.factor, growth.up_to)
