"""Reads `on`: what fires an automation."""

from __future__ import annotations

from typing import Any

from upshot.automations.parser.diagnostics import Diagnostics, kind_of
from upshot.automations.parser.document import Invalid, YamlMapping, YamlSequence
from upshot.automations.sandbox import nearest
from upshot.automations.triggers import FIELDS_OF_KIND, LATER_KINDS
from upshot.domain.automation import Pattern, Trigger
from upshot.domain.event import EventKind
from upshot.schema.action_inputs import is_template

MAX_PATTERN_CHARS = 256

_EXAMPLE = "write a kind of event, or a list of them: `on: version-linked`, or `on: {alias-added: {alias: production}}`"


def read_triggers(block: YamlMapping, findings: Diagnostics) -> tuple[Trigger, ...]:
    """Read the triggers of an automation: a word, a mapping, or a list of both."""
    value, line = block["on"], block.value_lines["on"]
    if isinstance(value, YamlSequence):
        if not value:
            findings.add(line, f"`on` is an empty list, so nothing fires this; {_EXAMPLE}")
        entries = zip(value, value.lines, strict=True)
        return tuple(trigger for entry, at in entries for trigger in _read_entry(entry, at, findings))
    return tuple(_read_entry(value, line, findings))


def _read_entry(entry: Any, line: int, findings: Diagnostics) -> list[Trigger]:
    if isinstance(entry, Invalid):
        return []
    if isinstance(entry, str):
        kind = _read_kind(entry, line, findings)
        return [] if kind is None else [Trigger(kind, {}, line)]
    if isinstance(entry, YamlMapping) and entry:
        return [trigger for word in entry if (trigger := _read_filtered(entry, word, findings)) is not None]
    findings.add(line, f"`on` cannot be {kind_of(entry)}; {_EXAMPLE}")
    return []


def _read_kind(word: str, line: int, findings: Diagnostics) -> EventKind | None:
    if word in LATER_KINDS:
        findings.add(line, f"event kind {word!r} is not supported yet")
        return None
    try:
        return EventKind(word)
    except ValueError:
        guess = nearest(word, EventKind) or f"; kinds are {', '.join(EventKind)}"
        findings.add(line, f"unknown event kind {word!r}{guess}")
        return None


def _read_filtered(entry: YamlMapping, word: str, findings: Diagnostics) -> Trigger | None:
    line = entry.key_lines[word]
    kind = _read_kind(word, line, findings)
    if kind is None:
        return None
    block = findings.block(entry, word, "of filters such as `{alias: production}`") or YamlMapping(line)
    fields = FIELDS_OF_KIND[kind]
    filters: dict[str, Pattern] = {}
    for field in block:
        if field in fields:
            filters[field] = _read_pattern(block, field, findings)
        else:
            guess = nearest(field, fields) or f"; it has {', '.join(fields)}"
            findings.add(block.key_lines[field], f"{word} has no filter {field!r}{guess}")
    return Trigger(kind, filters, line)


def _read_pattern(block: YamlMapping, field: str, findings: Diagnostics) -> Pattern:
    any_of: list[str] = []
    none_of: list[str] = []
    value, line = block[field], block.value_lines[field]
    if value == []:
        findings.add(line, f"filter {field!r} is an empty list, which nothing matches; leave it out for any")
    members = zip(value, value.lines, strict=True) if isinstance(value, YamlSequence) else [(value, line)]
    for member, at in members:
        if isinstance(member, YamlMapping):
            findings.check_keys(member, ("not",), frozenset(), "a filter's mapping")
            unwanted = member.get("not")
            for glob in unwanted if isinstance(unwanted, YamlSequence) else [unwanted]:
                none_of.extend(_read_glob(glob, field, at, findings))
        else:
            any_of.extend(_read_glob(member, field, at, findings))
    return Pattern(tuple(any_of), tuple(none_of))


def _read_glob(value: Any, field: str, line: int, findings: Diagnostics) -> list[str]:
    if isinstance(value, Invalid):
        return []
    if not isinstance(value, str):
        remedy = "quote it" if isinstance(value, int | float) else "write a glob, a list of globs, or {not: …}"
        findings.add(line, f"filter {field!r} must be text, and this is {kind_of(value)}; {remedy}")
        return []
    if not value or len(value) > MAX_PATTERN_CHARS:
        findings.add(line, f"filter {field!r} must have 1 to {MAX_PATTERN_CHARS} characters; leave it out for any")
        return []
    if is_template(value):
        findings.add(line, f"filter {field!r} is a pattern, not a template; use `if` for what depends on the event")
        return []
    return [value]
