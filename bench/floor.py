"""The least that the audited work costs on this machine: the same life of a task by hand, without any framework.

Accept, claim, progress, end: each a row change and an audit row in one transaction, then a stream message, in groups of 100, by
one process. What NOVAWF reaches is stated as a share of it too, since that is the same on a fast machine and on a slow one.
"""

import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from bench import outside
from bench.databases import Database

_GROUP = 100
_STREAM = "bench:floor"
_CLAIM = (
    "UPDATE floor_task SET status = 'running' WHERE id IN (SELECT id FROM floor_task WHERE status = 'pending' "
    "ORDER BY priority DESC, id LIMIT {one}) RETURNING id"
)
# each statement for a whole group: SQLite is quickest row by row, PostgreSQL by array
_SQLITE = {
    "accept": "INSERT INTO floor_task VALUES (?, 'task', 'pending', 3, 0, '{}')",
    "audit": "INSERT INTO floor_audit (task, action, actor, data) VALUES (?, ?, 'by hand', '{}')",
    "change": "UPDATE floor_task SET progress = ?2, status = ?3 WHERE id = ?1",
}
_POSTGRESQL = {
    "accept": "INSERT INTO floor_task SELECT unnest(%s::bigint[]), 'task', 'pending', 3, 0, '{}'",
    "audit": "INSERT INTO floor_audit (task, action, actor, data) SELECT unnest(%s::bigint[]), %s, 'by hand', '{}'",
    "change": "UPDATE floor_task SET progress = c.progress, status = c.status "
    "FROM (SELECT unnest(%s::bigint[]) AS id, %s::int AS progress, %s AS status) AS c WHERE floor_task.id = c.id",
}
_TABLES = (
    "CREATE TABLE floor_task (id bigint PRIMARY KEY, title text, status text, priority int, progress int, payload text)",
    "CREATE INDEX floor_next ON floor_task (status, priority DESC, id)",
    "CREATE TABLE floor_audit (id {key}, task bigint REFERENCES floor_task, action text, actor text, data text)",
    "CREATE INDEX floor_audit_task ON floor_audit (task)",
)

Many = Callable[..., None]  # the name of a statement, the ids of a group, and what all of them have in common


def by_hand(database: Database, stream_url: str, *, tasks: int = 3_000, rounds: int = 3) -> float:
    """Give the tasks a second of the median round."""
    server = outside.client(stream_url)
    rates = []
    with _connection(database) as (connection, key, many):
        for table in _TABLES:
            connection.execute(table.format(key=key))
        claim = _CLAIM.format(one="%s" if database.server_pid else "?")
        for number in range(rounds):
            begun = time.monotonic()
            for start in range(number * tasks, (number + 1) * tasks, _GROUP):
                _life(connection, many, claim, server, list(range(start, start + _GROUP)))
            rates.append(tasks / (time.monotonic() - begun))
    server.delete(_STREAM)
    return statistics.median(rates)


@contextmanager
def _connection(database: Database) -> Iterator[tuple[Any, str, Many]]:
    """Give a connection in autocommit, how it numbers rows, and what runs a statement for a whole group."""
    if database.server_pid:
        with psycopg.connect(database.url, autocommit=True) as postgres:

            def by_array(name: str, ids: list[int], *common: Any) -> None:
                postgres.execute(_POSTGRESQL[name].encode(), [ids, *common])

            yield postgres, "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", by_array
        return
    with closing(sqlite3.connect(database.folder / "floor.sqlite3", isolation_level=None)) as sqlite:
        sqlite.execute("PRAGMA journal_mode=wal")
        sqlite.execute("PRAGMA synchronous=full")

        def by_row(name: str, ids: list[int], *common: Any) -> None:
            sqlite.executemany(_SQLITE[name], [(task, *common) for task in ids])

        yield sqlite, "integer PRIMARY KEY", by_row


def _life(connection: Any, many: Many, claim: str, server: Any, ids: list[int]) -> None:
    """Take a group of tasks through their four changes."""
    with _transaction(connection):
        many("accept", ids)
        many("audit", ids, "accepted")
    _publish(server, ids, "accepted")
    with _transaction(connection):
        claimed = [row[0] for row in connection.execute(claim, [len(ids)]).fetchall()]
        many("audit", claimed, "claimed")
    _publish(server, claimed, "claimed")
    for action, progress, status in (("progressed", 50, "running"), ("completed", 100, "completed")):
        with _transaction(connection):
            many("change", claimed, progress, status)
            many("audit", claimed, action)
        _publish(server, claimed, action)


@contextmanager
def _transaction(connection: Any) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE" if isinstance(connection, sqlite3.Connection) else "BEGIN")
    yield
    connection.execute("COMMIT")


def _publish(server: Any, ids: list[int], action: str) -> None:
    pipeline = server.pipeline(transaction=False)
    for task in ids:
        pipeline.execute_command("XADD", _STREAM, "MAXLEN", "~", "100000", "*", "task", task, "action", action)
    pipeline.execute()
