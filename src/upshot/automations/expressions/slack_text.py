"""Text for Slack: what is escaped, and what an author marks as safe."""

from __future__ import annotations

import re
from typing import Any

from upshot.automations.expressions.values import measure, read_text
from upshot.schema.slack_blocks import is_literal_block


class SlackText(str):
    """A text that is ready for Slack: escaped, or the markup of an author. It is not escaped again."""

    __slots__ = ()


PARTIAL_ENTITY = re.compile(r"&[a-z]*\Z")  # at the end of an escaped text that was cut


UPPER_ENTITY = re.compile(r"&(?:AMP|LT|GT);")


def escape(text: str) -> SlackText:
    """Escape a text as Slack requires: only these three characters, `&` first."""
    if isinstance(text, SlackText):
        return text
    return SlackText(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def to_slack_text(value: Any) -> SlackText:
    """Convert a value to a part of a text for Slack: escape it, unless it is markup or escaped already."""
    return escape(read_text(value))


def escape_slack_data(value: Any, *, is_text: bool) -> Any:
    """
    Escape what Slack reads as markup in a value that keeps its type.

    Args:
        value: A string, or blocks or parts of them, whose strings at the key `text` are escaped.
        is_text: Whether Slack reads the value itself as a text.
    """
    if isinstance(value, str):
        return to_slack_text(value) if is_text else value
    if isinstance(value, dict | list | tuple):
        measure(value)
        return _escape_parts(value)
    return value


def _escape_parts(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_escape_parts(item) for item in value]
    if not isinstance(value, dict) or is_literal_block(value):
        return value
    return {
        key: escape(item) if key == "text" and isinstance(item, str) else _escape_parts(item)
        for key, item in value.items()
    }


def escaped_like(value: Any, text: str) -> str:
    """Return a text that was made from a value. It needs no escaping if the value needed none."""
    return SlackText(text) if isinstance(value, SlackText) else text


def mark_safe(value: Any) -> Any:
    """Evaluate `safe`: mark all strings in a value as markup, which is not escaped."""
    if isinstance(value, str):
        return SlackText(read_text(value))
    if isinstance(value, dict | list | tuple):
        measure(value)
        return _mark_parts(value)
    return value


def _mark_parts(value: Any) -> Any:
    if isinstance(value, str):
        return SlackText(value)
    if isinstance(value, dict):
        return {key: _mark_parts(item) for key, item in value.items()}
    return [_mark_parts(item) for item in value] if isinstance(value, list | tuple) else value
