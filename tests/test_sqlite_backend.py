"""The SQLite backend: writers of all processes wait in one queue, lone statements too, and instants are stored one way."""

import fcntl
import os
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from django.db.utils import ConnectionHandler

from novawf_site.settings import _sqlite

pytestmark = pytest.mark.django_db  # for permission alone: these tests open databases of their own


@pytest.fixture
def database(tmp_path):
    """A connection to a database file of its own, through our backend."""
    handler = ConnectionHandler({"default": _sqlite(tmp_path / "own.sqlite3")})
    connection = handler["default"]
    connection.inc_thread_sharing()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE note (text text, at datetime)")
    yield connection
    connection.close()


@pytest.fixture
def other_writer(tmp_path):
    """Another process's turn at the lock: hold() and let_go()."""

    class Other:
        def hold(self) -> None:
            self.fd = os.open(tmp_path / "own.sqlite3.writers", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self.fd, fcntl.LOCK_EX)

        def let_go(self) -> None:
            os.close(self.fd)

    return Other()


def insert(connection, *values) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO note VALUES (%s, %s)", values)


def test_a_lone_write_waits_for_its_turn(database, other_writer):
    other_writer.hold()
    writer = threading.Thread(target=insert, args=(database, "late", None))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    other_writer.let_go()
    writer.join(10)
    assert not writer.is_alive()


def test_a_read_waits_for_nobody(database, other_writer):
    other_writer.hold()
    with database.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM note").fetchone() == (0,)
    other_writer.let_go()


def free(path) -> bool:
    """Whether nobody holds the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_a_transaction_holds_the_lock_until_its_end_however_it_ends(database, tmp_path):
    lock = tmp_path / "own.sqlite3.writers"
    for statement in ("COMMIT", "ROLLBACK"):
        database.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
        insert(database, statement, None)
        assert not free(lock)
        database.commit() if statement == "COMMIT" else database.rollback()
        database.set_autocommit(True)
        assert free(lock)
    with database.cursor() as cursor:
        assert cursor.execute("SELECT text FROM note").fetchall() == [("COMMIT",)]


def test_an_instant_is_stored_in_utc_as_django_stores_it(database):
    instant = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    insert(database, "aware", instant)
    insert(database, "elsewhere", instant.astimezone(timezone(timedelta(hours=5))))
    with database.cursor() as cursor:
        stored = cursor.execute("SELECT CAST(at AS text) FROM note").fetchall()
    assert stored == [(database.ops.adapt_datetimefield_value(instant),)] * 2
