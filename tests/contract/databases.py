"""The databases that the contracts are held on."""

import pytest

from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.migrate import migrate

KINDS = ("sqlite", "postgresql")


def empty_database(kind: str, request: pytest.FixtureRequest) -> str:
    """URL of an empty database, which is gone after the test."""
    if kind == "sqlite":
        return sqlite_url(request.getfixturevalue("tmp_path") / "upshot.db")
    url: str = request.getfixturevalue("postgres").new_database()
    return url


def open_database(kind: str, request: pytest.FixtureRequest) -> Database:
    """A migrated database, which is closed after the test."""
    made = Database(empty_database(kind, request))
    request.addfinalizer(made.close)
    migrate(made)
    return made
