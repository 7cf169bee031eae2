"""A block held against its pydantic record: what is wrong, in words and with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from upshot.automations.parser.diagnostics import Diagnostics, kind_of
from upshot.automations.parser.document import YamlMapping, YamlSequence
from upshot.automations.sandbox import nearest
from upshot.schema.action_inputs import RENDERED, is_template

Place = Sequence[str | int]  #: keys of mappings and indexes of lists, from the outside in


def check_record(
    record: type[BaseModel],
    block: YamlMapping,
    line: int,
    findings: Diagnostics,
    *,
    holder: str,
    root: str,
    rendered: bool,
) -> Any:
    """
    Report what a block says that its record does not take.

    Args:
        record: What it must be.
        block: As the file has it.
        line: Where to point when the block itself is meant.
        findings: Take what is wrong.
        holder: Who has the keys of the block: "launch has no such key".
        root: What leads to the block, before every place: `with`; may be empty.
        rendered: Nothing in it is a template; otherwise what is one is checked when it is rendered.

    Returns:
        The record; None where something is wrong or, for templates, not known yet.
    """
    try:
        return record.model_validate(block, context={RENDERED: rendered})
    except ValidationError as error:
        for place, reason in _reported(error, record, block, holder, rendered=rendered).items():
            shown = ".".join(filter(None, (root, *map(str, place))))
            findings.add(line_at(block, place, line), f"{shown}: {reason}" if shown else reason)
    return None


def _reported(
    error: ValidationError, record: type[BaseModel], block: YamlMapping, holder: str, *, rendered: bool
) -> dict[tuple[str | int, ...], str]:
    """One reason for each place: ours, where there is one."""
    reported: dict[tuple[str | int, ...], str] = {}
    for found in error.errors(include_url=False):
        if not rendered and is_template(found["input"]):
            continue  # its value is checked once it is rendered
        place = _existing(block, found["loc"], found["type"])
        if place not in reported or found["type"] == "not_usable":
            reported[place] = _in_words(found, record, holder)
    return reported


def _existing(block: YamlMapping, place: Place, kind: str) -> tuple[str | int, ...]:
    """Cut off what pydantic adds to a place: names of a union's members."""
    if kind == "missing":
        return tuple(place)
    value: Any = block
    for depth, part in enumerate(place):
        if isinstance(value, YamlMapping) and part in value:
            value = value[str(part)]
        elif isinstance(value, YamlSequence) and isinstance(part, int):
            value = value[part]
        else:
            return tuple(place[:depth])
    return tuple(place)


def _in_words(found: Any, record: type[BaseModel], holder: str) -> str:
    if found["type"] == "missing":
        return "is missing"
    if found["type"] == "extra_forbidden":
        *above, key = found["loc"]
        return _unknown_key(str(key), above, record, holder)
    reason = str(found["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    reason = reason.replace("dictionary", "mapping")  # pydantic's word for what YAML calls a mapping
    reason = "should be a mapping" if found["type"] == "model_type" else reason
    if not found["type"].endswith("_type"):
        return reason
    remedy = "; quote it" if found["type"] == "string_type" and isinstance(found["input"], int | float) else ""
    return f"{reason}, and this is {kind_of(found['input'])}{remedy}"


def _unknown_key(key: str, above: Place, record: type[BaseModel], holder: str) -> str:
    home = _record_at(record, above)
    who = next((f"`{part}`" for part in reversed(above) if isinstance(part, str)), holder)
    if inner := [name for name, below in _records_below(home) if key in keys_of(below)]:
        return f"{who} has no such key; it goes under `{inner[0]}`"
    if above and key in keys_of(record):
        return f"{who} has no such key; it goes beside `{above[0]}`, not under it"
    known = keys_of(home)
    return f"{who} has no such key{nearest(key, known) or '; it has ' + ', '.join(known)}"


def keys_of(record: type[BaseModel]) -> list[str]:
    """Its keys, as YAML writes them."""
    return [field.alias or name for name, field in record.model_fields.items()]


def _record_at(record: type[BaseModel], place: Place) -> type[BaseModel]:
    """The record that a place within a record has; the names of mappings and the indexes of lists lead nowhere new."""
    for part in place:
        record = dict(_records_below(record)).get(str(part), record)
    return record


def _records_below(record: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in record.model_fields.items():
        if found := _record_in(field.annotation):
            yield field.alias or name, found


def _record_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _record_in(part))), None)


def line_at(block: Mapping[str, Any], place: Place, line: int) -> int:
    """Line of a place in the block; of what holds it, where it is missing."""
    value: Any = block
    for part in place:
        if isinstance(value, YamlMapping) and part in value:
            line, value = value.key_lines[str(part)], value[str(part)]
        elif isinstance(value, YamlSequence) and str(part).isdigit() and int(part) < len(value):
            line, value = value.lines[int(part)], value[int(part)]
        else:
            break
    return line
