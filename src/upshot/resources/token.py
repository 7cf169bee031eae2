"""A named token, without its text."""

from __future__ import annotations

from datetime import datetime

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_optional_time, format_time
from upshot.domain.access import AccessToken


class TokenJson(TypedDict):
    """A named token."""

    id: str
    name: str  #: the actor of changes that are made with the token
    role: str  #: admin, member, viewer or restricted-viewer
    registry: str | None  #: the only registry that the token can access; null for all
    state: str  #: active, expired or revoked
    created_at: str
    created_by: str
    expires_at: str | None
    last_used_at: str | None  #: up to half a minute late
    revoked_at: str | None
    revoked_by: str | None


class NewTokenJson(TokenJson):
    """A token that was just made, with its text, which is not shown again."""

    token: str


def token_json(token: AccessToken, now: datetime) -> TokenJson:
    """Return the JSON object of a token."""
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role.value,
        "registry": token.registry,
        "state": "revoked" if token.revoked_at else "active" if token.is_active(now) else "expired",
        "created_at": format_time(token.created_at),
        "created_by": token.created_by,
        "expires_at": format_optional_time(token.expires_at),
        "last_used_at": format_optional_time(token.last_used_at),
        "revoked_at": format_optional_time(token.revoked_at),
        "revoked_by": token.revoked_by,
    }
