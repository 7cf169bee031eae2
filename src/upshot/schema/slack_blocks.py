"""Slack's blocks: which of their strings Slack reads as text, and how long a text can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Blocks whose texts Slack shows as they are.
_LITERAL_BLOCKS = ("rich_text", "raw_text")
#: Slack's limits for the text of a block, by the type of the block, and for a field of a section.
_MAX_TEXT_CHARS = {"section": 3_000, "header": 150}
_MAX_FIELD_CHARS = 2_000


def is_literal_block(block: Any) -> bool:
    """Return whether Slack shows the texts of a block, or of a part of it, as they are."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    return isinstance(kind, str) and kind.startswith(_LITERAL_BLOCKS)


def text_paths(value: Any, path: str) -> Iterator[str]:
    """Yield the dotted paths of the texts in blocks. Other strings, such as URLs, are not read as markup."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from text_paths(item, f"{path}.{index}")
    elif isinstance(value, Mapping) and not is_literal_block(value):
        for key, item in value.items():
            if key == "text" and isinstance(item, str):
                yield f"{path}.{key}"
            yield from text_paths(item, f"{path}.{key}")


def texts_with_limits(blocks: list[Any]) -> Iterator[tuple[str, str, int]]:
    """Yield what each text in sections and headers is called in messages, the text, and its maximum of characters."""
    for number, block in enumerate(blocks, start=1):
        if not isinstance(block, Mapping):
            continue
        kind, fields = block.get("type"), block.get("fields")
        limit = _MAX_TEXT_CHARS.get(kind) if isinstance(kind, str) else None
        if limit is not None and (text := _text_of(block.get("text"))) is not None:
            yield f"the text of block {number} (a {kind})", text, limit
        for index, field in enumerate(fields if isinstance(fields, list) else (), start=1):
            if (text := _text_of(field)) is not None:
                yield f"field {index} of block {number}", text, _MAX_FIELD_CHARS


def _text_of(value: Any) -> str | None:
    text = value.get("text") if isinstance(value, Mapping) else None
    return text if isinstance(text, str) else None
