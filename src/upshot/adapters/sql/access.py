"""Named tokens and sessions in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from typing_extensions import override

from upshot.adapters.sql.database import Database
from upshot.adapters.sql.schema import access_tokens as tokens
from upshot.adapters.sql.schema import sessions, sign_in_codes
from upshot.domain.access import AccessToken, Session
from upshot.domain.event import Role
from upshot.errors import AlreadyExists
from upshot.ports.access import SessionStore, TokenStore


class SqlTokens(TokenStore):
    """`TokenStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def add(self, token: AccessToken, digest: str) -> None:
        same_name = sa.select(tokens.c.id).where(tokens.c.name == token.name, tokens.c.revoked_at.is_(None))
        row = {
            "id": token.id,
            "name": token.name,
            "digest": digest,
            "role": token.role.value,
            "registry": token.registry,
            "created_at": token.created_at,
            "created_by": token.created_by,
            "expires_at": token.expires_at,
        }

        def work(connection: Connection) -> None:
            if connection.execute(same_name).first():
                raise AlreadyExists(f"token {token.name!r} already exists; choose another name, or revoke it first")
            connection.execute(sa.insert(tokens), row)

        self._database.write(work)

    @override
    def usable(self) -> Mapping[str, AccessToken]:
        query = sa.select(tokens).where(tokens.c.revoked_at.is_(None))
        return {row.digest: _token(row) for row in self._rows(query)}

    @override
    def find(self, digest: str) -> AccessToken | None:
        rows = self._rows(sa.select(tokens).where(tokens.c.digest == digest))
        return _token(rows[0]) if rows else None

    @override
    def list(self) -> tuple[AccessToken, ...]:
        query = sa.select(tokens).order_by(tokens.c.revoked_at.is_not(None), tokens.c.name, tokens.c.id.desc())
        return tuple(_token(row) for row in self._rows(query))

    @override
    def revoke(self, token_id: str, by: str, now: datetime) -> None:
        update = (
            sa.update(tokens)
            .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
            .values(revoked_at=now, revoked_by=by)
        )

        def work(connection: Connection) -> None:
            connection.execute(update)
            for table in (sessions, sign_in_codes):
                connection.execute(sa.delete(table).where(table.c.token_id == token_id))

        self._database.write(work)

    @override
    def record_uses(self, uses: Mapping[str, datetime]) -> None:
        update = (
            sa.update(tokens)
            .where(tokens.c.id == sa.bindparam("token_id"))
            .where(tokens.c.last_used_at.is_(None) | (tokens.c.last_used_at < sa.bindparam("used_at", type_=_TIME)))
            .values(last_used_at=sa.bindparam("used_at", type_=_TIME))
        )
        rows = [{"token_id": token_id, "used_at": used_at} for token_id, used_at in sorted(uses.items())]
        if rows:
            self._database.write(lambda connection: connection.execute(update, rows))

    @override
    def prune(self, before: datetime) -> int:
        old = sa.select(tokens.c.id).where((tokens.c.revoked_at < before) | (tokens.c.expires_at < before))

        def work(connection: Connection) -> int:
            for table in (sessions, sign_in_codes):
                connection.execute(sa.delete(table).where(table.c.token_id.in_(old)))
            return connection.execute(sa.delete(tokens).where(tokens.c.id.in_(old))).rowcount

        return self._database.write(work)

    def _rows(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        return self._database.read(lambda connection: connection.execute(query).all())


class SqlSessions(SessionStore):
    """`SessionStore` on one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def add_code(self, digest: str, session: Session) -> None:
        self._database.write(lambda connection: connection.execute(sa.insert(sign_in_codes), _row(digest, session)))

    @override
    def use_code(self, digest: str, now: datetime) -> Session | None:
        delete = sa.delete(sign_in_codes).where(sign_in_codes.c.digest == digest).returning(*sign_in_codes.c)
        row = self._database.write(lambda connection: connection.execute(delete).first())
        return _session(row) if row is not None and now < row.expires_at else None

    @override
    def add(self, digest: str, session: Session) -> None:
        self._database.write(lambda connection: connection.execute(sa.insert(sessions), _row(digest, session)))

    @override
    def find(self, digest: str, now: datetime) -> tuple[Session, AccessToken | None] | None:
        of_session = sa.select(sessions).where(sessions.c.digest == digest, sessions.c.expires_at > now)

        def work(connection: Connection) -> tuple[Session, AccessToken | None] | None:
            row = connection.execute(of_session).first()
            if row is None:
                return None
            if row.token_id is None:
                return _session(row), None
            token_row = connection.execute(sa.select(tokens).where(tokens.c.id == row.token_id)).first()
            token = _token(token_row) if token_row else None
            return (_session(row), token) if token and token.is_active(now) else None

        return self._database.read(work)

    @override
    def remove(self, digest: str) -> None:
        delete = sa.delete(sessions).where(sessions.c.digest == digest)
        self._database.write(lambda connection: connection.execute(delete))

    @override
    def prune(self, now: datetime) -> int:
        def work(connection: Connection) -> int:
            return sum(
                connection.execute(sa.delete(table).where(table.c.expires_at <= now)).rowcount
                for table in (sessions, sign_in_codes)
            )

        return self._database.write(work)


_TIME = tokens.c.last_used_at.type


def _token(row: Row[Any]) -> AccessToken:
    return AccessToken(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        registry=row.registry,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        revoked_by=row.revoked_by,
    )


def _session(row: Row[Any]) -> Session:
    return Session(row.token_id, row.server_mark, row.expires_at)


def _row(digest: str, session: Session) -> dict[str, Any]:
    return {
        "digest": digest,
        "token_id": session.token_id,
        "server_mark": session.server_mark,
        "expires_at": session.expires_at,
    }
