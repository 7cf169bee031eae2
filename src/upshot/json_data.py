"""Parse JSON that other systems wrote, without changing a number."""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from upshot.storable import SUPPORTED_INTEGERS

MAX_JSON_DEPTH = 100  #: of nested lists and objects, so that code that handles the data does not exhaust the stack
_MAX_INTEGER_CHARS = 20  # of an integer of 64 bits, sign included
#: What a number has that orjson turns into another number or refuses: many digits or a large exponent.
_MAYBE_UNSUPPORTED = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]{3}")


class JsonInvalid(ValueError):
    """The text is not JSON, or it is nested too deeply. The message says which."""


@dataclass(frozen=True, slots=True)
class JsonData:
    """Parsed JSON."""

    value: Any
    #: Paths such as `.run.id` of numbers that are kept as text: integers beyond 64 bits, numbers beyond a float.
    kept_as_text: tuple[str, ...] = ()


class JsonTooDeep(JsonInvalid):
    """The JSON is nested too deeply."""


class _NumberText(str):
    """A number that is kept as text."""

    __slots__ = ()


def parse_json(data: bytes, *, max_depth: int = MAX_JSON_DEPTH) -> JsonData:
    """
    Parse JSON in UTF-8, or in the encoding of its byte order mark.

    Raises:
        JsonInvalid: The text is not JSON.
        JsonTooDeep: It is nested deeper than `max_depth` levels.
    """
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(BOM_UTF8)
    too_deep = f"nested deeper than {max_depth} levels"
    has_unsupported = _MAYBE_UNSUPPORTED.search(data) is not None
    try:
        if has_unsupported:  # the standard library passes every number on as it is written, but it is slower
            value = json.loads(data.decode(), parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant)
        else:
            value = orjson.loads(data)
    except RecursionError as error:
        raise JsonTooDeep(too_deep) from error
    except ValueError as error:
        if "depth limit" in str(error):
            raise JsonTooDeep(too_deep) from error
        raise JsonInvalid(str(error)) from error
    if _is_deeper(value, max_depth, opening_brackets=data.count(b"[") + data.count(b"{")):
        raise JsonTooDeep(too_deep)
    if not has_unsupported:
        return JsonData(value)
    if isinstance(value, _NumberText):
        return JsonData(str(value), (".",))
    return JsonData(value, tuple(_replace_number_texts(value, "")))


def _integer(digits: str) -> int | str:
    if len(digits) <= _MAX_INTEGER_CHARS and (number := int(digits)) in SUPPORTED_INTEGERS:
        return number
    return _NumberText(digits)


def _float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else _NumberText(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_deeper(value: Any, levels: int, *, opening_brackets: int) -> bool:
    if opening_brackets <= levels:
        return False
    containers = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        containers = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not containers:
            return False
    return True


def _replace_number_texts(container: Any, path: str) -> Iterator[str]:
    """Replace the marked texts by plain ones, and yield their paths. The depth of the container is limited."""
    if isinstance(container, dict | list):
        for key, item in container.items() if isinstance(container, dict) else enumerate(container):
            item_path = f"{path}.{key}"
            if isinstance(item, _NumberText):
                container[key] = str(item)
                yield item_path
            else:
                yield from _replace_number_texts(item, item_path)
