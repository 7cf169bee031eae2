"""Remove secrets from stored data, by value, wherever they appear."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import orjson

from upshot.storable import MAX_DEPTH, TOO_DEEP

MASK = "***"
#: Headers that contain credentials, whether or not their value is a known secret: `Basic` encodes it.
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token"})
MIN_SECRET_CHARS = 4  # masking a shorter value would remove half of every text, and it is no secret


class Mask:
    """
    Replaces secrets, also in their JSON, URL and base64 encodings and in upper or lower case.

    Args:
        values: The secrets. Those with fewer than four characters are not masked.
    """

    def __init__(self, values: Iterable[str]) -> None:
        encodings: set[str] = set()
        for value in values:
            if len(value) >= MIN_SECRET_CHARS:
                encodings |= {
                    value,
                    json.dumps(value, ensure_ascii=False)[1:-1],
                    json.dumps(value)[1:-1],
                    quote(value, safe=""),
                    base64.b64encode(value.encode()).decode(),
                    value.upper(),
                    value.lower(),
                }
        self._encodings = sorted(encodings, key=len, reverse=True)  # longest first: one may contain another
        self._json_encodings: list[str] | None
        try:
            self._json_encodings = [orjson.dumps(encoding).decode()[1:-1] for encoding in self._encodings]
        except TypeError:  # a secret with half a character
            self._json_encodings = None

    def text(self, text: str) -> str:
        """Return the text without the secrets."""
        for encoding in self._encodings:
            if encoding in text:
                text = text.replace(encoding, MASK)
        return text

    def request(self, request: Mapping[str, Any] | None) -> Any:
        """Return a request without the secrets, and without the values of headers that contain credentials."""
        if request is None or "headers" not in request:
            return self.data(request)
        headers = {
            name: MASK if name.lower() in CREDENTIAL_HEADERS else value for name, value in request["headers"].items()
        }
        return self.data({**request, "headers": headers})

    def data(self, data: Any) -> Any:
        """
        Return plain data without the secrets, neither in keys nor in values.

        Lists and objects below `MAX_DEPTH` levels are left out, because they could contain a secret.
        """
        return self._masked(data, MAX_DEPTH) if self._may_contain_secret(data) else data

    def _may_contain_secret(self, data: Any) -> bool:
        """Return False if no secret is in the data as JSON. Searching there takes a fraction of the time of masking."""
        if not self._encodings or self._json_encodings is None:
            return bool(self._encodings)
        try:
            text = orjson.dumps(data).decode()
        except TypeError:
            return True
        return any(encoding in text for encoding in self._json_encodings)

    def _masked(self, data: Any, depth: int) -> Any:
        if isinstance(data, str):
            return self.text(data)
        if isinstance(data, Mapping | list | tuple) and depth == 0:
            return TOO_DEEP
        if isinstance(data, Mapping):
            return {self._masked(key, depth - 1): self._masked(value, depth - 1) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self._masked(item, depth - 1) for item in data]
        return data
