"""Request bodies: JSON that can be kept exactly as it was sent, or a clear refusal."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from upshot.web.problems import Problem

MAX_BODY_BYTES = 6 * 1024 * 1024  #: the largest manifest that the registry takes, and the rest of its request
MAX_DEPTH = 64  #: lists and objects within one another; what is kept must be written again by an encoder with a limit
_AT_ONCE_BYTES = 32 * 1024  #: read in well under a millisecond; more is read where it keeps nobody waiting
_INTEGERS = range(-(2**63), 2**64)  #: what JSON encoders for 64 bits can write
_LONGEST_INTEGER = 20  #: digits of the largest of these, sign included


class NotStorable(ValueError):
    """JSON, but not to be kept without changing it."""


class JsonRequest(Request):
    """A request whose body is read strictly."""

    async def json(self) -> Any:
        """
        The body as plain data.

        Raises:
            Problem: It is not JSON, or holds something that cannot be kept.
        """
        body = await self.body()
        if len(body) > _AT_ONCE_BYTES:
            return await run_in_threadpool(read_json, body)
        return read_json(body)


def read_json(body: bytes) -> Any:
    """
    Read JSON text; no number is rounded, no key dropped, no character replaced.

    Raises:
        Problem: 400 for what is not JSON; 422 for what cannot be kept.
    """
    try:
        text = body.decode()
        data = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
            object_pairs_hook=_unique,
        )
        _check(data, text)
    except UnicodeDecodeError as error:
        raise Problem(400, "malformed-body", f"body: byte {error.start} is not UTF-8; encode JSON as UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Problem(400, "malformed-body", f"body: {place}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise Problem(422, "invalid-input", f"body: {_TOO_DEEP}") from error
    except NotStorable as error:
        raise Problem(422, "invalid-input", f"body: {error}") from error
    return data


_TOO_DEEP = f"lists and objects are nested deeper than {MAX_DEPTH}"


def _refuse_constant(name: str) -> NoReturn:
    raise Problem(400, "malformed-body", f"body: {name} is not JSON; write null, or a string")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER or (number := int(digits)) not in _INTEGERS:
        raise NotStorable(f"the number {digits[:30]} does not fit into 64 bits; write it as a string")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise NotStorable(f"the number {digits[:30]} is too large; write it as a string")
    return number


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise NotStorable(f"the key {twice[:100]!r} stands twice in one object; keep one")
    return data


def _check(data: Any, text: str) -> None:
    """Look closer where the text gives reason to: only deep data and escaped characters can be bad now."""
    deep = text.count("{") + text.count("[") > MAX_DEPTH
    if deep or "\\u" in text:
        _check_deeply(data)


def _check_deeply(data: Any) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if depth > MAX_DEPTH and any(isinstance(item, dict | list) for item in level):
            raise NotStorable(_TOO_DEEP)
        level = below


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise NotStorable("a string holds the character U+0000, which databases refuse; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise NotStorable(f"a string holds {found}, half of a surrogate pair; write the whole character") from error
