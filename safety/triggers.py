"""The database's own refusal to change the journal and its seals: triggers, for SQLite and PostgreSQL.

Installed after every migrate, since SQLite drops a table's triggers when Django remakes the table; readiness fails while one is
missing. One way leads past them: entries of a range whose seal has an archive that says `deleting` may be deleted
(safety/pruning.py). Whoever may drop tables may drop triggers too: the seals, not these, show that. A migration that remakes
one of these three tables on SQLite calls `remove` first, since a trigger speaks of the two others.
"""

from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from safety.models import AuditEntry, AuditSeal, SealArchive

_ENTRIES, _SEALS, _ARCHIVES = (model._meta.db_table for model in (AuditEntry, AuditSeal, SealArchive))
_TABLES = (_ENTRIES, _SEALS)
_FUNCTION = "safety_refuse_journal_change"
_PRUNE_FUNCTION = "safety_refuse_journal_deletion"
_REFUSAL = "The journal is append-only; nothing was changed."
_NOT_PRUNED = (
    f"NOT EXISTS (SELECT 1 FROM {_ARCHIVES} a JOIN {_SEALS} s ON s.number = a.seal_id "  # noqa: S608
    "WHERE a.deleting AND a.pruned_at IS NULL AND OLD.id BETWEEN s.first_id AND s.last_id)"
)
_DELETION = f"{_ENTRIES}_no_delete"
# trigger name -> (its table, when it fires); on SQLite with a condition: the deletion of an archived range passes, and, since
# REPLACE deletes without firing delete triggers, an insert over a row that is there is refused, too
_ROW_TRIGGERS = {
    f"{table}_no_{event}": (table, f"BEFORE {event.upper()} ON {table}") for table in _TABLES for event in ("update", "delete")
}
_SQLITE_TRIGGERS = (
    _ROW_TRIGGERS
    | {_DELETION: (_ENTRIES, f"BEFORE DELETE ON {_ENTRIES} WHEN {_NOT_PRUNED}")}
    | {
        f"{table}_no_replace": (
            table,
            f"BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key})",  # noqa: S608
        )
        for table, key in ((_ENTRIES, "id"), (_SEALS, "number"))
    }
)
_POSTGRESQL_TRIGGERS = _ROW_TRIGGERS | {f"{table}_no_truncate": (table, f"BEFORE TRUNCATE ON {table}") for table in _TABLES}


def install(using: str = "default") -> None:
    """Create what is missing; do nothing where all is in place."""
    connection = connections[using]
    absent = missing(using)
    if not absent:
        return
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            _install_postgresql(cursor, absent)
            return
        wanted = _wanted(connection)
        for name in absent:
            event = wanted[name][1]
            cursor.execute(f"DROP TRIGGER IF EXISTS {name}")  # of an earlier version
            cursor.execute(f"CREATE TRIGGER {name} {event} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END")


def _install_postgresql(cursor: CursorWrapper, absent: list[str]) -> None:
    refuse = f"RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation'"
    cursor.execute(f"CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refuse}; END $$")
    cursor.execute(
        f"CREATE OR REPLACE FUNCTION {_PRUNE_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {_NOT_PRUNED} THEN {refuse}; END IF; RETURN OLD; END $$"
    )
    for name in absent:
        table, event = _POSTGRESQL_TRIGGERS[name]
        each = "STATEMENT" if "TRUNCATE" in event else "ROW"
        function = _PRUNE_FUNCTION if name == _DELETION else _FUNCTION
        # made anew, so that one that was disabled is enabled again
        cursor.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
        cursor.execute(f"CREATE TRIGGER {name} {event} FOR EACH {each} EXECUTE FUNCTION {function}()")
        # fires in a session that plays a replica, too
        cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def missing(using: str = "default") -> list[str]:
    """Give the names of the triggers that should guard the journal and don't, or are an earlier version's."""
    connection = connections[using]
    present = {name for name, current in _present(connection).items() if current}
    return sorted(set(_wanted(connection)) - present)


def _wanted(connection: BaseDatabaseWrapper) -> dict[str, tuple[str, str]]:
    """Give the triggers of the tables that are there: a database on its way up from an earlier version lacks some."""
    there = set(connection.introspection.table_names())
    kinds = _POSTGRESQL_TRIGGERS if connection.vendor == "postgresql" else _SQLITE_TRIGGERS
    if _ARCHIVES not in there and connection.vendor == "sqlite":
        kinds = kinds | {_DELETION: _ROW_TRIGGERS[_DELETION]}  # a trigger that names an absent table stops every renaming
    return {name: (table, event) for name, (table, event) in kinds.items() if table in there}


def _present(connection: BaseDatabaseWrapper) -> dict[str, bool]:
    """Give the triggers that are there and enabled, and whether each is this version's."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT t.tgname, p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid IN "
                "(to_regclass(%s), to_regclass(%s)) AND t.tgenabled = 'A' AND NOT t.tgisinternal",
                list(_TABLES),
            )
            return {name: (function == _PRUNE_FUNCTION) == (name == _DELETION) for name, function in cursor.fetchall()}
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN (%s, %s)", list(_TABLES))
        found = dict(cursor.fetchall())
    wanted = _wanted(connection)
    return {name: name in wanted and f"{wanted[name][1]} BEGIN" in sql for name, sql in found.items()}


def remove(using: str = "default") -> None:
    """Drop the triggers, so that a test can empty the database or a migration remake a table. Nothing else may call this."""
    connection = connections[using]
    with connection.cursor() as cursor:
        for name in sorted(_present(connection)):
            table = (_POSTGRESQL_TRIGGERS | _SQLITE_TRIGGERS)[name][0]
            cursor.execute(f"DROP TRIGGER {name} ON {table}" if connection.vendor == "postgresql" else f"DROP TRIGGER {name}")


def install_after_migrate(using: str = "default", **_: Any) -> None:
    """Receive post_migrate, and see to the triggers."""
    install(using)
