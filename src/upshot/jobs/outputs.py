"""What a job gives back: `outputs.json`, read as plain data or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_MAX_DEPTH = 50  # of templates' data elsewhere, too: whoever walks it must not run out of stack


class OutputsInvalid(ValueError):
    """The file is no JSON object that can be used; the text says what is wrong and what to write."""


def read_outputs(content: bytes | None) -> Mapping[str, Any]:
    """
    Read the content of `outputs.json`.

    Args:
        content: The file's; None where the job wrote none, which is as good as an empty object.

    Raises:
        OutputsInvalid: It is no JSON object, or one that templates cannot use.
    """
    if content is None:
        return {}
    try:
        outputs = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise OutputsInvalid(f"outputs.json is not JSON: {error}") from error
    if not isinstance(outputs, dict):
        raise OutputsInvalid(f'outputs.json holds {_kind(outputs)}; write an object, such as {{"accuracy": 0.93}}')
    if (metrics := outputs.get("metrics")) is not None and not isinstance(metrics, dict):
        raise OutputsInvalid(f"outputs.json: metrics is {_kind(metrics)}; write an object of names and values")
    if _is_deeper(outputs, _MAX_DEPTH):
        raise OutputsInvalid(f"outputs.json is nested deeper than {_MAX_DEPTH} levels")
    return outputs


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_is_deeper(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_is_deeper(item, levels - 1) for item in value)
    return False


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
