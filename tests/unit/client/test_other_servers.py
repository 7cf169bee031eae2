"""Files of other web servers that artifacts refer to."""

from __future__ import annotations

import httpx
import pytest

from upshot.client import other_servers
from upshot.errors import InvalidInput


def test_an_answer_that_is_an_error_is_named_in_one_line(monkeypatch, tmp_path):
    """Who adds or downloads a reference reads the address and the answer, and nothing of the HTTP library."""
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(404)))
    monkeypatch.setattr(httpx, "stream", client.stream)
    monkeypatch.setattr(httpx, "head", client.head)
    message = r"^https://example.com/a\.csv: the answer is 404 Not Found[^\n]*$"
    with pytest.raises(InvalidInput, match=message):
        other_servers.describe("https://example.com/a.csv")
    with pytest.raises(InvalidInput, match=message):
        other_servers.fetch("https://example.com/a.csv", tmp_path / "a.csv")
