"""
Parse YAML into plain data that remembers its lines. Only this module uses PyYAML.

Scalars follow the core schema of YAML 1.2: `on`, `yes` and `no` are strings, and there are no dates,
no sexagesimal numbers and no underscores in numbers. A number must be written as it is sent: `01234` and
`1.10` can be text, so an author has to put them in quotes or write the number. Syntax that confuses readers
or exhausts memory is refused: repeated keys, anchors, aliases, merge keys, tags, and sizes above the limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import yaml

from upshot.automations.foreign_expressions import rewrite_expression
from upshot.automations.yaml_lines import yaml_line

MAX_FILE_BYTES = 4 * 1024 * 1024  # about ten thousand automations
MAX_DOCUMENT_CHARS = 256 * 1024
MAX_NODES = 10_000  # per document
MAX_DEPTH = 20

Report = Callable[[int | None, str], None]  #: receives an error: its line, counted from 1, and the reason

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OTHER_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_NUMBER_CHARS = 40
_INT64 = range(-(2**63), 2**63)

_MARKERS = re.compile(r"^(?:---(?=[ \t\r\n]|\Z)|\.\.\.[ \t]*(?:#.*)?\r?(?:\n|\Z))", re.MULTILINE)
_PREAMBLE = re.compile(r"(?:[ \t]*(?:[#%].*)?\r?\n)*")
_EXPRESSION_LINE = re.compile(r"\s*(?:- )?(?P<key>if|that): +(?P<value>.*)")
_TEXT_AND_MORE = re.compile(r"""\s*(?:- )?(?P<key>[\w-]+): +(?P<value>(?:"[^"]*"|'[^']*')\s*[^\s#,\]}].*)""")
_GLOB_LINE = re.compile(r"[:\[,-]\s+\*")

#: Messages of libyaml, and what an author can do.
_REMEDIES = {
    "found character that cannot start any token": "a value cannot begin with this character; put it in quotes",
    "found a tab character": "YAML is indented with spaces; replace the tab",
    "mapping values are not allowed in this context": "there is a second `: ` in the line, or the indentation is "
    "wrong; put a value that contains `: ` in quotes",
    "could not find expected ':'": "a `key: value` was expected here; check the indentation, or put the text in quotes",
    "did not find expected key": "the indentation is wrong, or a quote or bracket is not closed",
    "did not find expected '-' indicator": "the indentation is wrong: a `- ` was expected here",
    "did not find expected node content": "a value was expected here; a `[` or `{` above may not be closed",
    "did not find expected ',' or ']'": "a `[` is not closed, or a comma is missing",
    "did not find expected ',' or '}'": "a `{` is not closed, or a comma is missing; "
    "a value that begins with `{{` must be in quotes",
    "block sequence entries are not allowed in this context": "a list must begin on the line below its key",
    "found unexpected end of stream": "a quote is not closed",
    "control characters are not allowed": "there is a control character; remove it",
}


class YamlMapping(dict[str, Any]):
    """A mapping that knows the lines of its keys and values."""

    __slots__ = ("key_lines", "line", "value_lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line  #: of its first key; 0 if it is not from a file
        self.key_lines: dict[str, int] = {}
        self.value_lines: dict[str, int] = {}  #: of the value's first character

    def mapping(self, key: str) -> YamlMapping:
        """Return the mapping at a key. It is empty if there is none."""
        value = self.get(key)
        return value if isinstance(value, YamlMapping) else YamlMapping(self.line)


class YamlSequence(list[Any]):
    """A list that knows the lines of its items."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []


class Invalid(str):
    """Replaces a value whose error is already reported, so that nothing else is reported about it."""

    __slots__ = ()


UNREADABLE = Invalid("{{ unreadable }}")  # looks like a template, so that rules for plain values skip it


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file."""

    value: Any
    line: int


def to_yaml_nodes(value: Any) -> Any:
    """Convert plain data to the types that parsing a file returns. Every line is 0."""
    if isinstance(value, dict):
        mapping = YamlMapping(0)
        for key, member in value.items():
            mapping[key] = to_yaml_nodes(member)
            mapping.key_lines[key] = mapping.value_lines[key] = 0
        return mapping
    if isinstance(value, list):
        sequence = YamlSequence(0)
        sequence.extend(to_yaml_nodes(item) for item in value)
        sequence.lines.extend(0 for _ in value)
        return sequence
    return value


def decode(raw: bytes, report: Report) -> str | None:
    """Decode the bytes of a file. If they are too many or not UTF-8, report that and return None."""
    if len(raw) > MAX_FILE_BYTES:
        report(None, f"the file is larger than {MAX_FILE_BYTES // 1024**2} MB; split it")
        return None
    try:
        return raw.decode("utf-8-sig")  # editors on Windows write a byte order mark
    except UnicodeDecodeError as error:
        report(raw.count(b"\n", 0, error.start) + 1, "the file is not UTF-8; save it as UTF-8")
        return None


def split_documents(text: str) -> Iterator[tuple[int, str]]:
    """
    Yield the text of each document of a file, and the number of lines before it.

    A line that begins with `---` begins a document, even after an open quote or bracket. So a document can be parsed
    even if the one before it cannot. Comments and directives belong to the document below them.
    """
    start = line = counted = 0
    for marker in _MARKERS.finditer(text):
        is_end = marker[0][0] == "."
        at = marker.end() if is_end else marker.start()
        part = text[start:at]
        if not is_end and (not part or (not part.startswith("---") and _PREAMBLE.fullmatch(part))):
            continue
        yield line, part
        line += text.count("\n", counted, at)
        start = counted = at
    if start < len(text):
        yield line, text[start:]


def parse_documents(text: str, report: Report, lines_before: int = 0) -> list[Document]:
    """
    Parse all documents of a text.

    Args:
        text: The text of a file, or of a part of it.
        report: Receives each error. The result leaves out a document that cannot be parsed to its end.
        lines_before: Number of lines of the file before the text.
    """
    documents: list[Document] = []
    try:
        reader = _Reader(yaml.parse(text, Loader=yaml.CSafeLoader), report, lines_before)
        documents.extend(reader.documents())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        report(lines_before + mark.line + 1 if mark else None, f"invalid YAML: {_explain(error, text)}")
    except yaml.reader.ReaderError as error:
        line = lines_before + text.count("\n", 0, error.position) + 1
        report(line, f"invalid YAML: {error.reason}; remove the character")
    except UnicodeEncodeError:
        report(None, "the text contains half a character (a lone surrogate); save it as UTF-8")
    except _TooLarge as error:
        report(error.line, error.reason)
    return documents


class _TooLarge(Exception):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


def _remedy_for_tag(event: Any) -> str:
    """Return what to write for `!x`, which YAML reads as a tag."""
    tag: str = event.tag
    if not tag.startswith("!") or not isinstance(event, yaml.ScalarEvent) or event.style:
        return "tags are not allowed; put a string in quotes instead"
    form = rewrite_expression(f"{tag} {event.value}")
    shown = f"`{form.text}`" if form and form.text else "`not …`"
    return f"YAML reads `!` as a tag; in an expression write {shown}, and in a filter `{{not: {tag[1:]}}}`"


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark, problem = error.problem_mark, error.problem or "it cannot be parsed"
    if mark is not None:
        lines = text.split("\n")
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: mark.column + 1]:
            return "the line is indented with a tab; use spaces"
        if found := _EXPRESSION_LINE.fullmatch(line):
            form = rewrite_expression(found["value"])
            if form and form.text:
                return f"{' and '.join(form.foreign)} cannot be used here; write `{found['key']}: {form.text}`"
        if found := _TEXT_AND_MORE.fullmatch(line):
            shown = yaml_line(found["key"], found["value"])
            return f"a value that begins with a quote ends at the next one; put the whole value in quotes: `{shown}`"
        if _GLOB_LINE.search(line):
            return "a value cannot begin with `*`; put it in quotes"
    return next((remedy for message, remedy in _REMEDIES.items() if problem.startswith(message)), problem)


class _Reader:
    """Builds data from libyaml's events and enforces the limits while it does."""

    def __init__(self, events: Iterator[Any], report: Report, lines_before: int) -> None:
        self._events = events
        self._report = report
        self._first_line = lines_before + 1
        self._nodes = 0
        self._start = 0

    def documents(self) -> Iterator[Document]:
        """Yield each document that can be parsed."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                first = next(self._events)
                self._nodes, self._start = 0, first.start_mark.index
                line = self._line(first)
                yield Document(self._value(first, 0), line)

    def _value(self, event: Any, depth: int) -> Any:
        line = self._line(event)
        self._check_size(event, line, depth)
        if isinstance(event, yaml.AliasEvent):
            remedy = f'write the value out, or "*{event.anchor}" in quotes if it is a glob'
            self._report(line, f"alias `*{event.anchor}`: anchors and aliases are not allowed; {remedy}")
            return UNREADABLE
        if event.anchor is not None:
            self._report(line, f"anchor `&{event.anchor}`: anchors and aliases are not allowed; write the value out")
        if event.tag is not None:
            self._report(line, f"tag `{event.tag}`: {_remedy_for_tag(event)}")
            return self._skip(event, depth)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(line, depth)
        return self._mapping(event, line, depth)

    def _skip(self, event: Any, depth: int) -> Invalid:
        """Read the rest of a value without reporting anything about it."""
        event.tag = None
        report, self._report = self._report, lambda _line, _reason: None
        self._value(event, depth)
        self._report = report
        return UNREADABLE

    def _check_size(self, event: Any, line: int, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _TooLarge(line, f"the document has more than {MAX_NODES} values; split it")
        if depth > MAX_DEPTH:
            raise _TooLarge(line, f"this is nested more than {MAX_DEPTH} levels deep; make it flatter")
        if event.end_mark.index - self._start > MAX_DOCUMENT_CHARS:
            raise _TooLarge(line, f"the document has more than {MAX_DOCUMENT_CHARS // 1024} KB; split it")

    def _scalar(self, event: Any, line: int) -> Any:
        text: str = event.value
        if event.style or event.tag is not None:  # quoted, or a block: always a string
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
        is_whole = _INT.fullmatch(text) is not None
        is_decimal = not is_whole and _FLOAT.fullmatch(text) is not None
        if len(text) > _MAX_NUMBER_CHARS and (is_whole or is_decimal):
            return self._unsupported_number(text[:12] + "…", line)
        number: int | float
        if is_whole or _OTHER_INT.fullmatch(text):
            number = int(text) if is_whole else int(text, 0)
            is_supported = number in _INT64
        elif is_decimal:
            number = float(text)
            is_supported = math.isfinite(number)
        else:
            return self._unsupported_number(text, line) if _NOT_FINITE.fullmatch(text) else text
        if not is_supported:
            return self._unsupported_number(text, line)
        sent = orjson.dumps(number).decode()
        if text in {sent, repr(number)}:
            return number
        self._report(line, f"{text} is read as the number {sent}; quote it if it is text, or write {sent}")
        return UNREADABLE

    def _unsupported_number(self, text: str, line: int) -> Invalid:
        self._report(line, f"{text} is not a number that JSON supports; put it in quotes if it is a string")
        return UNREADABLE

    def _sequence(self, line: int, depth: int) -> YamlSequence:
        sequence = YamlSequence(line)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            sequence.lines.append(self._line_of_value(event))
            sequence.append(self._value(event, depth + 1))
        return sequence

    def _mapping(self, start: Any, line: int, depth: int) -> YamlMapping | Invalid:
        mapping = YamlMapping(line)
        has_invalid_key = False
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = self._line(event)
            if not isinstance(event, yaml.ScalarEvent):
                has_invalid_key = True
                self._report_key(start, event, key_line, depth)
                continue
            key = self._key(event, key_line, mapping, depth)
            value_event = next(self._events)
            value = self._value(value_event, depth + 1)
            if key is not None:
                mapping[key] = value
                mapping.key_lines[key] = key_line
                mapping.value_lines[key] = self._line_of_value(value_event)
        return UNREADABLE if has_invalid_key else mapping

    def _report_key(self, start: Any, event: Any, line: int, depth: int) -> None:
        """Report a key that is not a scalar, and skip it and its value."""
        if start.flow_style and isinstance(event, yaml.MappingStartEvent) and event.flow_style:
            self._report(line, 'a value that begins with `{{` must be in quotes: "{{ … }}"')
        else:
            self._report(line, "a key must be a string, not a list, a mapping or an alias")
        self._skip(event, depth + 1)
        self._skip(next(self._events), depth + 1)

    def _key(self, event: Any, line: int, mapping: YamlMapping, depth: int) -> str | None:
        key = self._value(event, depth + 1)
        if isinstance(key, Invalid):
            return None
        if not event.style and event.value == "<<":
            self._report(line, "merge key `<<` is not allowed; write the keys out")
            return None
        if not isinstance(key, str):
            self._report(line, f"key {event.value or 'null'}: a key must be a string; put it in quotes")
            return None
        if key in mapping:
            self._report(line, f"key {key!r} appears twice; the first is on line {mapping.key_lines[key]}")
            return None
        return key

    def _line(self, event: Any) -> int:
        return self._first_line + int(event.start_mark.line)

    def _line_of_value(self, event: Any) -> int:
        """Return the line of a value's first character: the text of a block scalar begins below its `|`."""
        return self._line(event) + (isinstance(event, yaml.ScalarEvent) and event.style in ("|", ">"))
