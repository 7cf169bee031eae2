"""Parameter types of commands: references, JSON objects and `key=value` pairs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from upshot.cli.ids import complete_reference
from upshot.client.http import api_path
from upshot.clock import SystemClock, format_time
from upshot.domain.expiry import NEVER
from upshot.domain.reference import Reference, parse_reference
from upshot.errors import InvalidInput
from upshot.schema.quantities import InvalidQuantity, read_duration, show_duration

_SLASHES = (1, 2)  # scope and name, and W&B's entity in front


class ReferenceType(click.ParamType[Reference]):
    """
    A reference such as `scope/name:version`.

    Args:
        name: How help texts write it.
        scopes: API path segment of the scopes: `registries` or `projects`.
        default_version: The version if the reference names none.
    """

    def __init__(self, name: str, *, scopes: str, default_version: str = "latest") -> None:
        self.name = name
        self._scopes = scopes
        self._default_version = default_version

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_reference(self._scopes)(ctx, param, incomplete)

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Reference:
        if value.partition(":")[0].count("/") not in _SLASHES or value.endswith(":"):
            self.fail(f"{value!r} is not a reference; write {self.name.lower().replace(':version', ':v3')}", param, ctx)
        try:
            return parse_reference(value, default_version=self._default_version)
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


class PathType(click.ParamType[tuple[str, str]]):
    """
    A pair `scope/name`: a registry and a collection, or a project and an artifact.

    Args:
        name: How help texts write it.
        scopes: API path segment of the scopes: `registries` or `projects`.
    """

    def __init__(self, name: str, *, scopes: str) -> None:
        self.name = name
        self._scopes = scopes

    @override
    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_reference(self._scopes)(ctx, param, incomplete)

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        reference = ReferenceType(self.name, scopes=self._scopes, default_version="").convert(value, param, ctx)
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
            data = read_json(value)
        except (OSError, ValueError) as error:
            self.fail(f"{value!r}: {error}; write a JSON object, or @FILE to read one from a file", param, ctx)
        if not isinstance(data, dict):
            self.fail(f"{value!r} is not a JSON object; write {{…}}", param, ctx)
        return data


class TimeType(click.ParamType[datetime]):
    """A time, such as `2026-11-30T08:00:00Z`, or how long ago: `30m`, `2h`, `7d`."""

    name = "TIME"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return SystemClock().now() - timedelta(seconds=read_duration(value))
        except (InvalidQuantity, OverflowError):
            pass
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; write 2026-11-30T08:00:00Z, or how long ago: 30m, 2h, 7d", param, ctx)
        return time.astimezone(UTC)  # a time without a zone is local, as in all output


class TtlType(click.ParamType[int | None]):
    """
    A time to live: `30d`, `12h`, `never`, or for a version `inherit`. The value is what the API calls `ttl_seconds`.

    Args:
        of_version: Whether it is that of a version, whose `never` overrides that of its artifact.
    """

    def __init__(self, *, of_version: bool) -> None:
        self.name = "DURATION|never|inherit" if of_version else "DURATION|never"
        self._of_version = of_version

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "never":
            return NEVER if self._of_version else None
        if value == "inherit" and self._of_version:
            return None
        try:
            seconds = int(read_duration(value))
        except InvalidQuantity:
            seconds = 0
        if seconds < 1:
            self.fail(
                f"{value!r} is not a time to live; write 30d, 12h or {self.name[9:].replace('|', ' or ')}", param, ctx
            )
        return seconds


def refuse_empty_period(since: datetime | None, until: datetime | None) -> None:
    """
    Refuse a period that ends before it begins.

    Raises:
        UsageError: `until` is not after `since`.
    """
    if since is not None and until is not None and until <= since:
        raise click.UsageError(
            f"--until ({format_time(until)}) is not after --since ({format_time(since)}), so nothing is between them; "
            "`--since 2h --until 1h` is from two hours ago to one hour ago"
        )


TIME = TimeType()
COLLECTION = PathType("REGISTRY/COLLECTION", scopes="registries")
ARTIFACT = PathType("PROJECT/ARTIFACT", scopes="projects")
VERSION = ReferenceType("REGISTRY/COLLECTION:VERSION", scopes="registries")
ARTIFACT_VERSION = ReferenceType("PROJECT/ARTIFACT:VERSION", scopes="projects")
OBJECT = ObjectType()


def collection_path(reference: Reference, *segments: str) -> str:
    """Build the API path of the collection that a reference names, or of something below it."""
    return api_path("registries", reference.scope, "collections", reference.name, *segments)


def artifact_path(reference: Reference, *segments: str) -> str:
    """Build the API path of the artifact that a reference names, or of something below it."""
    return api_path("projects", reference.scope, "artifacts", reference.name, *segments)


def read_json(text: str) -> Any:
    """
    Read JSON that a person typed, without changing a value.

    Raises:
        ValueError: The text is not JSON, a key appears twice, or a number is not finite.
    """
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_read_float, object_pairs_hook=_read_object
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:30]} is too large")
    return number


def _read_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return data


def parse_assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """
    Parse `key=text` and `key:=JSON` words.

    A text that looks like JSON remains a text, and a note on standard error points that out.

    Raises:
        BadParameter: A word has no `=`, or no key before it, a key is given twice, or the JSON is invalid.
    """
    data: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is neither key=text nor key:=JSON", param_hint="KEY=TEXT")
        if key in data:
            raise click.BadParameter(f"the key {key!r} is given twice", param_hint="KEY=TEXT")
        data[key] = _json_value(key, text) if is_json else text
        if not is_json and _looks_like_json(text):
            click.echo(f"note: {key} is the text {text!r}; write {key}:={text} to send it as JSON", err=True)
    return data


def _json_value(key: str, text: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        remedy = f"write {key}={text} if it is text"
        raise click.BadParameter(f"{key}:={text}: {error}; {remedy}", param_hint="KEY:=JSON") from error


def _looks_like_json(text: str) -> bool:
    """Return whether a text is written exactly as JSON writes a number, true, false, null, a list or an object."""
    try:
        value = read_json(text)
    except ValueError:
        return False
    return isinstance(value, list | dict) or (not isinstance(value, str) and json.dumps(value) == text)


def show_ttl(seconds: int | None) -> str | None:
    """Return a time to live as `TtlType` reads it. None, which a version inherits, is shown as nothing."""
    return None if seconds is None else "never" if seconds == NEVER else show_duration(seconds)
