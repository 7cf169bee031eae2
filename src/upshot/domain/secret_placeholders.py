"""
Placeholders that stand for secrets in a stored job.

A `launch` step is rendered when its turn comes, and its job may start hours later on another machine. So its
templates produce a placeholder for each secret, and the worker that starts the container fills the secrets in.
A placeholder contains the nonce of its job, so that text from an event cannot imitate a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


class SecretPlaceholders:
    """
    The placeholders of one job.

    Args:
        nonce: At least 16 unguessable characters: letters of both cases and digits. A template filter that changes
            text then also breaks the placeholder.
    """

    def __init__(self, nonce: str) -> None:
        self.nonce = nonce
        self._pattern = re.compile(rf"⟦Secret:{re.escape(nonce)}:([A-Za-z0-9_.-]+)⟧")

    def placeholder(self, name: str) -> str:
        """Return the placeholder of the secret with this name."""
        return f"⟦Secret:{self.nonce}:{name}⟧"

    def secret_names(self, data: Any) -> tuple[str, ...]:
        """Return the names of the secrets in plain data, one for each placeholder, in order."""
        if isinstance(data, str):
            return tuple(self._pattern.findall(data))
        if isinstance(data, Mapping):
            return tuple(name for pair in data.items() for part in pair for name in self.secret_names(part))
        if isinstance(data, list | tuple):
            return tuple(name for item in data for name in self.secret_names(item))
        return ()

    def fill(self, text: str, value_of: Callable[[str], str]) -> str:
        """Replace each placeholder by the secret itself. Errors that `value_of` raises are passed on."""
        return self._pattern.sub(lambda match: value_of(match[1]), text)

    def as_templates(self, data: Any) -> Any:
        """Return plain data for people, with each placeholder as the template that it came from."""
        if isinstance(data, str):
            return self._pattern.sub(lambda match: f"{{{{ secrets.{match[1]} }}}}", data)
        if isinstance(data, Mapping):
            return {self.as_templates(key): self.as_templates(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.as_templates(item) for item in data]
        return data
