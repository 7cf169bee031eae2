"""Named tokens and sessions in memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from typing_extensions import override

from upshot.domain.access import AccessToken, Session
from upshot.errors import AlreadyExists
from upshot.ports.access import SessionStore, TokenStore


class MemoryTokens(TokenStore):
    """`TokenStore` in memory."""

    def __init__(self) -> None:
        self.by_digest: dict[str, AccessToken] = {}
        self._lock = threading.Lock()

    @override
    def add(self, token: AccessToken, digest: str) -> None:
        with self._lock:
            if any(other.name == token.name and other.revoked_at is None for other in self.by_digest.values()):
                raise AlreadyExists(f"token {token.name!r} already exists; choose another name, or revoke it first")
            self.by_digest[digest] = token

    @override
    def usable(self) -> Mapping[str, AccessToken]:
        return {digest: token for digest, token in self.by_digest.items() if token.revoked_at is None}

    @override
    def find(self, digest: str) -> AccessToken | None:
        return self.by_digest.get(digest)

    @override
    def list(self) -> tuple[AccessToken, ...]:
        newest_first = sorted(self.by_digest.values(), key=lambda token: token.id, reverse=True)
        return tuple(sorted(newest_first, key=lambda token: (token.revoked_at is not None, token.name)))

    @override
    def revoke(self, token_id: str, by: str, now: datetime) -> None:
        with self._lock:
            for digest, token in self.by_digest.items():
                if token.id == token_id and token.revoked_at is None:
                    self.by_digest[digest] = replace(token, revoked_at=now, revoked_by=by)

    @override
    def record_uses(self, uses: Mapping[str, datetime]) -> None:
        with self._lock:
            for digest, token in self.by_digest.items():
                used_at = uses.get(token.id)
                if used_at and (token.last_used_at is None or token.last_used_at < used_at):
                    self.by_digest[digest] = replace(token, last_used_at=used_at)

    @override
    def prune(self, before: datetime) -> int:
        with self._lock:
            old = [
                digest
                for digest, token in self.by_digest.items()
                if any(ended and ended < before for ended in (token.revoked_at, token.expires_at))
            ]
            for digest in old:
                del self.by_digest[digest]
        return len(old)


class MemorySessions(SessionStore):
    """
    `SessionStore` in memory.

    Args:
        tokens: The tokens that sessions were opened with.
    """

    def __init__(self, tokens: MemoryTokens) -> None:
        self._tokens = tokens
        self._codes: dict[str, Session] = {}
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    @override
    def add_code(self, digest: str, session: Session) -> None:
        self._codes[digest] = session

    @override
    def use_code(self, digest: str, now: datetime) -> Session | None:
        with self._lock:
            session = self._codes.pop(digest, None)
        return session if session and now < session.expires_at else None

    @override
    def add(self, digest: str, session: Session) -> None:
        self._sessions[digest] = session

    @override
    def find(self, digest: str, now: datetime) -> tuple[Session, AccessToken | None] | None:
        session = self._sessions.get(digest)
        if session is None or now >= session.expires_at:
            return None
        if session.token_id is None:
            return session, None
        for token in self._tokens.by_digest.values():
            if token.id == session.token_id and token.is_active(now):
                return session, token
        return None

    @override
    def remove(self, digest: str) -> None:
        self._sessions.pop(digest, None)

    @override
    def prune(self, now: datetime) -> int:
        with self._lock:
            expired = [
                (kept, digest)
                for kept in (self._codes, self._sessions)
                for digest, session in kept.items()
                if session.expires_at <= now
            ]
            for kept, digest in expired:
                del kept[digest]
        return len(expired)
