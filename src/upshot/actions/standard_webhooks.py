"""
Sign and verify messages as Standard Webhooks 1.0 describes (https://www.standardwebhooks.com).

The signed text is `id.timestamp.body`. A secret is `whsec_` followed by 24 to 64 bytes in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime

PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64  # Standard Webhooks 1.0
TOLERANCE_SECONDS = 300  # Standard Webhooks 1.0: five minutes in either direction


def parse_secret(text: str) -> bytes:
    """
    Return the key in `whsec_…`.

    Raises:
        ValueError: The secret has another form. The message says how to make one and never contains the secret.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.strip().startswith(PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"not a Standard Webhooks secret: {PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64; "
            f"make one with: echo {PREFIX}$(openssl rand -base64 32)"
        )
    return key


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def sign(keys: Iterable[bytes], *, message_id: str, time: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of a signed message. Each key adds a signature, so that a receiver needs only one key."""
    timestamp = str(int(time.timestamp()))
    signatures = (_signature(key, message_id, timestamp, body) for key in keys)
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signatures)}


def verification_error(key: bytes, headers: Mapping[str, str], body: bytes, *, now: datetime) -> str | None:
    """
    Return why a received message is not authentic, or None if it is.

    Args:
        key: The receiver's key, from `parse_secret`.
        headers: As received, with names in lower case.
        body: As received, byte for byte.
        now: Current time.
    """
    missing = [n for n in ("webhook-id", "webhook-timestamp", "webhook-signature") if not headers.get(n)]
    if missing:
        return f"no {' and no '.join(missing)}"
    timestamp = headers["webhook-timestamp"]
    if not (timestamp.isascii() and timestamp.isdigit()) or (
        abs(now.timestamp() - int(timestamp[:12])) > TOLERANCE_SECONDS
    ):
        return f"webhook-timestamp {timestamp[:20]!r} is not within five minutes of now"
    expected = _signature(key, headers["webhook-id"], timestamp, body)
    if not any(
        hmac.compare_digest(expected.encode(), given.encode()) for given in headers["webhook-signature"].split()
    ):
        return "webhook-signature does not match this body and this secret"
    return None
