"""Validate a mapping of a YAML file against its schema, and report each mistake at its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from upshot.automations.parser.diagnostics import Diagnostics
from upshot.automations.parser.document import Invalid, YamlMapping, YamlSequence
from upshot.schema.yaml_model import INVALID_TEMPLATE, RENDERED, is_template, is_typed_template, text_for_other_type
from upshot.validation import Path, validation_problems

#: Kinds of pydantic's errors for a string where something else is required.
_NOT_TEXT = frozenset({"bool_type", "dict_type", "float_type", "int_type", "list_type", "mapping_type", "model_type"})

Model = TypeVar("Model", bound=BaseModel)


def parse_model(
    model: type[Model],
    mapping: YamlMapping,
    diagnostics: Diagnostics,
    *,
    line: int | None = None,
    root: str = "",
    has_templates: bool = False,
    remedy: Callable[[str], str | None] = lambda _key: None,
) -> Model | None:
    """
    Validate a mapping.

    Args:
        model: The schema of the mapping.
        mapping: As parsed from the file.
        diagnostics: Receives the mistakes.
        line: Line to report for the mapping as a whole; None is its first line.
        root: Dotted path of the mapping, which precedes every path in messages.
        has_templates: Whether values can be templates. A template is checked only once it is rendered.
        remedy: Returns a better message for an unknown or missing key, or None.

    Returns:
        None if something is wrong, or if a value is a template where the schema requires another type.
    """
    try:
        return model.model_validate(mapping, context={RENDERED: not has_templates})
    except ValidationError as error:
        errors = []
        for found in error.errors(include_url=False):
            value = found["input"]
            is_known = not isinstance(value, Invalid) and not (has_templates and is_template(value))
            if is_known or found["type"] in ("extra_forbidden", INVALID_TEMPLATE):
                errors.append(found)
            elif found["type"] in _NOT_TEXT and not isinstance(value, Invalid) and not is_typed_template(value):
                errors.append({**found, "type": INVALID_TEMPLATE, "msg": text_for_other_type(value)})
    for path, message in validation_problems(errors, model, data=mapping, remedy=remedy):
        dotted = ".".join(filter(None, (root, *map(str, path))))
        diagnostics.add(line_of_path(mapping, path, line), f"{dotted}: {message}" if dotted else message)
    return None


def line_of_path(mapping: YamlMapping, path: Path, line: int | None = None) -> int:
    """
    Return the line of a value.

    Args:
        mapping: Where the path begins.
        path: If it leads to a missing value, the result is the line of the nearest parent.
        line: Line of the mapping itself; None is its first line.
    """
    line = mapping.line if line is None else line
    value: Any = mapping
    for part in path:
        if isinstance(value, YamlMapping) and part in value:
            line, value = value.key_lines[str(part)], value[str(part)]
        elif isinstance(value, YamlSequence) and str(part).isdigit() and int(part) < len(value):
            line, value = value.lines[int(part)], value[int(part)]
        else:
            break
    return line
