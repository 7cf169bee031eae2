"""
The only door to PyYAML: text in, plain data out that remembers its lines.

Scalars are read as YAML 1.2's core schema does, so `on`, `yes` and `no` stay words, and there are
no dates, no sexagesimal numbers and no underscores in numbers. What only serves to confuse or to
exhaust is refused: repeated keys, anchors, aliases, merge keys, tags, and sizes beyond the caps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_FILE_BYTES = 4 * 1024 * 1024  # ten thousand automations of the usual size
MAX_DOCUMENT_CHARS = 256 * 1024
MAX_NODES = 10_000  # of one document
MAX_DEPTH = 20

Report = Callable[[int | None, str], None]  #: takes a finding: line counted from 1, and reason

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OTHER_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_NUMBER_CHARS = 40
_INT64 = range(-(2**63), 2**63)

#: What libyaml says, and what a person does about it.
_REMEDIES = {
    "found character that cannot start any token": "a value cannot begin with this character; quote it",
    "found a tab character": "YAML is indented with spaces; replace the tab",
    "mapping values are not allowed in this context": "there is a second `: ` in the line, or the indentation is off; "
    "quote a value that contains `: `",
    "could not find expected ':'": "a `key: value` was expected here; check the indentation, or quote the text",
    "did not find expected key": "the indentation is off, or a quote or bracket is not closed",
    "did not find expected '-' indicator": "the indentation is off: a `- ` was expected here",
    "did not find expected ',' or ']'": "a `[` is not closed, or a comma is missing",
    "did not find expected ',' or '}'": "a `{` is not closed, or a comma is missing; "
    "a value that begins with `{{` must be in quotes",
    "block sequence entries are not allowed in this context": "a list begins on the line below its key",
    "found unexpected end of stream": "a quote is not closed",
    "control characters are not allowed": "there is a control character; remove it",
}


class YamlMapping(dict[str, Any]):
    """A mapping that knows on which lines its keys and values stand."""

    __slots__ = ("key_lines", "line", "value_lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line  #: of its first key; 0 when it comes from no file
        self.key_lines: dict[str, int] = {}
        self.value_lines: dict[str, int] = {}  #: of the value's first character


class YamlSequence(list[Any]):
    """A list that knows on which lines its members stand."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []


class Invalid(str):
    """Stands for a value that was reported already, so that nothing more is said of it."""

    __slots__ = ()


UNREADABLE = Invalid("{{ unreadable }}")  # looks like a template, so that no rule for literals applies


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file."""

    value: Any
    line: int


def with_lines(value: Any) -> Any:
    """Give plain data the form that documents have; all lines are 0."""
    if isinstance(value, dict):
        block = YamlMapping(0)
        for key, member in value.items():
            block[key] = with_lines(member)
            block.key_lines[key] = block.value_lines[key] = 0
        return block
    if isinstance(value, list):
        items = YamlSequence(0)
        items.extend(with_lines(member) for member in value)
        items.lines.extend(0 for _ in value)
        return items
    return value


def decode(raw: bytes, report: Report) -> str | None:
    """Read a file's bytes as text; None when they are none, which is reported."""
    if len(raw) > MAX_FILE_BYTES:
        report(None, f"the file is larger than {MAX_FILE_BYTES // 1024**2} MB; split it")
        return None
    try:
        return raw.decode("utf-8-sig")  # a byte order mark is no mistake of the author's
    except UnicodeDecodeError as error:
        report(raw.count(b"\n", 0, error.start) + 1, "the file is not UTF-8; save it as UTF-8")
        return None


def read_documents(text: str, report: Report) -> list[Document]:
    """
    Read all documents of a file.

    Args:
        text: The file's text.
        report: Takes each finding; a document that cannot be read to its end is left out.
    """
    documents: list[Document] = []
    try:
        reader = _Reader(yaml.parse(text, Loader=yaml.CSafeLoader), report)
        documents.extend(reader.documents())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        report(mark.line + 1 if mark else None, _explain(error, text))
    except yaml.reader.ReaderError as error:
        report(text.count("\n", 0, error.position) + 1, f"this is no YAML: {error.reason}; remove the character")
    except UnicodeEncodeError:
        report(None, "the text has half a character (a lone surrogate); save it as UTF-8")
    except _TooLarge as error:
        report(error.line, error.reason)
    return documents


class _TooLarge(Exception):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = error.problem or "it cannot be read"
    mark = error.problem_mark
    if mark is not None:
        lines = text.split("\n")
        if mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
            return "this is no YAML: it is indented with a tab; use spaces"
    remedy = next((remedy for start, remedy in _REMEDIES.items() if problem.startswith(start)), None)
    return f"this is no YAML: {remedy or problem}"


class _Reader:
    """Builds data from libyaml's events; the caps hold while it builds."""

    def __init__(self, events: Iterator[Any], report: Report) -> None:
        self._events = events
        self._report = report
        self._nodes = 0
        self._start = 0

    def documents(self) -> Iterator[Document]:
        """Each document that can be read."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                first = next(self._events)
                self._nodes, self._start = 0, first.start_mark.index
                line = first.start_mark.line + 1
                yield Document(self._value(first, 0), line)

    def _value(self, event: Any, depth: int) -> Any:
        line = event.start_mark.line + 1
        self._count(event, line, depth)
        if isinstance(event, yaml.AliasEvent):
            self._report(line, f"alias `*{event.anchor}`: anchors and aliases are not allowed; write the value out")
            return UNREADABLE
        if event.anchor is not None:
            self._report(line, f"anchor `&{event.anchor}`: anchors and aliases are not allowed; write the value out")
        if event.tag is not None:
            self._report(line, f"tag `{event.tag}`: tags are not allowed; quote what is meant as text")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(line, depth)
        return self._mapping(event, line, depth)

    def _count(self, event: Any, line: int, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooLarge(line, f"the document has more than {MAX_NODES} values; split it")
        if depth > MAX_DEPTH:
            raise _TooLarge(line, f"this is nested more than {MAX_DEPTH} deep; make it flatter")
        if event.end_mark.index - self._start > MAX_DOCUMENT_CHARS:
            raise _TooLarge(line, f"the document has more than {MAX_DOCUMENT_CHARS // 1024} KB; split it")

    def _scalar(self, event: Any, line: int) -> Any:
        text: str = event.value
        if event.style or event.tag is not None:  # quoted, or a block: always text
            return text
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        first = text[0]
        if first.isdigit() or first in "+-.":
            return self._number(text, line)
        return text

    def _number(self, text: str, line: int) -> Any:
        whole = _INT.fullmatch(text)
        if len(text) > _MAX_NUMBER_CHARS and (whole or _FLOAT.fullmatch(text)):
            return self._no_number(text[:12] + "…", line)
        if whole or _OTHER_INT.fullmatch(text):
            number = int(text) if whole else int(text, 0)
            return number if number in _INT64 else self._no_number(text, line)
        if _FLOAT.fullmatch(text):
            decimal = float(text)
            return decimal if math.isfinite(decimal) else self._no_number(text, line)
        return self._no_number(text, line) if _NO_NUMBER.fullmatch(text) else text

    def _no_number(self, text: str, line: int) -> Invalid:
        self._report(line, f"{text} is not a number that JSON can carry; quote it if it is meant as text")
        return UNREADABLE

    def _sequence(self, line: int, depth: int) -> YamlSequence:
        items = YamlSequence(line)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.lines.append(_line_of_value(event))
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, start: Any, line: int, depth: int) -> YamlMapping | Invalid:
        block = YamlMapping(line)
        is_braces = False
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                is_braces = True
                self._unfit_key(start, event, key_line, depth)
                continue
            key = self._key(event, key_line, block, depth)
            value_event = next(self._events)
            value = self._value(value_event, depth + 1)
            if key is not None:
                block[key] = value
                block.key_lines[key] = key_line
                block.value_lines[key] = _line_of_value(value_event)
        return UNREADABLE if is_braces else block

    def _unfit_key(self, start: Any, event: Any, line: int, depth: int) -> None:
        if start.flow_style and isinstance(event, yaml.MappingStartEvent) and event.flow_style:
            self._report(line, 'a value that begins with `{{` must be in quotes: "{{ … }}"')
        else:
            self._report(line, "a key is one word or one text, not a list, a mapping or an alias")
        report, self._report = self._report, _say_nothing
        self._value(event, depth + 1)
        self._value(next(self._events), depth + 1)
        self._report = report

    def _key(self, event: Any, line: int, block: YamlMapping, depth: int) -> str | None:
        key = self._value(event, depth + 1)
        if not event.style and event.value == "<<":
            self._report(line, "merge key `<<` is not allowed; write the keys out")
            return None
        if not isinstance(key, str):
            self._report(line, f"key {event.value or 'null'}: quote it, so that it is text")
            return None
        if key in block:
            self._report(line, f"key {key!r} is here a second time; the first is on line {block.key_lines[key]}")
            return None
        return key


def _say_nothing(_line: int | None, _reason: str) -> None:
    """Take findings on what is reported already."""


def _line_of_value(event: Any) -> int:
    """Line of the first character that counts: the text of a block scalar begins below its `|`."""
    below = isinstance(event, yaml.ScalarEvent) and event.style in ("|", ">")
    return int(event.start_mark.line) + (2 if below else 1)
