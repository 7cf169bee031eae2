"""Parameter types of commands: references, JSON objects and `key=value` pairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from typing_extensions import override

from upshot.client.http import api_path
from upshot.domain.reference import Reference, parse_reference
from upshot.errors import InvalidInput


class ReferenceType(click.ParamType[Reference]):
    """
    A reference such as `scope/name:version`.

    Args:
        name: How help texts write it.
        default_version: The version if the reference names none.
    """

    def __init__(self, name: str, *, default_version: str = "latest") -> None:
        self.name = name
        self._default_version = default_version

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        try:
            return parse_reference(value, default_version=self._default_version)
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


class PathType(click.ParamType[tuple[str, str]]):
    """
    A pair `scope/name`: a registry and a collection, or a project and an artifact.

    Args:
        name: How help texts write it.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        reference = ReferenceType(self.name, default_version="").convert(value, param, ctx)
        if reference.version:
            self.fail(f"{value!r} names a version; remove {':' + reference.version!r}", param, ctx)
        return reference.scope, reference.name


class ObjectType(click.ParamType[dict[str, Any]]):
    """A JSON object: the text itself, a file (`@metrics.json`), or standard input (`@-`)."""

    name = "JSON"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            if value == "@-":
                value = sys.stdin.read()
            elif value.startswith("@"):
                value = Path(value[1:]).read_text()
            data = json.loads(value)
        except (OSError, ValueError) as error:
            self.fail(f"{value!r}: {error}; write a JSON object, or @FILE to read one from a file", param, ctx)
        if not isinstance(data, dict):
            self.fail(f"{value!r} is not a JSON object; write {{…}}", param, ctx)
        return data


COLLECTION = PathType("REGISTRY/COLLECTION")
ARTIFACT = PathType("PROJECT/ARTIFACT")
VERSION = ReferenceType("REGISTRY/COLLECTION:VERSION")
ARTIFACT_VERSION = ReferenceType("PROJECT/ARTIFACT:VERSION")
OBJECT = ObjectType()


def collection_path(reference: Reference, *segments: str) -> str:
    """Build the API path of the collection that a reference names, or of something below it."""
    return api_path("registries", reference.scope, "collections", reference.name, *segments)


def artifact_path(reference: Reference, *segments: str) -> str:
    """Build the API path of the artifact that a reference names, or of something below it."""
    return api_path("projects", reference.scope, "artifacts", reference.name, *segments)


def parse_assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """
    Parse `key=value` words. A value that is valid JSON is read as JSON, any other value as text.

    Raises:
        BadParameter: A word has no `=`, or no key before it.
    """
    data: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not key=value", param_hint="KEY=VALUE")
        try:
            data[key] = json.loads(text)
        except ValueError:
            data[key] = text
    return data
