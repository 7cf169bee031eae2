"""Read request bodies as strict JSON: what cannot be stored exactly as it was sent is refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from typing_extensions import override

from upshot.web.problems import Problem

MAX_BODY_BYTES = 6 * 1024 * 1024  #: the largest manifest that the registry accepts, and the rest of its request
MAX_DEPTH = 64  #: of nested lists and objects; orjson, which writes the data again, has a limit too
_INLINE_BYTES = 32 * 1024  #: parsed in well under a millisecond; larger bodies are parsed in a thread
_INTEGERS = range(-(2**63), 2**64)  #: what JSON encoders for 64 bits can write
_MAX_INTEGER_CHARS = 20  #: of the largest of these, sign included
_TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} deep"


class NotStorable(ValueError):
    """The body is JSON, but it cannot be stored unchanged."""


class JsonRequest(Request):
    """A request whose body is read as strict JSON."""

    @override
    async def json(self) -> Any:
        body = await self.body()
        return await run_in_threadpool(read_json, body) if len(body) > _INLINE_BYTES else read_json(body)


def read_json(body: bytes) -> Any:
    """
    Read JSON text without rounding a number, dropping a key or replacing a character.

    Raises:
        Problem: 400 if the text is not JSON; 422 if it cannot be stored unchanged.
    """
    try:
        text = body.decode()
        data = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
            object_pairs_hook=_parse_object,
        )
        # After that, only deep data and escaped characters can be wrong.
        if text.count("{") + text.count("[") > MAX_DEPTH or "\\u" in text:
            _check_depth_and_texts(data)
    except UnicodeDecodeError as error:
        raise Problem(400, "malformed-body", f"body: byte {error.start} is not UTF-8; encode JSON as UTF-8") from error
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise Problem(400, "malformed-body", f"body: {position}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise Problem(422, "invalid-input", f"body: {_TOO_DEEP}") from error
    except NotStorable as error:
        raise Problem(422, "invalid-input", f"body: {error}") from error
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise Problem(400, "malformed-body", f"body: {name} is not JSON; write null, or a string")


def _parse_int(digits: str) -> int:
    if len(digits) > _MAX_INTEGER_CHARS or (number := int(digits)) not in _INTEGERS:
        raise NotStorable(f"the number {digits[:30]} does not fit into 64 bits; write it as a string")
    return number


def _parse_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotStorable(f"the number {digits[:30]} is too large; write it as a string")
    return number


def _parse_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise NotStorable(f"the key {repeated[:100]!r} appears twice in one object; keep one")
    return data


def _check_depth_and_texts(data: Any) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        next_level: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                next_level.extend(item)
                next_level.extend(item.values())
            elif isinstance(item, list):
                next_level.extend(item)
        if depth > MAX_DEPTH and any(isinstance(item, dict | list) for item in level):
            raise NotStorable(_TOO_DEEP)
        level = next_level


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise NotStorable("a string contains the character U+0000, which databases refuse; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = f"U+{ord(text[error.start]):04X}"
        raise NotStorable(
            f"a string contains {character}, half of a surrogate pair; write the whole character"
        ) from error
