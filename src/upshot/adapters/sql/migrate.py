"""Migrate a database to the schema that this code needs. Any process may do it when it starts."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.sql.database import Database
from upshot.errors import ConfigError

REVISIONS = ("1",)  #: every released revision of the schema, the newest last
UNRELEASED = frozenset({"0001", "0002"})  #: revisions of development versions, which are not migrated
VERSION_TABLE = "upshot_version"  # not Alembic's default, which others (MLflow) use in a shared database

_LOCK = 0x7570_7368_6F74  # "upshot": one process migrates a PostgreSQL at a time
_SELECT = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(VERSION_TABLE))


def migrate(database: Database) -> None:
    """
    Create or migrate the tables if needed; an up-to-date database costs two queries.

    Several processes may call this at the same time: one migrates, the others wait and find it done.

    Raises:
        ConfigError: The database was made by a newer Upshot, or by a development version before the first release.
        Unavailable: The database does not answer.
    """
    if database.read(_revision) != REVISIONS[-1]:
        database.write(_upgrade)


def _revision(connection: Connection) -> str | None:
    """Return the revision of the database, or None if it has no tables yet."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.execute(_SELECT).scalar_one_or_none()
    if revision in UNRELEASED:
        raise ConfigError(
            "the database was made by a development version of Upshot, before the first release, and cannot be "
            "migrated: set UPSHOT_DATABASE_URL to an empty database, or start `upshot up` with an empty data folder"
        )
    if revision is not None and revision not in REVISIONS:
        raise ConfigError(
            f"the database has schema revision {revision}, and this Upshot knows revisions up to {REVISIONS[-1]}: "
            "a newer Upshot has migrated it; install that version, or restore a copy of the database from before"
        )
    return revision


def _upgrade(connection: Connection, to: str = REVISIONS[-1]) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if _revision(connection) == to:
        return  # another process was faster

    from alembic import command  # noqa: PLC0415 - takes 0.2 s to import, which an up-to-date database does not need
    from alembic.config import Config  # noqa: PLC0415 - the same

    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, to)
