"""What writers on SQLite are promised when they share a commit."""

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from upshot.adapters.sql.database import Database, sqlite_url


@pytest.fixture
def database(tmp_path):
    """A file with one table, whose numbers are unique."""
    made = Database(sqlite_url(tmp_path / "upshot.db"))
    made.write(lambda connection: connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER PRIMARY KEY)"))
    yield made
    made.close()


def insert(connection, number):
    connection.exec_driver_sql("INSERT INTO numbers VALUES (?)", (number,))
    return number


def kept(database):
    return set(database.read(lambda connection: connection.execute(sa.text("SELECT number FROM numbers")).scalars()))


class Crowd:
    """Writers that all wait while the first one works, and so go into one group after it."""

    def __init__(self, database):
        self._database = database
        self._begun, self._go_on = threading.Event(), threading.Event()
        self.commits: list[int] = []
        sa.event.listen(database.engine, "commit", lambda _: self.commits.append(1))

    def write(self, *works):
        """Results, or errors, of the works, in their order."""

        def first(connection):
            self._begun.set()
            assert self._go_on.wait(10)

        with ThreadPoolExecutor(len(works) + 1) as threads:
            threads.submit(self._database.write, first)
            assert self._begun.wait(10)
            futures = [threads.submit(self._database.write, work) for work in works]
            while len(self._database._writers._waiting) < len(works):
                threading.Event().wait(0.001)
            self._go_on.set()
            return [future.exception() or future.result() for future in futures]


def test_those_who_wait_share_one_commit(database):
    """Each gets its own result, and all of it is kept."""
    crowd = Crowd(database)
    results = crowd.write(*(lambda connection, number=number: insert(connection, number) for number in range(8)))
    assert results == list(range(8))
    assert kept(database) == set(range(8))
    assert len(crowd.commits) < 8


def test_one_that_fails_leaves_nothing_and_holds_up_nobody(database):
    """What it wrote before its error is undone; the others of its group are kept."""

    def fail(connection):
        insert(connection, 99)
        raise ValueError("no")

    first, error, last = Crowd(database).write(
        lambda connection: insert(connection, 1), fail, lambda connection: insert(connection, 2)
    )
    assert (first, last) == (1, 2)
    assert isinstance(error, ValueError)
    assert kept(database) == {1, 2}


def test_a_group_that_cannot_be_committed_tells_everybody(database, monkeypatch):
    """Nobody takes for kept what was not."""
    crowd = Crowd(database)
    failing = threading.Event()

    def refuse(connection):
        if failing.is_set():
            raise RuntimeError("the disk is full")

    sa.event.listen(database.engine, "commit", refuse)

    def insert_and_break(connection):
        failing.set()
        return insert(connection, 2)

    results = crowd.write(lambda connection: insert(connection, 1), insert_and_break)
    failing.clear()
    assert [str(result) for result in results] == ["the disk is full", "the disk is full"]
    assert kept(database) == set()
    assert database.write(lambda connection: insert(connection, 3)) == 3


def test_an_error_of_one_alone_comes_through(database):
    """And the next writer finds the place free."""

    def fail(connection):
        insert(connection, 1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        database.write(fail)
    assert database.write(lambda connection: insert(connection, 1)) == 1


def test_two_processes_take_turns(database, tmp_path):
    """A second door to the same file, as another process has it, loses nothing to the first."""
    other = Database(sqlite_url(tmp_path / "upshot.db"))
    with ThreadPoolExecutor(8) as threads:
        doors = [database, other] * 100
        work = [
            threads.submit(door.write, lambda connection, number=number: insert(connection, number))
            for number, door in enumerate(doors)
        ]
        assert [future.result() for future in work] == list(range(200))
    other.close()
    assert kept(database) == set(range(200))


def test_a_process_that_stands_still_does_not_hold_up_the_others(database, tmp_path):
    """The turn is a courtesy: after a while SQLite's own lock, which is free here, decides."""
    with (tmp_path / "upshot.db.turn").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert database.write(lambda connection: insert(connection, 1)) == 1
    assert kept(database) == {1}
