"""Secrets by name."""

from __future__ import annotations

from typing import Protocol


class SecretSource(Protocol):
    """Secrets by name."""

    def get(self, name: str) -> str | None:
        """The secret's value; None when there is none of this name."""
        ...

    def names(self) -> frozenset[str]:
        """The names that are known."""
        ...
