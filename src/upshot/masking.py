"""Takes secrets out of what is kept: by value, wherever they turn up."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

MASK = "***"
#: Headers that carry credentials whatever their value was made of: `Basic` encodes what it is given.
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token"})
_SHORTEST = 4  # a shorter value would blank out half of every text and is no secret


def _spellings(value: str) -> tuple[str, ...]:
    in_json, in_ascii_json = json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1]
    in_base64 = base64.b64encode(value.encode()).decode()
    return value, in_json, in_ascii_json, quote(value, safe=""), in_base64, value.upper(), value.lower()


class Mask:
    """
    Replaces every given value, also in its JSON, URL and base64 spelling, and in capitals or small letters.

    Args:
        values: The secrets that were used; those under four characters are left alone.
    """

    def __init__(self, values: Iterable[str]) -> None:
        spellings = {spelling for value in values if len(value) >= _SHORTEST for spelling in _spellings(value)}
        self._spellings = sorted(spellings, key=len, reverse=True)  # the longest first: one may contain another

    def text(self, text: str) -> str:
        """The text without the secrets."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, MASK)
        return text

    def request(self, request: Mapping[str, Any] | None) -> Any:
        """A request as it was sent, without the secrets and without credentials in its headers."""
        if request is None or "headers" not in request:
            return self.data(request)
        headers = {
            name: MASK if name.lower() in CREDENTIAL_HEADERS else value for name, value in request["headers"].items()
        }
        return self.data({**request, "headers": headers})

    def data(self, data: Any) -> Any:
        """Plain data without the secrets, in keys as well as in values."""
        if not self._spellings:
            return data
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, Mapping):
            return {self.data(key): self.data(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.data(item) for item in data]
        return data
