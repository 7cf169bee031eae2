"""Parse the outputs of a job: the content of `outputs.json`."""

from __future__ import annotations

from collections.abc import Sequence

from upshot.json_data import JsonData, JsonInvalid, JsonTooDeep, parse_json

MAX_DEPTH = 50  # so that recursive code that later handles the outputs does not exhaust the stack

_MAX_SHOWN_PATHS = 5
_TYPE_NAMES = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}


class OutputsInvalid(ValueError):
    """The content is not a usable JSON object. The message says what is wrong, and what to write."""


def parse_outputs(content: bytes | None) -> JsonData:
    """
    Parse the content of `outputs.json`. The value of the result is an object.

    Args:
        content: None if the job wrote no file, which counts as an empty object.

    Raises:
        OutputsInvalid: The content is not a JSON object, or templates cannot use it.
    """
    if content is None:
        return JsonData({})
    try:
        data = parse_json(content, max_depth=MAX_DEPTH)
    except JsonTooDeep as error:
        raise OutputsInvalid(f"outputs.json is {error}; write a flatter object") from error
    except JsonInvalid as error:
        raise OutputsInvalid(f"outputs.json is not valid JSON: {error}") from error
    outputs = data.value
    if not isinstance(outputs, dict):
        actual = _TYPE_NAMES.get(type(outputs), "null")
        raise OutputsInvalid(f'outputs.json holds {actual}; write an object, such as {{"accuracy": 0.93}}')
    if (metrics := outputs.get("metrics")) is not None and not isinstance(metrics, dict):
        actual = _TYPE_NAMES.get(type(metrics), "null")
        raise OutputsInvalid(f"outputs.json: metrics is {actual}; write an object of names and values")
    return data


def kept_as_text_note(paths: Sequence[str]) -> str:
    """Say for people which numbers later steps read as text."""
    shown = ", ".join(f"outputs{path}" for path in paths[:_MAX_SHOWN_PATHS])
    more = f" and {len(paths) - _MAX_SHOWN_PATHS} more" if len(paths) > _MAX_SHOWN_PATHS else ""
    return f"kept as text, because a number of this size cannot be stored exactly: {shown}{more}"
