"""The database reaches the form that the code needs, once, whoever comes first."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.contract.databases import KINDS, empty_database
from upshot.adapters.sql.database import Database
from upshot.adapters.sql.migrate import FORMS, VERSION_TABLE, _upgrade, migrate
from upshot.adapters.sql.schema import metadata
from upshot.adapters.sql.workers import SqlWorkers
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


def test_a_database_of_an_earlier_upshot_keeps_what_it_has(url):
    """And a worker that still runs its code goes on saying that it is alive."""
    database = Database(url)
    database.write(partial(_upgrade, to="0001"))
    beat = sa.text(
        "INSERT INTO workers (id, host, pid, started_at, seen_at, in_hand, automations) "
        "VALUES (:id, 'here', 1, 0, 0, 0, 0)"
    )
    database.write(lambda connection: connection.execute(beat, {"id": "before"}))
    migrate(database)
    database.write(lambda connection: connection.execute(beat, {"id": "after"}))
    found = SqlWorkers(database).list(seen_since=datetime(1970, 1, 1, tzinfo=UTC))
    assert [(one.id, one.machine, one.queues, one.engines) for one in sorted(found, key=lambda one: one.id)] == [
        ("after", "", (), {}),
        ("before", "", (), {}),
    ]
    database.close()


def test_a_database_of_a_later_upshot_is_refused(database):
    """Rather than written to by code that does not know its form."""
    database.write(lambda connection: connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")))
    with pytest.raises(ConfigError, match=f"form 9999, and this Upshot knows forms up to {FORMS[-1]}"):
        migrate(database)
