"""Secrets by name."""

from __future__ import annotations

from typing import Protocol


class SecretSource(Protocol):
    """A source of secrets."""

    def get(self, name: str) -> str | None:
        """Return the value of a secret, or None if it does not exist."""
        ...

    def names(self) -> frozenset[str]:
        """Return the names of all secrets."""
        ...
