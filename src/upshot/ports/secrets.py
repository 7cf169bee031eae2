"""Secrets by name."""

from __future__ import annotations

from typing import Protocol

from upshot.errors import ConfigError


class SecretSource(Protocol):
    """A source of secrets."""

    def get(self, name: str) -> str | None:
        """Return the value of a secret, or None if it does not exist."""
        ...

    def names(self) -> frozenset[str]:
        """Return the names of all secrets."""
        ...


def usable_names(source: SecretSource) -> tuple[str, ...]:
    """Return the names of the secrets that can be read, in order."""
    usable = []
    for name in sorted(source.names()):
        try:
            value = source.get(name)
        except ConfigError:  # the step that uses the secret reports why
            continue
        if value is not None:
            usable.append(name)
    return tuple(usable)
