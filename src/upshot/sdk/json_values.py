"""Convert metadata and configuration to JSON, as W&B's SDK does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from upshot.sdk.sdk_errors import InvalidArgument

MAX_METADATA_BYTES = 262_144
_MAX_DEPTH = 32


def to_json_object(value: object, what: str, *, max_bytes: int = MAX_METADATA_BYTES) -> dict[str, Any]:
    """
    Return a mapping as JSON: keys become text, tuples and sets lists, NaN null, and NumPy's scalars numbers.

    Args:
        value: A mapping, or None for an empty one.
        what: What it is, for the message.
        max_bytes: Maximum size of the JSON text.

    Raises:
        InvalidArgument: It is not a mapping, it has a value that JSON does not have, or it is too large.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{what}: must be a mapping, not a {type(value).__name__}")
    converted: dict[str, Any] = _to_json(value, what, 1)
    check_size(converted, what, max_bytes=max_bytes)
    return converted


def check_size(value: Mapping[str, Any], what: str, *, max_bytes: int = MAX_METADATA_BYTES) -> None:
    """
    Check the size of a mapping that is JSON.

    Raises:
        InvalidArgument: It is too large.
    """
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise InvalidArgument(
            f"{what}: {size:,} bytes of JSON; at most {max_bytes:,} are allowed; put large values into a file"
        )


def to_json_value(value: object, what: str) -> Any:
    """
    Return a value of a configuration as JSON. Unlike metadata, it may have objects of any kind: they become text.

    Args:
        value: Any value.
        what: What it is, for the message.

    Raises:
        InvalidArgument: It is infinite, or nested too deeply.
    """
    return _to_json(value, what, 1, other=str)


def _to_json(value: Any, path: str, depth: int, other: Callable[[Any], str] | None = None) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"{path}: nested deeper than {_MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | str | int):
        return _plain(value)
    if isinstance(value, float):
        return _finite(float(value), path)
    if isinstance(value, Mapping):
        return {_key(key, path): _to_json(item, f"{path}.{key}", depth + 1, other) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_json(item, f"{path}[{index}]", depth + 1, other) for index, item in enumerate(_in_order(value))]
    if callable(getattr(value, "tolist", None)):  # NumPy's arrays and scalars
        return _to_json(value.tolist(), path, depth + 1, other)
    if callable(getattr(value, "item", None)):  # a tensor without dimensions
        return _to_json(value.item(), path, depth + 1, other)
    if callable(getattr(value, "isoformat", None)):
        return value.isoformat()
    if other is not None:
        return other(value)
    raise InvalidArgument(f"{path}: a {type(value).__name__} is not JSON; write it as a text or a number")


def _plain(value: Any) -> Any:
    """Return a value of a subclass, such as an enumeration, as its plain type."""
    for plain in (bool, str, int):
        if isinstance(value, plain):
            return value if isinstance(value, bool) else plain(value.value if hasattr(value, "value") else value)
    return None


def _finite(value: float, path: str) -> float | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise InvalidArgument(f"{path}: {value} is not JSON; leave it out, or write it as a text")
    return value


def _key(key: Any, path: str) -> str:
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key) if key is None or isinstance(key, bool) else str(key)
    if callable(getattr(key, "item", None)):
        return str(key.item())
    raise InvalidArgument(f"{path}: key {key!r} is not a text; write it as a text")


def _in_order(values: Any) -> Iterable[Any]:
    return sorted(values, key=repr) if isinstance(values, set | frozenset) else values


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch that leads from one object to another. It cannot set a value to null."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key in before and before[key] == value:
            continue
        if isinstance(value, Mapping) and isinstance(before.get(key), Mapping):
            patch[key] = merge_patch(before[key], value)
        else:
            patch[key] = value
    return patch
