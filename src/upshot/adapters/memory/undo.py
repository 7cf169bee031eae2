"""Undo steps of a transaction in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class UndoSteps:
    """Changes dictionaries, and can restore them."""

    def __init__(self) -> None:
        self._undo_steps: list[Callable[[], object]] = []

    def undo(self) -> None:
        """Restore the earlier state, starting with the last change."""
        while self._undo_steps:
            self._undo_steps.pop()()

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        if key in table:
            before = table[key]
            self._undo_steps.append(lambda: table.__setitem__(key, before))
        else:
            self._undo_steps.append(lambda: table.pop(key))
        table[key] = value

    def _delete(self, table: dict[Any, Any], key: Any) -> None:
        before = table.pop(key)
        self._undo_steps.append(lambda: table.__setitem__(key, before))
