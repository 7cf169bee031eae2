"""
Store named tokens, sessions and sign-in codes.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "18"
down_revision = "17"

_ID = sa.String(40)
_NAME = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "access_tokens",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("registry", _NAME),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("revoked_by", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_access_tokens"),
        sa.UniqueConstraint("digest", name="uq_access_tokens_digest"),
    )
    is_usable = sa.text("revoked_at IS NULL")
    op.create_index(
        "uq_access_tokens_name",
        "access_tokens",
        ["name"],
        unique=True,
        sqlite_where=is_usable,
        postgresql_where=is_usable,
    )
    for name in ("sessions", "sign_in_codes"):
        op.create_table(
            name,
            sa.Column("digest", sa.String(64), nullable=False),
            sa.Column("token_id", _ID),
            sa.Column("server_mark", sa.String(64), nullable=False),
            sa.Column("expires_at", sa.BigInteger, nullable=False),
            sa.PrimaryKeyConstraint("digest", name=f"pk_{name}"),
            sa.ForeignKeyConstraint(["token_id"], ["access_tokens.id"], name=f"fk_{name}_token_id"),
        )
        op.create_index(f"ix_{name}_token_id", name, ["token_id"])
        op.create_index(f"ix_{name}_expires_at", name, ["expires_at"])
