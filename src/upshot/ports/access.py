"""Stores of named tokens, and of the sessions of the pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from upshot.domain.access import AccessToken, Session


class TokenStore(Protocol):
    """Stores named tokens under the digest of their text."""

    def add(self, token: AccessToken, digest: str) -> None:
        """
        Add a token.

        Raises:
            AlreadyExists: A token that is not revoked has the name.
        """
        ...

    def usable(self) -> Mapping[str, AccessToken]:
        """Return the tokens that are not revoked by their digests; some may have expired."""
        ...

    def find(self, digest: str) -> AccessToken | None:
        """Return the token with a digest, also if it is revoked or has expired."""
        ...

    def list(self) -> tuple[AccessToken, ...]:
        """Return all tokens by name, those that are not revoked first, then the newest first."""
        ...

    def revoke(self, token_id: str, by: str, now: datetime) -> None:
        """Revoke a token and end its sessions. A token that is revoked stays as it is."""
        ...

    def record_uses(self, uses: Mapping[str, datetime]) -> None:
        """Record when tokens were last used, by their ids. An earlier time changes nothing."""
        ...

    def prune(self, before: datetime) -> int:
        """Remove the tokens that were revoked or expired before a time, and return how many."""
        ...


class SessionStore(Protocol):
    """Stores sessions and sign-in codes under the digest of their text."""

    def add_code(self, digest: str, session: Session) -> None:
        """Add a code for a session. The code expires when `session` does."""
        ...

    def use_code(self, digest: str, now: datetime) -> Session | None:
        """Remove a code, and return what it was made for; None if it does not exist, or has expired."""
        ...

    def add(self, digest: str, session: Session) -> None:
        """Add a session."""
        ...

    def find(self, digest: str, now: datetime) -> tuple[Session, AccessToken | None] | None:
        """Return a session that has not expired, and its token; None if there is none, or its token is not active."""
        ...

    def remove(self, digest: str) -> None:
        """End a session."""
        ...

    def prune(self, now: datetime) -> int:
        """Remove what has expired, and return how many sessions and codes that were."""
        ...
