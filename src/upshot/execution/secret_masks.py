"""Masks for data that attempts store. A receiver may repeat a secret that an earlier step sent, or an older value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from upshot.clock import stopwatch
from upshot.errors import ConfigError
from upshot.masking import Mask, mask_of
from upshot.ports.secrets import SecretSource

READ_AGAIN_SECONDS = 1.0  #: how long a value counts as current if this attempt has not used it
MAX_VALUES = 4  #: number of values that are remembered of one secret, because it can be rotated


@dataclass(slots=True)
class _Known:
    """The values that a secret has had."""

    values: tuple[str, ...]  #: newest first
    read_at: float


class SecretMasks:
    """
    Makes masks, and remembers the values of secrets for them.

    Args:
        source: Any source of secrets.
    """

    def __init__(self, source: SecretSource) -> None:
        self._source = source
        self._known: dict[str, _Known] = {}

    def mask(self, names: Collection[str] | None, used: Mapping[str, str]) -> Mask:
        """
        Return the mask for an attempt.

        Args:
            names: The secrets that the automation names. None means that it can use any secret.
            used: The values that the attempt has used, by name.
        """
        if names is None:
            names = self._source.names()
        values = [value for name in {*names, *used} for value in self._values(name, used.get(name))]
        return mask_of(frozenset(values))

    def _values(self, name: str, used: str | None) -> tuple[str, ...]:
        known = self._known.get(name)
        if used is None:
            if known is not None and stopwatch() - known.read_at < READ_AGAIN_SECONDS:
                return known.values
            with suppress(ConfigError):  # it cannot be read now; a step that uses it reports the error
                used = self._source.get(name)
        if known is None:
            known = self._known[name] = _Known((), 0.0)
        if used is not None and used not in known.values[:1]:
            known.values = (used, *(value for value in known.values if value != used))[:MAX_VALUES]
        known.read_at = stopwatch()
        return known.values
