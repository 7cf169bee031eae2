"""Write short YAML, to show an author the line that replaces an invalid line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_CHARS = 300  #: length of a value that is shown

_PLAIN = re.compile(r"[A-Za-z0-9_./$(<=~^+-][^\x00-\x1f\x7f]*")
_NOT_A_STRING = re.compile(r"(true|false|null|~|[-+.]?[0-9][0-9._eExob]*)$", re.IGNORECASE)
_SPECIAL = re.compile(r": | #|:$|\s$")
_FLOW_SPECIAL = re.compile(r"[,\[\]{}]")


def yaml_line(key: str, value: Any) -> str:
    """Return `key: value`, or an item of a list if the key is its index."""
    text = yaml_value(value)
    if len(text) > MAX_CHARS:
        text = "…"
    return f"- {text}" if key.isdigit() else f"{key}: {text}"


def yaml_value(value: Any, *, in_flow: bool = False) -> str:
    """Return a value in YAML's flow style, on one line."""
    if isinstance(value, str):
        return _string(value, in_flow=in_flow)
    if isinstance(value, Mapping):
        members = (f"{yaml_value(key, in_flow=True)}: {yaml_value(item, in_flow=True)}" for key, item in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, list):
        return f"[{', '.join(yaml_value(item, in_flow=True) for item in value)}]"
    return json.dumps(value)


def _string(text: str, *, in_flow: bool) -> str:
    is_plain = _PLAIN.fullmatch(text) and not _SPECIAL.search(text) and not _NOT_A_STRING.match(text)
    is_plain = is_plain and "{{" not in text  # an author may paste the line between braces
    if is_plain and not (in_flow and _FLOW_SPECIAL.search(text)) and not text.startswith(("- ", "? ")):
        return text
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)
