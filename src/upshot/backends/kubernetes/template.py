"""
Fill in an operator's custom resource: the job's fields replace `{{ names }}`.

This is not a template language. A text may contain names, and a text that is exactly one name takes the value of the
name, which may also be a number or a list. Every other decision is made by the author of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from upshot.backends.kubernetes.manifests import Manifest, SecretNames
from upshot.backends.protocol import ContainerRequest, StartRefused
from upshot.domain.job import FailureKind, JobSpec
from upshot.errors import ConfigError

_NAME = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
#: Fields of the spec that the Secrets contain instead, or that only the backend for Jobs reads.
_HIDDEN = frozenset({"env", "secret_files", "registry_auth", "mounts", "kubernetes"})
_SPEC_NAMES = tuple(sorted(f"spec.{name}" for name in JobSpec.__dataclass_fields__ if name not in _HIDDEN))
_PLAIN_NAMES = ("name", "namespace", "secrets.env", "secrets.files", "secrets.pull")


@dataclass(frozen=True, slots=True)
class Template:
    """A custom resource with names to be replaced."""

    path: str
    api_version: str  #: group and version
    kind: str
    content: Mapping[str, Any]

    def fill(self, request: ContainerRequest, namespace: str) -> Manifest:
        """
        Return the custom resource for one attempt.

        Raises:
            StartRefused: The template uses a name that this job does not have.
        """
        values: dict[str, Any] = {"name": request.name, "namespace": namespace}
        values |= {f"secrets.{key}": value for key, value in asdict(SecretNames.of(request.name)).items()}
        values |= {f"job.{key}": value for key, value in request.context.get("job", {}).items()}
        values |= {name: getattr(request.spec, name.removeprefix("spec.")) for name in _SPEC_NAMES}
        return {str(self._fill(key, values)): self._fill(value, values) for key, value in self.content.items()}

    def _fill(self, node: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(node, Mapping):
            return {self._fill(key, values): self._fill(value, values) for key, value in node.items()}
        if isinstance(node, list):
            return [self._fill(item, values) for item in node]
        if not isinstance(node, str):
            return node
        if whole := _NAME.fullmatch(node):
            return self._value(whole[1], values)
        return _NAME.sub(lambda found: _as_text(self._value(found[1], values)), node)

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if name not in values:
            raise StartRefused(FailureKind.REFUSED, f"{self.path}: this job has no {{{{ {name} }}}}; remove it")
        value = values[name]
        if isinstance(value, Enum):
            return value.value
        return list(value) if isinstance(value, tuple) else value


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


def read_template(path: str) -> Template:
    """
    Read an operator's template.

    Raises:
        ConfigError: It is not a custom resource, or it contains a name that no job has.
    """
    try:
        documents = list(yaml.safe_load_all(Path(path).expanduser().read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"template: {path} cannot be read: {error}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ConfigError(f"template: {path} must contain one custom resource")
    content = documents[0]
    version, kind = content.get("apiVersion"), content.get("kind")
    if not isinstance(kind, str) or not isinstance(version, str) or version.count("/") != 1:
        raise ConfigError(
            f"template: {path} needs `apiVersion` and `kind` of a custom resource, "
            "such as kubeflow.org/v1 and PyTorchJob"
        )
    if not isinstance(content.get("metadata", {}), dict):
        raise ConfigError(f"template: {path}: metadata must be a mapping")
    for name in _names_in(content):
        if name not in _PLAIN_NAMES and name not in _SPEC_NAMES and not name.startswith("job."):
            known = ", ".join((*_PLAIN_NAMES, "job.…", *_SPEC_NAMES))
            raise ConfigError(f"template: {path}: unknown name {{{{ {name} }}}}; choose from {known}")
    return Template(path, version, kind, content)


def check_selector(selector: Mapping[str, str]) -> None:
    """
    Check that a label selector contains no name except `{{ name }}`.

    Raises:
        ConfigError: It contains another name.
    """
    for name in _names_in(dict(selector)):
        if name != "name":
            raise ConfigError(f"log-selector: unknown name {{{{ {name} }}}}; only {{{{ name }}}} is known here")


def fill_selector(selector: Mapping[str, str], container: str) -> str:
    """Return a label selector with the container's name in place of `{{ name }}`."""
    return ",".join(f"{key}={_NAME.sub(container, text)}" for key, text in selector.items())


def _names_in(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield from _NAME.findall(node)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _names_in(key)
            yield from _names_in(value)
    elif isinstance(node, list):
        for item in node:
            yield from _names_in(item)
