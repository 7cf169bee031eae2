"""The operator's file of jobs as it is written: machine, backends, queues, and the limits of a queue."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from upshot.domain.job import JOB_OPTIONS
from upshot.domain.job_options import LimitKind, Option, check_mount_source
from upshot.schema.launch_inputs import (
    Count,
    Flag,
    JobDefaultsInputs,
    Name,
    Priority,
    Size,
    choice_schema,
    refuse_string,
    value_at,
    value_schema,
    with_keys,
)
from upshot.schema.queue_limits import DEFAULT_INPUT_BYTES, MountRule, QueueLimits
from upshot.schema.queues import DOCKER
from upshot.schema.yaml_model import NonBlank, YamlModel, rule
from upshot.validation import describe_value, invalid


def _refuse_empty(values: Any) -> Any:
    if not values:
        raise invalid("is an empty list, which would allow nothing; list what is allowed, or leave the key out")
    return values


def _refuse_other_than_mapping(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise invalid(f"must be a mapping of names to their settings, not {describe_value(value)}")
    return value


def _prefixes(texts: Iterable[str]) -> tuple[str, ...]:
    """Return prefixes without the `*` that people append."""
    return tuple(text.removesuffix("*") for text in texts)


def _mount_rule(text: str) -> MountRule:
    source, mode = (text[:-3], text[-2:]) if text.endswith((":rw", ":ro")) else (text, "ro")
    return MountRule(posixpath.normpath(source) if source.startswith("/") else source, writable=mode == "rw")


_List = BeforeValidator(refuse_string)
_MountRule = Annotated[str, rule(lambda text: check_mount_source(text.removesuffix(":rw").removesuffix(":ro")))]


def _limit_schema(option: Option, kind: LimitKind) -> Any:
    """Return the type of a limit in YAML."""
    match kind:
        case LimitKind.MAXIMUM:
            return value_schema(option)
        case LimitKind.CHOICES:
            return Annotated[list[choice_schema(option)], _List, AfterValidator(_refuse_empty)]  # type: ignore[misc]  # computed
        case LimitKind.MOUNTS:
            return Annotated[list[_MountRule], _List]
        case LimitKind.IMAGES | LimitKind.KEYS:
            return Annotated[list[NonBlank], _List]
        case LimitKind.NAMES:
            return value_schema(option)
        case LimitKind.PERMISSION | LimitKind.NON_ROOT:
            return Flag


def _limit_schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = {}
    for option in JOB_OPTIONS.values():
        if (limit := option.limit) is not None:
            schema = _limit_schema(option, limit.kind)
            schemas[limit.key or option.key] = (schema, ... if limit.default is None else limit.default)
    return schemas


@with_keys(_limit_schemas())
class LimitsInputs(YamlModel):
    """What no step can exceed."""

    priority: Priority | None = None
    input_size: Size | None = None
    backends: Annotated[list[Name], _List] = Field(default_factory=list)
    label_prefixes: Annotated[list[NonBlank], _List] | None = None
    annotation_prefixes: Annotated[list[NonBlank], _List] = Field(default_factory=list)

    def limits(self) -> QueueLimits:
        """Return the limits that are set."""
        options: dict[str, Any] = {}
        for name, option in JOB_OPTIONS.items():
            if (limit := option.limit) is None or (value := value_at(self, limit.key or option.key)) is None:
                continue
            match limit.kind:
                case LimitKind.CHOICES if option.choices:
                    value = frozenset(map(option.choices, value))
                case LimitKind.MOUNTS:
                    value = tuple(map(_mount_rule, value))
                case LimitKind.IMAGES:
                    value = tuple(value)
                case LimitKind.KEYS | LimitKind.NAMES:
                    value = frozenset(value)
            options[name] = value
        return QueueLimits(
            options,
            self.priority,
            input_bytes=DEFAULT_INPUT_BYTES if self.input_size is None else self.input_size,
            backends=frozenset(self.backends),
            label_prefixes=None if self.label_prefixes is None else _prefixes(self.label_prefixes),
            annotation_prefixes=_prefixes(self.annotation_prefixes),
        )


class QueueInputs(YamlModel):
    """One queue."""

    description: str = ""
    concurrency: Count | None = None
    per_machine: Count | None = None
    backend: Name = DOCKER
    defaults: JobDefaultsInputs = Field(default_factory=JobDefaultsInputs)
    limits: LimitsInputs = Field(default_factory=LimitsInputs)


class BackendInputs(YamlModel):
    """An engine. The backend itself reads the other keys."""

    model_config = ConfigDict(extra="allow")

    uses: NonBlank | None = None  #: None: the backend that has the same name


class MachineInputs(YamlModel):
    """Limits that hold on each machine, over all queues."""

    parallel: Count | None = None


class JobsFileInputs(YamlModel):
    """The whole file. Each queue and each backend is validated on its own."""

    machine: MachineInputs = MachineInputs()
    backends: Annotated[Mapping[Name, Any], BeforeValidator(_refuse_other_than_mapping)] = Field(default_factory=dict)
    queues: Annotated[Mapping[Name, Any], BeforeValidator(_refuse_other_than_mapping)] = Field(default_factory=dict)
