"""The database reaches the form that the code needs, once, whoever comes first."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.contract.databases import KINDS, empty_database
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
    """URL of an empty database."""
    return empty_database(request.param, request)


@pytest.fixture
def database(url):
    """The same, migrated."""
    made = Database(url)
    migrate(made)
    yield made
    made.close()


def test_migrations_make_what_the_schema_says(database):
    """Tables, columns, types, keys and indexes: nothing is missing on either side."""

    def differences(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        return compare_metadata(context, metadata)

    assert database.read(differences) == []


def test_names_sort_by_code_point(database):
    """On every database, whatever language it was set up for: pages and prefixes depend on it."""
    registries = metadata.tables["registries"]
    names = ["a", "B", "ä", "Z-1", "_", "a b"]
    database.write(
        lambda connection: connection.execute(
            sa.insert(registries), [{"name": name, "protected_aliases": []} for name in names]
        )
    )
    found = database.read(
        lambda connection: connection.execute(sa.select(registries.c.name).order_by(registries.c.name)).scalars().all()
    )
    assert list(found) == sorted(names)


def test_a_second_time_changes_nothing(database):
    """And needs no Alembic."""
    migrate(database)
    seen = subprocess.run(
        [sys.executable, "-c", f"{MIGRATE}print('alembic' in sys.modules)", database.url.render_as_string(False)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == "False"


def test_many_threads_may_migrate_at_once(url):
    """One makes the tables, the others find them."""
    databases = [Database(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(migrate, databases))
    for one in databases:
        one.close()


def test_many_processes_may_migrate_at_once(url):
    """As when `upshot serve` and several workers start together on an empty database."""
    started = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, url], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, "\n".join(errors)


@pytest.mark.parametrize("revision", sorted(UNRELEASED))
def test_a_database_of_a_development_version_is_refused(database, revision):
    """A database made before the first release is refused with a sentence that says so and what to do."""
    database.write(
        lambda connection: connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))
    )
    with pytest.raises(ConfigError, match="made by a development version of Upshot.* UPSHOT_DATABASE_URL"):
        migrate(database)


def test_a_database_of_a_later_upshot_is_refused(database):
    """A database of a newer Upshot is refused rather than written to."""
    database.write(lambda connection: connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")))
    with pytest.raises(
        ConfigError, match=f"schema revision 9999, and this Upshot knows revisions up to {REVISIONS[-1]}"
    ):
        migrate(database)
