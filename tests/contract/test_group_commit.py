"""Writers on SQLite that share a commit."""

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from upshot.adapters.sql.database import Database, sqlite_url


@pytest.fixture
def database(tmp_path):
    """Create a database file with one table of unique numbers."""
    database = Database(sqlite_url(tmp_path / "upshot.db"))
    database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY)"))
    yield database
    database.close()


def insert(connection, number):
    connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))
    return number


def stored(database):
    return set(database.read(lambda connection: connection.execute(sa.text("SELECT number FROM numbers")).scalars()))


class ConcurrentWriters:
    """Writers that all wait while the first one works, and therefore form one group after it."""

    def __init__(self, database):
        self._database = database
        self._started, self._continue = threading.Event(), threading.Event()
        self.commits: list[int] = []
        sa.event.listen(database.engine, "commit", lambda _: self.commits.append(1))

    def write(self, *works):
        """Run the works at the same time, and return the result or error of each."""

        def first(connection):
            self._started.set()
            assert self._continue.wait(10)

        with ThreadPoolExecutor(len(works) + 1) as threads:
            threads.submit(self._database.write, first)
            assert self._started.wait(10)
            futures = [threads.submit(self._database.write, work) for work in works]
            while len(self._database._writers._waiting) < len(works):
                threading.Event().wait(0.001)
            self._continue.set()
            return [future.exception() or future.result() for future in futures]


def test_waiting_writers_share_a_commit(database):
    """Each writer gets its own result, and everything is stored."""
    writers = ConcurrentWriters(database)
    results = writers.write(*(lambda connection, number=number: insert(connection, number) for number in range(8)))
    assert results == list(range(8))
    assert stored(database) == set(range(8))
    assert len(writers.commits) < 8


def test_a_failing_writer_does_not_affect_its_group(database):
    """Its own changes are rolled back, and those of the other writers are stored."""

    def fail(connection):
        insert(connection, 99)
        raise ValueError("no")

    first, error, last = ConcurrentWriters(database).write(
        lambda connection: insert(connection, 1), fail, lambda connection: insert(connection, 2)
    )
    assert (first, last) == (1, 2)
    assert isinstance(error, ValueError)
    assert stored(database) == {1, 2}


def test_every_writer_of_a_group_gets_the_error_of_its_commit(database):
    """No writer takes its changes for stored."""
    writers = ConcurrentWriters(database)
    failing = threading.Event()

    def refuse(connection):
        if failing.is_set():
            raise RuntimeError("the disk is full")

    sa.event.listen(database.engine, "commit", refuse)

    def insert_and_break(connection):
        failing.set()
        return insert(connection, 2)

    results = writers.write(lambda connection: insert(connection, 1), insert_and_break)
    failing.clear()
    assert [str(result) for result in results] == ["the disk is full", "the disk is full"]
    assert stored(database) == set()
    assert database.write(lambda connection: insert(connection, 3)) == 3


def test_the_error_of_a_single_writer_is_raised(database):
    """The next writer can write at once."""

    def fail(connection):
        insert(connection, 1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.write(fail)
    assert database.write(lambda connection: insert(connection, 1)) == 1


def test_two_processes_take_turns(database, tmp_path):
    """Another `Database` on the same file, as another process has it, loses no change."""
    other = Database(sqlite_url(tmp_path / "upshot.db"))
    with ThreadPoolExecutor(8) as threads:
        futures = [
            threads.submit(each.write, lambda connection, number=number: insert(connection, number))
            for number, each in enumerate([database, other] * 100)
        ]
        assert [future.result() for future in futures] == list(range(200))
    other.close()
    assert stored(database) == set(range(200))


def test_a_stopped_process_does_not_block_the_others(database, tmp_path):
    """After a timeout only SQLite's own lock counts, which is free here."""
    with (tmp_path / "upshot.db.write-lock").open("rb") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        assert database.write(lambda connection: insert(connection, 1)) == 1
    assert stored(database) == {1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError("flock")])
def test_a_leader_that_fails_before_it_takes_its_group_appoints_another(database, monkeypatch, error):
    """Its own caller gets the error, and the writers behind it are not blocked."""
    writers = database._writers
    has_failed = threading.Event()
    original = writers._file_locked

    def fail_once():
        if has_failed.is_set():
            return original()
        while len(writers._waiting) < 4:
            threading.Event().wait(0.001)
        has_failed.set()
        raise error

    monkeypatch.setattr(writers, "_file_locked", fail_once)

    def lead():
        with pytest.raises(type(error) if isinstance(error, BaseException) else error):
            writers.run(lambda connection: insert(connection, 0))

    with ThreadPoolExecutor(4) as threads:
        leader = threads.submit(lead)
        while not writers._has_leader:
            threading.Event().wait(0.001)
        others = [threads.submit(database.write, lambda c, number=number: insert(c, number)) for number in (1, 2, 3)]
        assert [future.result(10) for future in others] == [1, 2, 3]
        leader.result(10)
    assert database.write(lambda connection: insert(connection, 4)) == 4
    assert stored(database) == {1, 2, 3, 4}
