"""
Marks that stand for secrets in what is kept until a job starts.

A `launch` step is rendered when its turn comes, and its job may start hours later on another machine.
So its templates give a mark in place of each secret; whoever starts the container fills it in. A mark
carries a nonce of its job: text that comes with an event cannot pretend to be one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


class SecretPlaceholders:
    """
    The marks of one job.

    Args:
        nonce: At least 16 characters that nobody can guess; letters of both cases and digits, so that
            no filter that changes text leaves a mark as it is.
    """

    def __init__(self, nonce: str) -> None:
        self.nonce = nonce
        self._pattern = re.compile(rf"⟦Secret:{re.escape(nonce)}:([A-Za-z0-9_.-]+)⟧")

    def mark(self, name: str) -> str:
        """What stands for the secret of this name."""
        return f"⟦Secret:{self.nonce}:{name}⟧"

    def names(self, data: Any) -> tuple[str, ...]:
        """Names of the secrets that stand in plain data, one for each mark, in order."""
        if isinstance(data, str):
            return tuple(self._pattern.findall(data))
        if isinstance(data, Mapping):
            return tuple(name for pair in data.items() for part in pair for name in self.names(part))
        if isinstance(data, list | tuple):
            return tuple(name for item in data for name in self.names(item))
        return ()

    def fill(self, text: str, value_of: Callable[[str], str]) -> str:
        """The text with the secrets themselves; what `value_of` raises comes through."""
        return self._pattern.sub(lambda found: value_of(found[1]), text)

    def show(self, data: Any) -> Any:
        """Plain data for people: each mark as the template that it came from."""
        if isinstance(data, str):
            return self._pattern.sub(lambda found: f"{{{{ secrets.{found[1]} }}}}", data)
        if isinstance(data, Mapping):
            return {self.show(key): self.show(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.show(item) for item in data]
        return data
