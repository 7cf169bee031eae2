"""
Describe pydantic's validation errors in plain words.

Every place that checks what a person wrote (YAML files, settings, API requests) calls
`validation_problems` and formats the results itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ErrorType

from upshot.suggestions import did_you_mean

MAX_SHOWN_CHARS = 40  # of a wrong value

Path = tuple[str | int, ...]  #: keys of mappings and indexes of lists, from the outside in

_PYDANTIC_ERRORS = frozenset(get_args(ErrorType))
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "a mapping",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "a string",
}
_SUBJECT = re.compile(r"^\w+ should\b")  # of pydantic's sentences: "Input should be greater than 0"


class ValidationProblem(NamedTuple):
    """One mistake in what a person wrote."""

    path: Path
    message: str

    @property
    def dotted_path(self) -> str:
        """The path as messages show it: `mounts.0.target`."""
        return ".".join(map(str, self.path))


def invalid(reason: str) -> PydanticCustomError:
    """Return an error for a validator to raise. People read its reason unchanged."""
    return PydanticCustomError("invalid", "{reason}", {"reason": reason})


def validation_problems(
    errors: Iterable[Mapping[str, Any]],
    model: type[BaseModel] | None = None,
    *,
    data: Any = None,
    remedy: Callable[[str], str | None] = lambda _key: None,
    mapping: str = "a mapping",
    show_values: bool = True,
) -> list[ValidationProblem]:
    """
    Describe validation errors, one for each path.

    Args:
        errors: From `ValidationError.errors()`.
        model: The model that was validated, so that an unknown key is reported with the nearest valid key.
        data: What was validated. Paths then lose the parts by which pydantic names the members of a union.
        remedy: Returns a better message for an unknown or missing key at the top level, or None.
        mapping: What to call a mapping. JSON calls it an object.
        show_values: Whether messages quote wrong values. They must not where a value can be a secret.
    """
    messages: dict[Path, str] = {}
    for error in errors:
        path, kind = tuple(error["loc"]), error["type"]
        if data is not None:
            path = (*_existing_parts(path[:-1], data), path[-1]) if kind == "missing" else _existing_parts(path, data)
        if path in messages and kind in _PYDANTIC_ERRORS:
            continue  # our own message says more than one of pydantic's
        known_remedy = remedy(str(path[0])) if len(path) == 1 else None
        if kind == "extra_forbidden":
            messages[path] = known_remedy or _unknown_key(path, model)
        elif kind == "missing":
            messages[path] = known_remedy or "this field is required"
        else:
            messages[path] = _describe(error, mapping, show_values=show_values)
    return [ValidationProblem(path, message) for path, message in messages.items()]


def describe_value(value: Any, *, show: bool = True) -> str:
    """Name the kind of a value and, if `show` is true, the value itself: `the number 3`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower() if show else "true or false"
    if isinstance(value, int | float):
        return f"the number {value}" if show else "a number"
    if isinstance(value, str):
        return f"the string {value[:MAX_SHOWN_CHARS]!r}" if show else "a string"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a value of type {type(value).__name__}"


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model as people write them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _describe(error: Mapping[str, Any], mapping: str, *, show_values: bool) -> str:
    kind, value = error["type"], error["input"]
    if kind not in _PYDANTIC_ERRORS:
        return str(error["msg"])
    if kind == "value_error":
        return str(error["ctx"]["error"])
    actual = describe_value(value, show=show_values)
    if kind in {"enum", "literal_error"}:
        expected = str(error["ctx"]["expected"])
        guess = ""
        if isinstance(value, str):
            guess = did_you_mean(value, re.findall(r"'([^']*)'", expected), list_known=False)
        return f"must be {expected}, not {actual}{guess}"
    if (type_name := _EXPECTED.get(kind)) is not None:
        type_name = mapping if type_name == "a mapping" else type_name
        is_unquoted = type_name == "a string" and isinstance(value, int | float)
        return f"must be {type_name}, not {actual}" + ("; put it in quotes" if is_unquoted and show_values else "")
    message = _SUBJECT.sub("must", str(error["msg"]))
    return message[:1].lower() + message[1:]


def _existing_parts(path: Path, data: Any) -> Path:
    """Remove the parts of a path that are neither a key nor an index in the data."""
    parts = []
    for part in path:
        is_key = isinstance(data, Mapping) and part in data
        if is_key or (isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)):
            data = data[part]
            parts.append(part)
    return tuple(parts)


def _unknown_key(path: Path, model: type[BaseModel] | None) -> str:
    *parents, key = map(str, path)
    if model is None:
        return "unknown key"
    holder = model
    for parent in parents:  # names in a mapping and indexes of a list lead to no other model
        holder = _models_below(holder).get(parent, holder)
    if below := [name for name, inner in _models_below(holder).items() if key in keys_of(inner)]:
        return f"unknown key; write it under `{below[0]}`"
    if parents and key in keys_of(model):
        return f"unknown key; write it beside `{parents[0]}`, not under it"
    return f"unknown key{did_you_mean(key, keys_of(holder))}"


def _models_below(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the models of nested mappings, by their keys."""
    below = ((field.alias or name, _model_in(field.annotation)) for name, field in model.model_fields.items())
    return {key: inner for key, inner in below if inner is not None}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
