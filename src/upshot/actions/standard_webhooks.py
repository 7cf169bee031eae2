"""
Signatures as Standard Webhooks 1.0 describes them (https://www.standardwebhooks.com).

The signed text is `id.timestamp.body`; the secret is `whsec_` and base64 of 24 to 64 bytes.
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
TOLERANCE_SECONDS = 300  # Standard Webhooks 1.0: five minutes, either way


def read_secret(text: str) -> bytes:
    """
    The key in `whsec_…`.

    Raises:
        ValueError: It is not of that form; the text says how to make one, and never shows the secret.
    """
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.strip().startswith(PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"not a Standard-Webhooks secret: {PREFIX} and base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes; "
            f"make one with: echo {PREFIX}$(openssl rand -base64 32)"
        )
    return key


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def sign(keys: Iterable[bytes], *, message_id: str, moment: datetime, body: bytes) -> dict[str, str]:
    """The headers of a signed message: one signature for each key, for a receiver that has the old or the new one."""
    timestamp = str(int(moment.timestamp()))
    signatures = (_signature(key, message_id, timestamp, body) for key in keys)
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": " ".join(signatures)}


def find_fault(key: bytes, headers: Mapping[str, str], body: bytes, *, now: datetime) -> str | None:
    """
    Tell why a received message must not be believed, or None.

    Args:
        key: Of the receiver, as `read_secret` gives it.
        headers: As received, names in lower case.
        body: As received, byte for byte.
        now: The present moment.
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
        return "webhook-signature is not that of this body and this secret"
    return None
