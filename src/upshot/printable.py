"""
Make text safe to print. Names, answers and logs come from other people and must not control a terminal.

C0 and C1 control characters move the cursor and change titles. Bidirectional controls and zero-width characters make a
line read differently from what it contains.
"""

from __future__ import annotations

import json
from typing import Any


def escape(text: str, *, keep: str = "\n") -> str:
    r"""Replace characters that are not printable by `\x9b`, `\u202e` and the like, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def dump_json(data: Any, *, indent: int | None = None) -> str:
    """Return data as JSON that is printable, and means the same as JSON that is not."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    # Outside its strings, this JSON contains no character to escape except line breaks.
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
