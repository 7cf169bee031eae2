"""
An operator's custom resource, with the job's fields in place of `{{ names }}`.

No language: a text may hold names, and a text that is one name alone takes what the name stands
for, a number or a list as well. Whatever is to be decided is decided by whoever writes the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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
#: Of the spec, what the Secrets hold instead, and what only the other kind of backend reads.
_NOT_SHOWN = frozenset({"env", "files", "registry_auth", "mounts", "options"})
_SPEC_NAMES = tuple(sorted(f"spec.{name}" for name in JobSpec.__dataclass_fields__ if name not in _NOT_SHOWN))
_PLAIN_NAMES = ("name", "namespace", "secrets.env", "secrets.files", "secrets.pull")


@dataclass(frozen=True, slots=True)
class Template:
    """A custom resource that is to be filled in."""

    path: str
    api_version: str  #: group and version
    kind: str
    content: Mapping[str, Any]

    def fill(self, order: ContainerRequest, namespace: str) -> Manifest:
        """
        The resource of one try.

        Raises:
            StartRefused: It names what this job has not.
        """
        names = _names(order, namespace)
        filled = _fill(self.content, lambda name: self._value(names, name))
        assert isinstance(filled, dict)  # noqa: S101 - as it was read
        return filled

    def _value(self, names: Mapping[str, Any], name: str) -> Any:
        if name in names:
            return names[name]
        raise StartRefused(FailureKind.REFUSED, f"{self.path}: {{{{ {name} }}}} is nothing that this job has")


def read_template(path: str) -> Template:
    """
    Read an operator's file.

    Raises:
        ConfigError: It is no custom resource, or has a name in it that no job has.
    """
    try:
        documents = list(yaml.safe_load_all(Path(path).expanduser().read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"template: {path} cannot be read: {error}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ConfigError(f"template: {path} must hold one custom resource")
    content = documents[0]
    version, kind = content.get("apiVersion"), content.get("kind")
    if not isinstance(kind, str) or not isinstance(version, str) or version.count("/") != 1:
        raise ConfigError(
            f"template: {path} needs `apiVersion` and `kind` of a custom resource, "
            "such as kubeflow.org/v1 and PyTorchJob"
        )
    if not isinstance(content.get("metadata", {}), dict):
        raise ConfigError(f"template: {path}: metadata is no mapping")
    if unknown := [name for name in _used(content) if not _is_known(name)]:
        known = ", ".join((*_PLAIN_NAMES, "job.…", *_SPEC_NAMES))
        raise ConfigError(f"template: {path}: {{{{ {unknown[0]} }}}} is not known; there are {known}")
    return Template(path, version, kind, content)


def fill_names(texts: Mapping[str, str], container: str) -> dict[str, str]:
    """Texts that may hold `{{ name }}`, the container's, and no other."""
    return {key: _NAME.sub(container, text) for key, text in texts.items()}


def check_names(texts: Mapping[str, str]) -> None:
    """
    Check that they hold no other.

    Raises:
        ConfigError: They do.
    """
    for name in _used(dict(texts)):
        if name != "name":
            raise ConfigError(f"log-selector: {{{{ {name} }}}} is not known there; there is {{{{ name }}}}")


def _is_known(name: str) -> bool:
    return name in _PLAIN_NAMES or name in _SPEC_NAMES or name.startswith("job.")


def _names(order: ContainerRequest, namespace: str) -> dict[str, Any]:
    secrets = SecretNames.of(order.name)
    names: dict[str, Any] = {"name": order.name, "namespace": namespace}
    names |= {f"secrets.{key}": value for key, value in asdict(secrets).items()}
    names |= {f"job.{key}": _plain(value) for key, value in order.fields.get("job", {}).items()}
    return names | {name: _plain(getattr(order.spec, name.removeprefix("spec."))) for name in _SPEC_NAMES}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _used(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _NAME.findall(value)
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from (*_used(key), *_used(member))
    elif isinstance(value, list):
        for member in value:
            yield from _used(member)


def _fill(value: Any, known: Callable[[str], Any]) -> Any:
    if isinstance(value, Mapping):
        return {_fill(key, known): _fill(member, known) for key, member in value.items()}
    if isinstance(value, list):
        return [_fill(member, known) for member in value]
    if not isinstance(value, str):
        return value
    if alone := _NAME.fullmatch(value):
        return known(alone[1])
    return _NAME.sub(lambda found: "" if (text := known(found[1])) is None else str(text), value)
