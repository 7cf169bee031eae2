"""The diagnostics of one file. They are collected, not raised, so that an author sees all of them at once."""

from __future__ import annotations

from upshot.errors import AutomationInvalid, TemplateInvalid

MAX_DIAGNOSTICS = 100  # per file
MAX_REASON_CHARS = 1000

Diagnostic = AutomationInvalid | TemplateInvalid


class TooManyErrors(Exception):
    """More errors than the limit were found. The document that is being parsed has at least one."""


class Diagnostics:
    """
    Collects what is wrong with one file.

    Args:
        path: The file as the user named it.
        limit: Number of errors to keep. Each further error raises TooManyErrors, so that a document with many errors is
            not checked to its end. None keeps MAX_DIAGNOSTICS errors and counts the rest.
    """

    def __init__(self, path: str, *, limit: int | None = None) -> None:
        self.path = path
        self.count = 0
        self._limit = MAX_DIAGNOSTICS if limit is None else limit
        self._raises = limit is not None
        self._errors: list[Diagnostic] = []

    def add(self, line: int | None, reason: str) -> None:
        """Add an error. Line 0 or None means that the line is unknown."""
        reason = reason if len(reason) <= MAX_REASON_CHARS else f"{reason[:MAX_REASON_CHARS]}…"
        self.add_error(AutomationInvalid(self.path, line or None, reason))

    def add_error(self, error: Diagnostic) -> None:
        """Add an error that has a path and a line already."""
        self.count += 1
        if self.count <= self._limit:
            self._errors.append(error)
        elif self._raises:
            raise TooManyErrors

    def concern(self, leaf: str) -> bool:
        """Return whether there is an error about a value already. Its reason begins with the value's dotted path."""
        return any(error.reason.startswith(f"{leaf}: ") for error in self._errors)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The errors in the order of lines. If there are too many, the last entry counts those left out."""
        errors = sorted(self._errors, key=lambda error: (error.path, error.line or 0))
        if self.count > self._limit:
            count = self.count - self._limit
            reason = f"and {count} more errors; fix those above first"
            if self._raises:
                rest = "what follows the first error of another document was not checked"
                reason = f"and at least {count} more errors ({rest}); fix those above first"
            errors.append(AutomationInvalid(self.path, None, reason))
        return tuple(errors)
