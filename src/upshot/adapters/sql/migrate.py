"""Brings a database to the form that this code needs; every process may do so when it starts."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from upshot.adapters.sql.database import Database
from upshot.errors import ConfigError

FORMS = ("0001", "0002")  #: every form that the database has had, the present one last
VERSION_TABLE = "upshot_version"  # not Alembic's default, which others (MLflow) use in a shared database

_LOCK = 0x7570_7368_6F74  # "upshot": one process migrates a PostgreSQL at a time
_SELECT = sa.select(sa.column("version_num", sa.String)).select_from(sa.table(VERSION_TABLE))


def migrate(database: Database) -> None:
    """
    Make or change the tables where that is needed; an up-to-date database costs two questions.

    Several processes may do so at the same time: one works, the others wait and find it done.

    Raises:
        ConfigError: The database has a later form than this code knows.
        Unavailable: The database does not answer.
    """
    if database.read(_form) != FORMS[-1]:
        database.write(_upgrade)


def _form(connection: Connection) -> str | None:
    """The form that the database has; None before the first."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    form = connection.execute(_SELECT).scalar_one_or_none()
    if form is not None and form not in FORMS:
        raise ConfigError(
            f"the database has form {form}, and this Upshot knows forms up to {FORMS[-1]}: a later Upshot has "
            "migrated it; install that version, or go back to a copy of the database from before"
        )
    return form


def _upgrade(connection: Connection, to: str = FORMS[-1]) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if _form(connection) == to:
        return  # another process was quicker

    from alembic import command  # noqa: PLC0415 - takes 0.2 s to import, which an up-to-date database need not wait for
    from alembic.config import Config  # noqa: PLC0415 - the same

    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, to)
