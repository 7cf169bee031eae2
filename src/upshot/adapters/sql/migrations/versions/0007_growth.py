"""
Add what lists, counts and the removal of old rows need to stay fast beside millions of rows.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"

_BASE = {
    "sqlite": "substr(subject, 1, instr(subject || ':', ':') - 1)",
    "postgresql": "split_part(subject, ':', 1)",
}
_ALIAS = {
    "sqlite": "json_extract(document, '$.data.alias')",
    "postgresql": "document::json #>> '{data,alias}'",
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    subject = sa.String(300).with_variant(sa.String(300, collation="C"), "postgresql")
    op.add_column("events", sa.Column("subject_base", subject))
    op.add_column("events", sa.Column("alias", sa.String(128)))
    op.execute(
        f"UPDATE events SET subject_base = {_BASE[dialect]}, "  # noqa: S608 - constants
        f"alias = CASE WHEN kind IN ('alias-added', 'alias-removed') THEN {_ALIAS[dialect]} END"
    )
    op.create_index("ix_events_subject_base_id", "events", ["subject_base", "id"])
    for name, columns, condition in (
        ("ix_events_name_id", ["name", "id"], sa.text("name IS NOT NULL")),
        ("ix_events_alias_id", ["subject_base", "alias", "id"], sa.text("alias IS NOT NULL")),
    ):
        op.create_index(name, "events", columns, sqlite_where=condition, postgresql_where=condition)
    for name, columns, condition in (
        ("ix_executions_final", ["state", "id"], sa.text("state NOT IN ('waiting', 'running')")),
        ("ix_executions_waiting", ["id"], sa.text("state = 'waiting'")),
        ("ix_executions_running", ["id"], sa.text("state = 'running'")),
    ):
        op.create_index(name, "executions", columns, sqlite_where=condition, postgresql_where=condition)
    op.create_index("ix_history_registry_id", "history", ["registry", "id"])
