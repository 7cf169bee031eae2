"""What all media have in common: they are kept as a file of the run, and logged as a value that names the file."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from upshot.json_numbers import to_json_number

AddFile = Callable[[str, bytes], None]  #: adds a file to the run: its path and its content


class Media(ABC):
    """A value that is kept as a file of the run."""

    @abstractmethod
    def store(self, key: str, step: int, add_file: AddFile) -> dict[str, Any]:
        """
        Add the file to the run, and return the value that is logged in its place.

        Args:
            key: The key that it is logged with.
            step: The step that it is logged with.
            add_file: Adds a file to the run.
        """


def media_path(folder: str, key: str, step: int, content: bytes, suffix: str) -> tuple[str, str]:
    """Return the path of a media file in the run, and its digest."""
    digest = hashlib.sha256(content).hexdigest()
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", key)[:100].strip(".") or "value"
    return f"media/{folder}/{name}_{step}_{digest[:12]}{suffix}", f"sha256:{digest}"


def encode(value: Any) -> bytes:
    """Return JSON. Numbers that JSON does not have are texts: NaN, Infinity, -Infinity."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    except ValueError:
        return json.dumps(with_named_numbers(value), ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )


def with_named_numbers(value: Any) -> Any:
    """Return JSON data with texts for the numbers that JSON does not have."""
    if isinstance(value, float):
        return to_json_number(value)
    if isinstance(value, dict):
        return {key: with_named_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_named_numbers(item) for item in value]
    return value


def to_plain(value: Any) -> Any:
    """
    Return a number, a text, None, or a list or a mapping of those, as JSON data. Frameworks are not imported.

    A tensor without dimensions is what its `item()` returns. Dates are texts.

    Raises:
        TypeError: It is something else.
    """
    if value is None or isinstance(value, bool):
        return value
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if has_no_dimensions(value):
        item = value.item()
        if type(item) is not type(value):
            return to_plain(item)
    if callable(getattr(value, "isoformat", None)):
        return str(value.isoformat())
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def has_no_dimensions(value: Any) -> bool:
    """Return whether a value has `item()` and no dimensions, or one element."""
    if not callable(getattr(value, "item", None)):
        return False
    shape = getattr(value, "shape", ())
    return all(size == 1 for size in shape)
