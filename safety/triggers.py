"""The database's own refusal to change the journal: triggers on the audit table, for SQLite and PostgreSQL.

Installed after every migrate, since SQLite drops a table's triggers when Django remakes the table; readiness fails while one is
missing. Whoever may drop tables may drop triggers too: the seals, not these, show that.
"""

from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from safety.models import AuditEntry

_TABLE = AuditEntry._meta.db_table
_FUNCTION = "safety_refuse_journal_change"
_REFUSAL = "The journal is append-only; nothing was changed."
# trigger name -> when it fires
_ROW_TRIGGERS = {
    f"{_TABLE}_no_update": f"BEFORE UPDATE ON {_TABLE}",
    f"{_TABLE}_no_delete": f"BEFORE DELETE ON {_TABLE}",
}
# SQLite: REPLACE deletes without firing delete triggers, so an insert over a row that is there is refused, too
_SQLITE_TRIGGERS = _ROW_TRIGGERS | {
    f"{_TABLE}_no_replace": f"BEFORE INSERT ON {_TABLE} WHEN EXISTS (SELECT 1 FROM {_TABLE} WHERE id = NEW.id)"  # noqa: S608
}
_POSTGRESQL_TRIGGERS = _ROW_TRIGGERS | {f"{_TABLE}_no_truncate": f"BEFORE TRUNCATE ON {_TABLE}"}


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
        for name in absent:
            cursor.execute(
                f"CREATE TRIGGER IF NOT EXISTS {name} {_SQLITE_TRIGGERS[name]} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            )


def _install_postgresql(cursor: CursorWrapper, absent: list[str]) -> None:
    cursor.execute(
        f"CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation'; END $$"
    )
    for name in absent:
        event = _POSTGRESQL_TRIGGERS[name]
        each = "STATEMENT" if "TRUNCATE" in event else "ROW"
        # made anew, so that one that was disabled is enabled again
        cursor.execute(f"DROP TRIGGER IF EXISTS {name} ON {_TABLE}")
        cursor.execute(f"CREATE TRIGGER {name} {event} FOR EACH {each} EXECUTE FUNCTION {_FUNCTION}()")
        # fires in a session that plays a replica, too
        cursor.execute(f"ALTER TABLE {_TABLE} ENABLE ALWAYS TRIGGER {name}")


def missing(using: str = "default") -> list[str]:
    """Give the names of the triggers that should guard the journal and don't."""
    connection = connections[using]
    wanted = _POSTGRESQL_TRIGGERS if connection.vendor == "postgresql" else _SQLITE_TRIGGERS
    return sorted(set(wanted) - _present(connection))


def _present(connection: BaseDatabaseWrapper) -> set[str]:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgenabled = 'A' AND NOT tgisinternal",
                [_TABLE],
            )
        else:
            cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s", [_TABLE])
        return {row[0] for row in cursor.fetchall()}


def remove(using: str = "default") -> None:
    """Drop the triggers, so that a test database can be emptied. Nothing else may call this."""
    connection = connections[using]
    with connection.cursor() as cursor:
        for name in sorted(_present(connection)):
            cursor.execute(f"DROP TRIGGER {name} ON {_TABLE}" if connection.vendor == "postgresql" else f"DROP TRIGGER {name}")


def install_after_migrate(using: str = "default", **_: Any) -> None:
    """Receive post_migrate, and see to the triggers if the table is there."""
    connection = connections[using]
    if _TABLE in connection.introspection.table_names():
        install(using)
