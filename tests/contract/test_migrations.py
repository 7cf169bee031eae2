"""Migrations bring every database to the current schema, exactly once, and keep its data."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.contract import revision_1
from tests.contract.databases import KINDS, empty_database
from upshot.adapters.sql import migrate as migrate_module
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.migrate import REVISIONS, UNRELEASED, VERSION_TABLE, migrate
from upshot.adapters.sql.schema import metadata
from upshot.errors import ConfigError

MIGRATE = """
import sys
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.migrate import migrate
migrate(Database(sys.argv[1]))
"""


@pytest.fixture(params=KINDS)
def url(request):
    """Return the URL of an empty database."""
    return empty_database(request.param, request)


@pytest.fixture
def empty(url):
    """Return an empty database."""
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def migrated(empty):
    """Return a migrated database."""
    migrate(empty)
    return empty


def schema_differences(database):
    """Return what differs between the tables of the database and `schema.py`."""

    def compare(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        return compare_metadata(context, metadata)

    return database.read(compare)


def test_migrations_create_the_tables_of_the_schema(migrated):
    """Tables, columns, types, keys and indexes are the same in the migrations and in `schema.py`."""
    assert schema_differences(migrated) == []


def test_every_migration_is_listed():
    """`REVISIONS` has the revision of every migration file, in order."""
    scripts = ScriptDirectory(Path(migrate_module.__file__).with_name("migrations"))
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS


def test_data_of_the_first_revision_survives_all_migrations(empty):
    """A database with data of revision 1 has the current schema after the migrations, and its data can be read."""
    migrate(empty, "1")
    empty.write(revision_1.insert_rows)

    migrate(empty)

    assert schema_differences(empty) == []
    revision_1.assert_readable(empty)


def test_names_sort_by_code_point(migrated):
    """The order of names does not depend on the language of the database; pages and prefix searches rely on it."""
    registries = metadata.tables["registries"]
    names = ["a", "B", "ä", "Z-1", "_", "a b"]
    migrated.write(
        lambda connection: connection.execute(
            sa.insert(registries), [{"name": name, "protected_aliases": []} for name in names]
        )
    )
    found = migrated.read(
        lambda connection: connection.execute(sa.select(registries.c.name).order_by(registries.c.name)).scalars().all()
    )
    assert list(found) == sorted(names)


def test_migrating_an_up_to_date_database_does_not_import_alembic(migrated):
    """A second migration changes nothing, and it does not pay for the slow import."""
    result = subprocess.run(
        [sys.executable, "-c", f"{MIGRATE}print('alembic' in sys.modules)", migrated.url.render_as_string(False)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "False"


def test_many_threads_may_migrate_at_the_same_time(url):
    """One thread creates the tables, and the others find them."""
    databases = [Database(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(migrate, databases))
    for database in databases:
        database.close()


def test_many_processes_may_migrate_at_the_same_time(url):
    """`upshot serve` and several workers may start together on an empty database."""
    address = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, address], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(errors)


@pytest.mark.parametrize("revision", sorted(UNRELEASED))
def test_a_database_of_a_development_version_is_rejected(migrated, revision):
    """The message says that the database was made before the first release, and what to do."""
    set_revision(migrated, revision)
    with pytest.raises(ConfigError, match=r"development version of Upshot, .* made this database.*UPSHOT_"):
        migrate(migrated)


def test_a_database_of_a_newer_version_is_rejected(migrated):
    """The message names both revisions, and nothing is written."""
    set_revision(migrated, "9999")
    message = f"schema revision 9999, and this version of Upshot supports revisions up to {REVISIONS[-1]}"
    with pytest.raises(ConfigError, match=message):
        migrate(migrated)


def set_revision(database, revision):
    database.write(
        lambda connection: connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))
    )
