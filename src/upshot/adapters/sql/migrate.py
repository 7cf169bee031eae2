"""Migrate a database to the schema that this version needs. Every process calls this at its start."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.sql.database import Database
from upshot.errors import ConfigError

REVISIONS = tuple(str(number) for number in range(1, 21))  #: every schema revision, the newest last
UNRELEASED = frozenset({"0001", "0002"})  #: schema revisions of development versions, which cannot be migrated
VERSION_TABLE = "upshot_version"  # not Alembic's default name, which others (MLflow) use in a shared database

_LOCK = 0x7570_7368_6F74  # "upshot"; only one process migrates a PostgreSQL database at a time
_SELECT = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(VERSION_TABLE))


def migrate(database: Database, to_revision: str = REVISIONS[-1]) -> None:
    """
    Create or migrate the tables if necessary. For an up-to-date database this takes two queries.

    Several processes may call this at the same time. One migrates, and the others wait for it.

    Args:
        database: The database.
        to_revision: The schema revision to migrate to. Only tests need another revision than the newest.

    Raises:
        ConfigError: A newer version of Upshot, or a development version before the first release, made the database.
        Unavailable: The database does not answer.
    """
    if database.read(_revision) != to_revision:
        database.write(lambda connection: _upgrade(connection, to_revision))


def stored_revision(database: Database) -> str | None:
    """
    Return the schema revision of the database, or None if it has no tables yet.

    Raises:
        ConfigError: A newer version of Upshot, or a development version before the first release, made the database.
        Unavailable: The database does not answer.
    """
    return database.read(_revision)


def _revision(connection: Connection) -> str | None:
    """Return the revision of the database, or None if it has no tables yet."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    revision = connection.execute(_SELECT).scalar_one_or_none()
    if revision in UNRELEASED:
        raise ConfigError(
            "a development version of Upshot, before the first release, made this database, and it cannot be migrated; "
            "set UPSHOT_DATABASE_URL to an empty database, or UPSHOT_DATA to an empty directory"
        )
    if revision is not None and revision not in REVISIONS:
        raise ConfigError(
            f"the database has schema revision {revision}, and this version of Upshot supports revisions up to "
            f"{REVISIONS[-1]}; install the newer version that migrated it, or restore a backup of the database"
        )
    return revision


def _upgrade(connection: Connection, to_revision: str) -> None:
    if connection.dialect.name == "postgresql":
        from upshot.adapters.sql.postgres import without_deadlines  # noqa: PLC0415 - SQLite does not need psycopg

        with without_deadlines(connection):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            _upgrade_locked(connection, to_revision)
    else:
        _upgrade_locked(connection, to_revision)


def _upgrade_locked(connection: Connection, to_revision: str) -> None:
    if _revision(connection) == to_revision:
        return  # another process has migrated the database

    from alembic import command  # noqa: PLC0415 - the import takes 0.2 s, and most starts do not need it
    from alembic.config import Config  # noqa: PLC0415 - the same

    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, to_revision)
