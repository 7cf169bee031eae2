"""Access: named tokens, sessions of the pages, and the caller that a request is made by."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from upshot.domain.event import Actor, Role
from upshot.domain.job import Job

PREFIX = "upt_"  #: of a named token, so that clients and secret scanners recognize it
TOKEN_CHARS = len(PREFIX) + 43  #: 32 random bytes are 43 characters of base 64
SESSION_HOURS = 12
CODE_SECONDS = 60  #: how long a sign-in code is valid
MIN_EXPIRY = timedelta(minutes=1)
MAX_EXPIRY_DAYS = 3660

_RANKS = {Role.RESTRICTED_VIEWER: 0, Role.VIEWER: 1, Role.MEMBER: 2, Role.ADMIN: 3}


def includes(role: Role, least: Role) -> bool:
    """Return whether a role has all permissions of another one."""
    return _RANKS[role] >= _RANKS[least]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A named token, without its text. Changes that are made with it have its name as their actor."""

    id: str
    name: str  #: unique among the tokens that are not revoked
    role: Role
    registry: str | None  #: the only registry that the token can access; None for all
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None = None  #: up to half a minute late
    revoked_at: datetime | None = None
    revoked_by: str | None = None

    def is_active(self, now: datetime) -> bool:
        """Return whether the token gives access."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Session:
    """A person who has signed in to the pages."""

    token_id: str | None  #: token that the session was opened with; None for the token in the settings
    server_mark: str  #: mark of the token in the settings when the session began; see `web.sessions`
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, and what they may do."""

    actor: Actor
    registry: str | None = None  #: the only registry that the caller can access; None for all
    token_id: str | None = None  #: of a named token
    job: Job | None = None  #: if the caller is a job
    may_name_actor: bool = False  #: whether the caller may make changes under another name

    @property
    def name(self) -> str:
        """Name of the actor."""
        return self.actor.name

    @property
    def role(self) -> Role:
        """Role of the actor."""
        return self.actor.role


def caller_of(token: AccessToken) -> Caller:
    """Return the caller of a request with a named token."""
    return Caller(
        Actor(token.name, role=token.role),
        registry=token.registry,
        token_id=token.id,
        may_name_actor=token.role is Role.ADMIN and token.registry is None,
    )


def new_token() -> str:
    """Make the text of a token: 256 random bits."""
    return f"{PREFIX}{secrets.token_urlsafe(32)}"


def new_secret() -> str:
    """Make the text of a session, a sign-in code or a form's nonce: 256 random bits."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """
    Return the digest under which a token, a session or a sign-in code is stored.

    All of them are 256 random bits, so nobody can guess one from its digest, and a slow hash would add nothing.
    """
    return hashlib.sha256(secret.encode()).hexdigest()
