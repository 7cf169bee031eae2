"""Arguments that name things, and values given on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from upshot.domain.reference import Reference, parse_reference
from upshot.errors import InvalidInput


class PathType(click.ParamType[tuple[str, str]]):
    """`scope/name`, such as a registry and a collection, or a project and an artifact."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The pair."""
        try:
            reference = parse_reference(value, default_version="")
        except InvalidInput as error:
            self.fail(str(error), param, ctx)
        if reference.version:
            self.fail(f"{value!r} names a version; leave out {':' + reference.version!r} here", param, ctx)
        return reference.scope, reference.name


class ReferenceType(click.ParamType[Reference]):
    """`scope/name:version`."""

    def __init__(self, name: str, *, default_version: str = "latest") -> None:
        self.name = name
        self._default_version = default_version

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        """The reference."""
        try:
            return parse_reference(value, default_version=self._default_version)
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


class ObjectType(click.ParamType[dict[str, Any]]):
    """A JSON object: written out, in a file (`@metrics.json`), or on standard input (`@-`)."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The object."""
        try:
            data = json.loads(_text(value))
        except (OSError, ValueError) as error:
            self.fail(f"{value!r}: {error}; write a JSON object, or @FILE that holds one", param, ctx)
        if not isinstance(data, dict):
            self.fail(f"{value!r} is not a JSON object; write {{…}}", param, ctx)
        return data


def _text(value: str) -> str:
    if not value.startswith("@"):
        return value
    return sys.stdin.read() if value == "@-" else Path(value[1:]).read_text()


COLLECTION = PathType("REGISTRY/COLLECTION")
ARTIFACT = PathType("PROJECT/ARTIFACT")
VERSION = ReferenceType("REGISTRY/COLLECTION:VERSION")
ARTIFACT_VERSION = ReferenceType("PROJECT/ARTIFACT:VERSION")
OBJECT = ObjectType()


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """
    Read `key=value` words; a value that is JSON is taken as that, any other as text.

    Raises:
        BadParameter: A word without `=`.
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
