"""The options of a Kubernetes backend, and those that an author may add for one job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from upshot.backends.options import BackendOptions, Duration, validate_options
from upshot.errors import ConfigError
from upshot.validation import invalid

DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"
DEFAULT_HELPER_IMAGE = "docker.io/library/busybox:1.37"
DEFAULT_TTL_SECONDS = 86_400  # a job that ends while all workers are down is still there the next day
DEFAULT_PULL_SECONDS = 900.0  # enough for an image of several gigabytes

MAX_NAME_CHARS = 253
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > MAX_NAME_CHARS:
        raise invalid(f"{value!r} is not a name in Kubernetes; use lower-case letters, digits, `-` and `.`")
    return value


Name = Annotated[str, AfterValidator(_check_name)]
NativeObject = Mapping[str, Any]  #: written as in a Kubernetes manifest, and checked by the API server


class ConditionMatch(BackendOptions):
    """A condition of a custom resource's status, or the value of one of its fields."""

    type: str | None = Field(None, min_length=1)  #: type of the condition
    status: str = "True"  #: status of the condition
    field: str | None = Field(None, min_length=1)  #: dotted path, such as `status.phase`; a number is a list index
    value: str | int | bool | None = None  #: value of the field; None matches all but null, false and empty values

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.type is None) == (self.field is None):
            raise invalid("write either `type` for a condition, or `field`")
        return self


#: One match is enough. A single one may be written without a list.
Conditions = Annotated[
    Sequence[ConditionMatch], BeforeValidator(lambda value: [value] if isinstance(value, Mapping) else value)
]


class AuthorOptions(BackendOptions):
    """Options that a step may set under `kubernetes`. The operator's options take precedence."""

    node_selector: Mapping[str, str] = Field(default_factory=dict)
    tolerations: Sequence[NativeObject] = ()
    labels: Mapping[str, str] = Field(default_factory=dict)
    annotations: Mapping[str, str] = Field(default_factory=dict)


class KubernetesOptions(AuthorOptions):
    """Options of a Kubernetes backend."""

    kubeconfig: str | None = Field(None, min_length=1)  #: path; None: the worker's own pod, or kubectl's default
    context: str | None = Field(None, min_length=1)
    namespace: Name | None = None  #: None: the namespace of the pod or of the context
    service_account: Name | None = None  #: None: the namespace's default account, without its token
    volumes: Sequence[NativeObject] = ()
    volume_mounts: Sequence[NativeObject] = ()
    gpu_resource: str = Field(DEFAULT_GPU_RESOURCE, min_length=1)
    image_pull_secrets: Sequence[Name] = ()
    ttl_seconds_after_finished: int = Field(DEFAULT_TTL_SECONDS, ge=600)
    priority_class: Name | None = None
    helper_image: str = Field(DEFAULT_HELPER_IMAGE, min_length=1)  #: contains sh, stat, head and base64
    #: image with the command `upshot`, which downloads inputs; None: the job's image, if the job requires its input
    input_image: str | None = Field(None, min_length=1)
    pull_time: Annotated[Duration, Field(ge=0, le=86_400)] = DEFAULT_PULL_SECONDS  #: added to the job's timeout
    network_policy: bool = False  #: whether a NetworkPolicy isolates pods with the label `upshot.network: none`

    template: str | None = Field(None, min_length=1)  #: path of a custom resource that replaces the Job
    succeeded_when: Conditions = ()
    failed_when: Conditions = ()
    running_when: Conditions = ()  #: empty: it runs from its creation
    log_selector: Mapping[str, str] = Field(default_factory=dict)  #: labels of the pod whose log is the job's
    log_container: str | None = Field(None, min_length=1)  #: None: the pod's first container

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        for field in ("succeeded_when", "failed_when", "running_when", "log_selector", "log_container"):
            if self.template is None and getattr(self, field):
                key = field.replace("_", "-")
                raise invalid(f"{key} applies to custom resources only; remove it, or set `template`")
        if self.template is not None and not (self.succeeded_when and self.failed_when):
            raise invalid("a custom resource needs both `succeeded-when` and `failed-when`; write both")
        return self

    @model_validator(mode="after")
    def _check_volumes(self) -> Self:
        for key, objects in (("volumes", self.volumes), ("volume-mounts", self.volume_mounts)):
            for item in objects:
                if not isinstance(item.get("name"), str) or item["name"].startswith("upshot-"):
                    raise invalid(f"{key}: each item needs a `name` that does not begin with upshot-")
        return self


def read_options(options: Mapping[str, Any]) -> KubernetesOptions:
    """
    Read the options of a Kubernetes backend from the operator's file.

    Raises:
        ConfigError: An option is invalid.
    """
    valid = validate_options(KubernetesOptions, options)
    for key, path in (("kubeconfig", valid.kubeconfig), ("template", valid.template)):
        if path is not None and not Path(path).expanduser().is_file():
            raise ConfigError(f"{key}: there is no file {path}")
    return valid


def read_author_options(options: Mapping[str, Any]) -> AuthorOptions:
    """
    Read what a step sets under `kubernetes`.

    Raises:
        ConfigError: An option is invalid.
    """
    return validate_options(AuthorOptions, options)
