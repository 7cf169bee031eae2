"""Parse the outputs of a job: the content of `outputs.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

MAX_DEPTH = 50  # so that recursive code that later handles the outputs does not exhaust the stack

_TYPE_NAMES = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}


class OutputsInvalid(ValueError):
    """The content is not a usable JSON object. The message says what is wrong, and what to write."""


def parse_outputs(content: bytes | None) -> Mapping[str, Any]:
    """
    Parse the content of `outputs.json`.

    Args:
        content: None if the job wrote no file, which counts as an empty object.

    Raises:
        OutputsInvalid: The content is not a JSON object, or templates cannot use it.
    """
    if content is None:
        return {}
    try:
        outputs = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise OutputsInvalid(f"outputs.json is not valid JSON: {error}") from error
    if not isinstance(outputs, dict):
        actual = _TYPE_NAMES.get(type(outputs), "null")
        raise OutputsInvalid(f'outputs.json holds {actual}; write an object, such as {{"accuracy": 0.93}}')
    if (metrics := outputs.get("metrics")) is not None and not isinstance(metrics, dict):
        actual = _TYPE_NAMES.get(type(metrics), "null")
        raise OutputsInvalid(f"outputs.json: metrics is {actual}; write an object of names and values")
    if _is_deeper(outputs, MAX_DEPTH):
        raise OutputsInvalid(f"outputs.json is nested deeper than {MAX_DEPTH} levels; write a flatter object")
    return outputs


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and (levels == 0 or any(_is_deeper(item, levels - 1) for item in value))
