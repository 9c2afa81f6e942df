"""The SQLite backend of NOVAWF: Django's own, with writers queued at one file lock.

SQLite's busy handler is unfair: with three saturating writers one can wait for seconds. Here the outermost `atomic` takes an
advisory lock on a file beside the database before its BEGIN and drops it after COMMIT or ROLLBACK, and a statement that writes
outside of any transaction holds it for itself, so writers of all processes take turns in order of arrival. This file must not
know what the tables mean.
"""

import fcntl
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

# The WAL-reset bug corrupts databases under SQLite 3.7.0 to 3.51.2; the wheel carries a newer one.
if sqlite3.sqlite_version_info < (3, 51, 3):
    try:
        import pysqlite3
        import pysqlite3.dbapi2
    except ImportError:
        pass
    else:
        sys.modules["sqlite3"] = pysqlite3
        sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2

from django.db.backends.sqlite3 import base


@lru_cache(maxsize=256)  # a batch of rows speaks of few instants
def _stored_instant(value: datetime) -> str:
    """Give an instant as Django's own fields store it, so that raw SQL compares and writes the same text."""
    return str(value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value)


base.Database.register_adapter(  # type: ignore[attr-defined]
    datetime, _stored_instant
)
# Without adapters of their own the driver looks for some on every single value: a microsecond each, measured.
base.Database.register_adapter(bool, int)  # type: ignore[attr-defined]
base.Database.register_adapter(type(None), {}.get)  # type: ignore[attr-defined]
# Django's fields parse the instants they give; raw rows keep the text, of which `safety.bulk.instant` reads what is needed.
base.Database.register_converter("datetime", bytes.decode)  # type: ignore[attr-defined]


_WRITES = ("INSERT", "UPDATE", "DELETE")


class QueuedCursor(base.SQLiteCursorWrapper):
    """Django's cursor; a lone write waits for its turn too."""

    def __init__(self, connection: Any, wrapper: "DatabaseWrapper") -> None:
        super().__init__(connection)
        self._wrapper = wrapper

    def execute(self, query: Any, params: Any = None) -> Any:
        if self.connection.in_transaction or not query.startswith(_WRITES):
            return super().execute(query, params)
        with self._wrapper.turn():
            return super().execute(query, params)


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's wrapper plus the writers' lock."""

    _lock_fd: int | None = None
    _lock_owner: int | None = None

    def _start_transaction_under_autocommit(self) -> None:
        self._take_lock()
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._drop_lock()
            raise

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]
        self._drop_lock()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._drop_lock()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._drop_lock()

    def create_cursor(self, name: str | None = None) -> Any:
        """Give a cursor whose lone writes are queued."""
        return self.connection.cursor(factory=lambda connection: QueuedCursor(connection, self))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the writers' lock."""
        self._take_lock()
        try:
            yield
        finally:
            self._drop_lock()

    def _take_lock(self) -> None:
        name = str(self.settings_dict["NAME"])
        if self._lock_fd is not None or not os.path.isabs(name):
            return  # a database in memory has one process and needs no queue
        fd = os.open(f"{name}.writers", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except BaseException:
            os.close(fd)
            raise
        self._lock_fd, self._lock_owner = fd, os.getpid()

    def _drop_lock(self) -> None:
        fd, self._lock_fd = self._lock_fd, None
        if fd is None:
            return
        if self._lock_owner == os.getpid():
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)  # in a forked child: drop the copy, the parent still holds the lock

    def get_new_connection(self, conn_params: Any) -> Any:
        """Open a connection; the lock of an earlier one is gone with it."""
        self._drop_lock()
        return super().get_new_connection(conn_params)
