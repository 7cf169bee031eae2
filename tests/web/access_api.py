"""A server with a token, and clients with named tokens of every role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.web.conftest import API, ok_json

SERVER_TOKEN = "s3cret-token-of-this-server-with-40-chars"
TOKENS = f"{API}/tokens"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def make_token(admin: httpx.Client, name: str, role: str, **options: Any) -> str:
    """Make a token as an admin, and return its text."""
    text: str = ok_json(admin.post(TOKENS, json={"name": name, "role": role, **options}))["token"]
    return text


@contextmanager
def with_token(client: httpx.Client, token: str) -> Iterator[httpx.Client]:
    """Yield another client of the same server."""
    with httpx.Client(base_url=client.base_url, headers=bearer(token), timeout=20, trust_env=False) as other:
        yield other
