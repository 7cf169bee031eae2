"""The databases that the contract tests run on."""

import pytest

from upshot.adapters.sql.database import Database, DatabaseUrl, sqlite_url
from upshot.adapters.sql.migrate import migrate

KINDS = ("sqlite", "postgresql")


def empty_database(kind: str, request: pytest.FixtureRequest) -> DatabaseUrl:
    """Create an empty database for this test, and return its URL."""
    if kind == "sqlite":
        return sqlite_url(request.getfixturevalue("tmp_path") / "upshot.db")
    url: str = request.getfixturevalue("postgres").new_database()
    return url


def open_database(kind: str, request: pytest.FixtureRequest) -> Database:
    """Open a migrated database, and close it after the test."""
    database = Database(empty_database(kind, request))
    request.addfinalizer(database.close)
    migrate(database)
    return database
