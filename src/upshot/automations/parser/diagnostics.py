"""What is wrong with a file: collected, not raised, so that a person reads all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from upshot.automations.parser.document import Invalid, YamlMapping, YamlSequence
from upshot.automations.sandbox import nearest
from upshot.errors import AutomationInvalid, TemplateInvalid

MAX_FINDINGS = 100  # of one file
MAX_REASON_CHARS = 1000

Diagnostic = AutomationInvalid | TemplateInvalid


class Diagnostics:
    """The findings on one file, and access to its blocks that reports what has the wrong type."""

    def __init__(self, path: str) -> None:
        self.path = path  #: file as the user named it
        self.count = 0
        self._kept: list[Diagnostic] = []

    def add(self, line: int | None, reason: str) -> None:
        """Keep one finding; line 0 means that it is not known."""
        reason = reason if len(reason) <= MAX_REASON_CHARS else f"{reason[:MAX_REASON_CHARS]}…"
        self.keep(AutomationInvalid(self.path, line or None, reason))

    def keep(self, error: Diagnostic) -> None:
        """Keep one finding that has its place already."""
        self.count += 1
        if self.count <= MAX_FINDINGS:
            self._kept.append(error)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The findings in the order of lines; when there are too many, the first, and how many more there are."""
        found = sorted(self._kept, key=lambda error: (error.path, error.line or 0))
        if self.count > MAX_FINDINGS:
            reason = f"and {self.count - MAX_FINDINGS} more mistakes; put those above right first"
            found.append(AutomationInvalid(self.path, None, reason))
        return tuple(found)

    def check_keys(self, block: YamlMapping, known: Sequence[str], later: frozenset[str], what: str) -> None:
        """Report keys that mean nothing, or nothing yet."""
        for key in block:
            if key in known:
                continue
            line = block.key_lines[key]
            if key in later:
                self.add(line, f"{key!r} is not supported yet; leave it out")
            else:
                guess = nearest(key, known) or f"; {what} has {', '.join(known)}"
                self.add(line, f"unknown key {key!r}{guess}")

    def text(self, block: YamlMapping, key: str) -> str | None:
        """A text; None where there is none, or another type, which is reported."""
        value = block.get(key)
        if value is None or isinstance(value, str):
            return None if isinstance(value, Invalid) else value
        remedy = "; quote it" if isinstance(value, int | float) else ""
        self.add(block.value_lines[key], f"{key!r} must be text, and this is {kind_of(value)}{remedy}")
        return None

    def flag(self, block: YamlMapping, key: str, *, default: bool) -> bool:
        """True or false; the default where there is none, or another type, which is reported."""
        value = block.get(key, default)
        if isinstance(value, bool | Invalid):
            return bool(value)
        self.add(block.value_lines[key], f"{key!r} must be true or false, and this is {kind_of(value)}")
        return default

    def block(self, block: YamlMapping, key: str, what: str) -> YamlMapping | None:
        """A mapping; None where there is none, or another type, which is reported."""
        value = block.get(key)
        if value is None or isinstance(value, YamlMapping):
            return value
        if not isinstance(value, Invalid):
            self.add(block.value_lines[key], f"{key!r} must be a mapping {what}, and this is {kind_of(value)}")
        return None


def kind_of(value: Any) -> str:
    """Name a value's kind, with the value where that helps to find it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "a list" if isinstance(value, YamlSequence) else "a mapping"
