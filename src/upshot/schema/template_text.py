"""
Find the templates in a text, without parsing them.

It takes linear time for any text, because files are not trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_OPENING = re.compile(r"\$?\{\{|\{%|\{#|\$\{")
_CLOSING = {"${{": "}}", "{{": "}}", "{%": "%}", "{#": "#}"}
_NAME_IN_BRACES = re.compile(r"\$\{ ?([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*) ?\}")
_RAW = re.compile(r"[-+]?\s{0,9}raw\s{0,9}[-+]?")
_END_OF_RAW = re.compile(r"\{%[-+]?\s{0,9}endraw\s{0,9}[-+]?%\}")

LITERAL, VALUE, TAG, COMMENT, RAW = "literal", "{{", "{%", "{#", "raw"
GITHUB, WANDB = "${{", "${"  #: placeholders of GitHub Actions and W&B


class Part(NamedTuple):
    """A template, a placeholder of another system, or a literal text between them."""

    kind: str
    text: str  #: as it is written
    inner: str  #: without the braces and their signs; the whole text of a literal
    start: int  #: in the whole text
    is_closed: bool = True


def template_parts(text: str) -> Iterator[Part]:
    """Yield the parts of a text in order. An unclosed comment reaches to the end of the text."""
    position = literal = 0
    unclosed: set[str] = set()
    while (found := _OPENING.search(text, position)) is not None:
        part = _part(text, found, unclosed)
        if part is None:
            position = found.end()
            continue
        if literal < part.start:
            yield Part(LITERAL, text[literal : part.start], text[literal : part.start], literal)
        yield part
        position = literal = part.start + len(part.text)
    if literal < len(text):
        yield Part(LITERAL, text[literal:], text[literal:], literal)


def _part(text: str, found: re.Match[str], unclosed: set[str]) -> Part | None:
    """Return the part that begins here. `unclosed` collects the closing signs that do not occur any more."""
    start, opening = found.start(), found[0]
    if opening == WANDB:
        name = _NAME_IN_BRACES.match(text, start)
        return Part(WANDB, name[0], name[1], start) if name else None
    closing = _CLOSING[opening]
    end = -1 if closing in unclosed else text.find(closing, found.end())
    if end < 0:
        unclosed.add(closing)
        return Part(COMMENT, text[start:], text[found.end() :], start, is_closed=False) if opening == COMMENT else None
    inner, end = text[found.end() : end], end + len(closing)
    if opening == TAG and _RAW.fullmatch(inner):
        last = _END_OF_RAW.search(text, end)
        end = last.end() if last else len(text)
        return Part(RAW, text[start:end], "", start)
    return Part(opening, text[start:end], inner.strip("-+=" if opening == VALUE else "-+").strip(), start)


def without_templates(text: str, replacement: str = "") -> str:
    """Return a text with a replacement for each of its templates, whose `-` removes white space around them."""
    written: list[str] = []
    trims = False
    for part in template_parts(text):
        if part.kind in (LITERAL, WANDB):
            written.append(part.text.lstrip() if trims else part.text)
            trims = False
            continue
        if part.text[2:3] == "-" and written:
            written[-1] = written[-1].rstrip()
        trims = part.text[-3:-2] == "-"
        written.append(replacement)
    return "".join(written)
