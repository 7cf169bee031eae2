"""A database that cannot work now is unavailable, whatever the reason: nothing was decided, and the caller waits."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest
import sqlalchemy as sa

from tests.contract.databases import KINDS, open_database
from upshot.adapters.sql.database import Database, sqlite_url
from upshot.adapters.sql.sql_errors import ErrorKind, classify
from upshot.errors import InvalidInput, NoSpace, Unavailable


@pytest.fixture(params=KINDS)
def database(request):
    """Open a database with one table, on SQLite and on PostgreSQL."""
    database = open_database(request.param, request)
    database.write(lambda c: c.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY, text TEXT)"))
    return database


@pytest.fixture
def on_sqlite(tmp_path):
    """Open an SQLite database with one table."""
    database = Database(sqlite_url(tmp_path / "upshot.db"))
    database.write(lambda c: c.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY, text TEXT)"))
    yield database
    database.close()


@pytest.fixture
def on_postgres(request):
    """Open a PostgreSQL database with one table."""
    database = open_database("postgresql", request)
    database.write(lambda c: c.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY, text TEXT)"))
    return database


def insert(database, number, text=""):
    def work(connection):
        connection.execute(sa.text("INSERT INTO numbers VALUES (:number, :text)"), {"number": number, "text": text})
        return number

    return database.write(work)


def numbers(database):
    return set(database.read(lambda c: c.execute(sa.text("SELECT number FROM numbers")).scalars()))


def refuse_growth(connection, *_):
    connection.execute("PRAGMA max_page_count = 1")


# --- SQLite -------------------------------------------------------------------------------------------


def test_a_full_database_is_unavailable_until_there_is_room(on_sqlite):
    """Writes fail as unavailable while the disk is full, reads go on, and afterwards writes work again."""
    sa.event.listen(on_sqlite.engine, "checkout", refuse_growth)
    with pytest.raises(NoSpace, match="full"):
        insert(on_sqlite, 1, "x" * 1_000_000)
    assert numbers(on_sqlite) == set()

    sa.event.remove(on_sqlite.engine, "checkout", refuse_growth)
    sa.event.listen(on_sqlite.engine, "checkout", lambda c, *_: c.execute("PRAGMA max_page_count = 1000000"))
    assert insert(on_sqlite, 1, "x" * 1_000_000) == 1


def test_every_writer_of_a_group_gets_the_error_of_a_full_disk(on_sqlite):
    """SQLite may end the transaction in the middle of a group. No writer takes its changes for stored."""
    sa.event.listen(on_sqlite.engine, "checkout", refuse_growth)
    started, go_on = threading.Event(), threading.Event()
    outcomes = {}

    def first(_connection):
        started.set()
        assert go_on.wait(10)

    def write(number):
        try:
            outcomes[number] = insert(on_sqlite, number, "x" * 1_000_000)
        except NoSpace:
            outcomes[number] = None

    threads = [threading.Thread(target=on_sqlite.write, args=[first])]
    threads[0].start()
    assert started.wait(10)
    threads += [threading.Thread(target=write, args=[number]) for number in range(5)]
    for thread in threads[1:]:
        thread.start()
    while len(on_sqlite._writers._waiting) < 5:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(20)
    stored = numbers(on_sqlite)
    assert stored == {number for number, outcome in outcomes.items() if outcome is not None}
    assert len(outcomes) == 5


def test_a_read_only_database_file_is_unavailable(on_sqlite):
    """The file system was mounted read-only, for example after an I/O error."""
    sa.event.listen(on_sqlite.engine, "checkout", lambda c, *_: c.execute("PRAGMA query_only = ON"))
    with pytest.raises(Unavailable, match="readonly"):
        insert(on_sqlite, 1)


def test_a_lock_that_is_not_released_is_unavailable_in_bounded_time(tmp_path, on_sqlite):
    """The first writer gives up after SQLite's timeout, and those behind it give up, too."""
    with closing(sqlite3.connect(tmp_path / "upshot.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        outcomes = []

        def write(number):
            started = time.monotonic()
            with pytest.raises(Unavailable, match="locked"):
                insert(on_sqlite, number)
            outcomes.append(time.monotonic() - started)

        threads = [threading.Thread(target=write, args=[number]) for number in range(70)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        other.execute("ROLLBACK")
    assert len(outcomes) == 70
    assert max(outcomes) < 20
    assert insert(on_sqlite, 1) == 1


def test_running_out_of_memory_is_unavailable(on_sqlite):
    """Another attempt may succeed when there is memory again."""

    def work(_connection):
        raise MemoryError

    with pytest.raises(Unavailable, match="MemoryError"):
        on_sqlite.write(work)
    assert insert(on_sqlite, 1) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, ErrorKind.UNAVAILABLE),
        (sqlite3.SQLITE_IOERR_FSYNC, ErrorKind.UNAVAILABLE),
        (sqlite3.SQLITE_READONLY_DBMOVED, ErrorKind.UNAVAILABLE),
        (sqlite3.SQLITE_CANTOPEN, ErrorKind.UNAVAILABLE),
        (sqlite3.SQLITE_CORRUPT, ErrorKind.UNAVAILABLE),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, ErrorKind.CONFLICT),
        (sqlite3.SQLITE_ERROR, ErrorKind.DATA),
        (sqlite3.SQLITE_TOOBIG, ErrorKind.DATA),
    ],
)
def test_the_code_of_sqlite_decides(code, kind):
    """The text of an error never does."""
    original = sqlite3.OperationalError("some text")
    original.sqlite_errorcode = code
    assert classify(sa.exc.OperationalError("SELECT 1", {}, original)) is kind


# --- PostgreSQL ---------------------------------------------------------------------------------------


def test_a_read_only_server_is_unavailable_until_it_is_writable(on_postgres):
    """This is what a client sees after a failover to a replica."""
    on_postgres.write(
        lambda c: c.exec_driver_sql(f"ALTER DATABASE {on_postgres.url.database} SET default_transaction_read_only = on")
    )
    on_postgres.engine.dispose()
    with pytest.raises(Unavailable, match="read-only"):
        insert(on_postgres, 1)
    assert not on_postgres.ping()
    assert numbers(on_postgres) == set()

    def allow(connection):
        connection.exec_driver_sql("SET TRANSACTION READ WRITE")
        connection.exec_driver_sql(f"ALTER DATABASE {on_postgres.url.database} RESET default_transaction_read_only")

    on_postgres.write(allow)
    on_postgres.engine.dispose()
    assert insert(on_postgres, 1) == 1
    assert on_postgres.ping()


def test_a_locked_table_is_unavailable_in_bounded_time(on_postgres):
    """A migration or a person holds a lock. Writers and readers stop waiting, and nothing is lost."""
    with on_postgres.engine.connect() as other, other.begin():
        other.exec_driver_sql("LOCK TABLE numbers IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        with pytest.raises(Unavailable, match="lock timeout"):
            insert(on_postgres, 1)
        assert time.monotonic() - started < 10
    assert insert(on_postgres, 1) == 1


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)", id="statement timeout"),
        pytest.param("SELECT * FROM missing", id="a table that is not there yet"),
        pytest.param("SET LOCAL ROLE pg_monitor; INSERT INTO numbers VALUES (1)", id="no privilege"),
        pytest.param("DO $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'no space left'; END $$", id="disk full"),
        pytest.param("DO $$ BEGIN RAISE SQLSTATE '53200' USING MESSAGE = 'out of memory'; END $$", id="out of memory"),
        pytest.param("DO $$ BEGIN RAISE SQLSTATE '58030' USING MESSAGE = 'I/O error'; END $$", id="I/O error"),
        pytest.param("DO $$ BEGIN RAISE SQLSTATE '57P01' USING MESSAGE = 'shutdown'; END $$", id="admin shutdown"),
    ],
)
def test_an_error_that_is_no_statement_about_the_data_is_unavailable(on_postgres, statement):
    """The class of the server's code decides."""
    with pytest.raises(Unavailable) as raised:
        on_postgres.write(lambda connection: connection.exec_driver_sql(statement))
    assert isinstance(raised.value, NoSpace) == ("53100" in statement)
    assert insert(on_postgres, 1) == 1


def test_a_server_that_ends_all_connections_is_used_again_at_once(on_postgres):
    """The transaction is repeated on a new connection."""
    assert insert(on_postgres, 1) == 1
    ended = threading.Event()

    def work(connection):
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        if not ended.is_set():
            ended.set()
            with on_postgres.engine.connect() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        connection.exec_driver_sql("INSERT INTO numbers VALUES (2)")

    on_postgres.write(work)
    assert numbers(on_postgres) == {1, 2}


# --- both ---------------------------------------------------------------------------------------------


def test_an_error_about_the_data_is_no_outage(database):
    """Waiting would not help against a mistake in the data or in the SQL."""
    with pytest.raises(InvalidInput):
        insert(database, 1, "\ud800")
    insert(database, 1)
    with pytest.raises(sa.exc.IntegrityError):
        insert(database, 1)
    with pytest.raises(sa.exc.DBAPIError):
        database.write(lambda connection: connection.exec_driver_sql("SELEKT 1"))


def test_a_database_without_a_free_connection_is_unavailable(database, monkeypatch):
    """A caller waits for a connection only for a short time."""
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.1)
    held = [database.engine.connect() for _ in range(database.engine.pool.size() + database.engine.pool._max_overflow)]
    with pytest.raises(Unavailable, match="QueuePool limit"):
        database.read(lambda connection: connection.scalar(sa.select(1)))
    for connection in held:
        connection.close()
    assert database.ping()
