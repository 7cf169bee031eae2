"""What an operator writes of a Kubernetes backend, and what an author may add to it for one job."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from upshot.errors import ConfigError
from upshot.schema.quantities import InvalidQuantity, read_duration

DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"
DEFAULT_HELPER_IMAGE = "docker.io/library/busybox:1.37"
DEFAULT_TTL_SECONDS = 86_400  # a job that ended while all of ours was down is still there the next day
DEFAULT_PULL_SECONDS = 900.0  # of an image of several gigabytes

MAX_NAME_CHARS = 253
_OF_THE_CLUSTER = ("kubernetes.io", "k8s.io")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")

R = TypeVar("R", bound="_Record")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=_kebab)


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > MAX_NAME_CHARS:
        raise PydanticCustomError("name", "Kubernetes' names are of small letters, digits, `-` and `.`")
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


def _read_duration(value: Any) -> float:
    try:
        return read_duration(value)
    except InvalidQuantity as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from error


Name = Annotated[str, AfterValidator(_check_name)]
Duration = Annotated[float, BeforeValidator(_read_duration), Field(ge=0, le=86_400)]
NativeObject = Mapping[str, Any]  #: as Kubernetes has it, keys and all; checked by its API server


class ConditionMatch(_Record):
    """What must be seen of a custom resource: a condition of its status, or the value of a field."""

    type: str | None = Field(None, min_length=1)  #: of a condition
    status: str = "True"  #: of that condition
    field: str | None = Field(None, min_length=1)  #: dotted path, such as `status.phase`; numbers count list items
    value: str | int | bool | None = None  #: that the field has; None: any but none, false and empty

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.type is None) == (self.field is None):
            raise PydanticCustomError("one_of", "write either `type`, of a condition, or `field`")
        return self


Conditions = Annotated[Sequence[ConditionMatch], BeforeValidator(_listed)]  #: one of them is enough


class AuthorOptions(_Record):
    """What a step may say under `kubernetes`; the operator's word comes first."""

    node_selector: Mapping[str, str] = Field(default_factory=dict)
    tolerations: Sequence[NativeObject] = ()
    labels: Mapping[str, str] = Field(default_factory=dict)
    annotations: Mapping[str, str] = Field(default_factory=dict)


class Options(AuthorOptions):
    """What stands under the backend's name in the operator's file."""

    kubeconfig: str | None = Field(None, min_length=1)  #: path; None: the worker's own pod, or what kubectl takes
    context: str | None = Field(None, min_length=1)
    namespace: Name | None = None  #: None: the pod's, or the context's
    service_account: Name | None = None  #: None: the namespace's default one, without its token
    volumes: Sequence[NativeObject] = ()
    volume_mounts: Sequence[NativeObject] = ()
    gpu_resource: str = Field(DEFAULT_GPU_RESOURCE, min_length=1)
    image_pull_secrets: Sequence[Name] = ()
    ttl_seconds_after_finished: int = Field(DEFAULT_TTL_SECONDS, ge=600)
    priority_class: Name | None = None
    helper_image: str = Field(DEFAULT_HELPER_IMAGE, min_length=1)  #: has sh, stat, head and base64
    pull_time: Duration = DEFAULT_PULL_SECONDS  #: seconds beside a job's timeout, for its image
    network_policy: bool = False  #: a NetworkPolicy shuts off pods that are labelled `upshot.network: none`

    template: str | None = Field(None, min_length=1)  #: path of a custom resource, in place of a Job
    succeeded_when: Conditions = ()
    failed_when: Conditions = ()
    running_when: Conditions = ()  #: none: from its beginning
    log_selector: Mapping[str, str] = Field(default_factory=dict)  #: labels of the pod whose log is the job's
    log_container: str | None = Field(None, min_length=1)  #: None: the pod's first

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        for field in ("succeeded_when", "failed_when", "running_when", "log_selector", "log_container"):
            if self.template is None and getattr(self, field):
                raise PydanticCustomError("template", f"{_kebab(field)} is of a custom resource; name its `template`")
        if self.template is not None and not (self.succeeded_when and self.failed_when):
            raise PydanticCustomError(
                "template", "a custom resource ends when `succeeded-when` or `failed-when` holds; write both"
            )
        return self

    @model_validator(mode="after")
    def _check_volumes(self) -> Self:
        for key, objects in (("volumes", self.volumes), ("volume-mounts", self.volume_mounts)):
            for one in objects:
                if not isinstance(one.get("name"), str) or one["name"].startswith("upshot-"):
                    raise PydanticCustomError("name", f"{key}: each has a `name` that does not begin with upshot-")
        return self


def read_options(written: Mapping[str, Any]) -> Options:
    """
    Read what stands under the backend's name.

    Raises:
        ConfigError: It cannot be meant.
    """
    options = _read(Options, written)
    for key, path in (("kubeconfig", options.kubeconfig), ("template", options.template)):
        if path is not None and not Path(path).expanduser().is_file():
            raise ConfigError(f"{key}: there is no file {path}")
    return options


def read_author_options(written: Mapping[str, Any]) -> AuthorOptions:
    """
    Read what a step says under `kubernetes`.

    Raises:
        ConfigError: It cannot be meant, or is not an author's to say.
    """
    options = _read(AuthorOptions, written)
    for key in options.annotations:
        # Some of these take a container's walls away.
        if key.partition("/")[0].endswith(_OF_THE_CLUSTER):
            raise ConfigError(f"annotations.{key}: this is Kubernetes' own; only the operator can set it")
    return options


def _read(record: type[R], written: Mapping[str, Any]) -> R:
    try:
        return record(**written)
    except ValidationError as error:
        raise ConfigError(_finding(error, record)) from error


def _finding(error: ValidationError, record: type[_Record]) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        inner = ConditionMatch if len(first["loc"]) > 1 else record
        known = [_kebab(name) for name in inner.model_fields]
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        return f"{place}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}")
    if not place:  # of the whole record
        return str(first["msg"])
    given = "" if first["type"] == "missing" else f", and this is {first['input']!r}"
    return f"{place}: {first['msg']}{given}"
