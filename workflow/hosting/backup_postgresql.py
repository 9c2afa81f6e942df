"""A backup of PostgreSQL: a ZIP of every table's COPY text as of one snapshot, and a manifest of how the tables were made.

No program of PostgreSQL's is needed, and the servers' versions may differ: a restore makes the tables by the migrations of the
backup's day, fills them, then migrates on. It must not know who may call it.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor

from safety import triggers
from workflow.hosting.backup_sqlite import Applied, BackupUnusable

MAGIC = b"PK\x03\x04"
_MANIFEST = "manifest.json"  # written last: without it a backup is not whole
_FORMAT = 1
_CHUNK = 1 << 16


def write(path: Path) -> None:
    """Write every table of ours as of one snapshot; others read and write meanwhile."""
    apart = connection.copy()
    try:
        apart.ensure_connection()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
            apart.set_autocommit(False)
            with apart.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                manifest: dict[str, Any] = {"format": _FORMAT, "tables": {}}
                for table in _tables(cursor):
                    columns = manifest["tables"][table] = _columns(cursor, table)
                    names = ", ".join(map(_quoted, columns))
                    with (
                        archive.open(f"{table}.copy", "w", force_zip64=True) as file,
                        cursor.copy(f"COPY {_quoted(table)} ({names}) TO STDOUT") as copy,
                    ):
                        for data in copy:
                            file.write(data)
                cursor.execute("SELECT app, name FROM django_migrations ORDER BY id")
                manifest["migrations"] = cursor.fetchall()
                cursor.execute(
                    "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = current_schema() "
                    "AND last_value IS NOT NULL ORDER BY sequencename"
                )
                manifest["sequences"] = dict(cursor.fetchall())
                cursor.execute("SELECT coalesce(max(id), 0) FROM safety_auditentry")
                manifest["newest_entry"] = cursor.fetchone()[0]
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
            apart.rollback()
    finally:
        apart.close()


def applied_migrations(path: Path) -> Applied:
    """Give the migrations that made a backup's tables.

    :raises BackupUnusable: it is damaged, or none of ours.
    """
    return {(app, name) for app, name in _manifest(path, whole=True)["migrations"]}


def newest_entry(path: Path) -> int:
    """Give the id of a backup's newest journal entry; 0: it has none."""
    return int(_manifest(path)["newest_entry"])


def put_in_place(path: Path, epoch: str, aside: str) -> str:
    """Replace all tables of ours by a backup's, in one transaction, with the new epoch. Nothing of the old is kept: "".

    1. Drop the tables. 2. Make them anew by the backup's migrations, empty. 3. Fill them, set the counters. 4. Guard the
    journal.

    :raises BackupUnusable: somebody else is connected to the database.
    """
    manifest = _manifest(path)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        if others := cursor.fetchone()[0]:
            raise BackupUnusable(f"{others} others are connected to the database; stop them. Nothing was changed.")
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or what migrations insert forbids the next one to alter the table
        if there := _tables(cursor):
            cursor.execute(f"DROP TABLE {', '.join(map(_quoted, there))} CASCADE")
        _make_tables(manifest["migrations"])
        cursor.execute(f"TRUNCATE {', '.join(map(_quoted, _tables(cursor)))}")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        _fill(cursor, path, manifest)
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for sequence, value in manifest["sequences"].items():
            cursor.execute("SELECT setval(to_regclass(%s), %s) WHERE to_regclass(%s) IS NOT NULL", [sequence, value, sequence])
        cursor.execute("UPDATE safety_installation SET epoch = %s", [epoch])
        triggers.install()
    return ""


def _make_tables(migrations: list[tuple[str, str]]) -> None:
    executor = MigrationExecutor(connection)
    recorded = {(app, name) for app, name in migrations if (app, name) in executor.loader.graph.nodes}
    children = executor.loader.graph.node_map
    leaves = [
        node
        for node in sorted(recorded)
        if not any(child.key in recorded and child.key[0] == node[0] for child in children[node].children)
    ]
    executor.migrate(leaves)


def _fill(cursor: Any, path: Path, manifest: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(path) as archive:
        for table, columns in manifest["tables"].items():
            names = ", ".join(map(_quoted, columns))
            with (
                archive.open(f"{table}.copy") as file,
                cursor.copy(f"COPY {_quoted(table)} ({names}) FROM STDIN") as copy,
            ):
                while data := file.read(_CHUNK):  # a damaged file is noticed at its end, and nothing is changed
                    copy.write(data)


def _manifest(path: Path, *, whole: bool = False) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            manifest: dict[str, Any] = json.loads(archive.read(_MANIFEST))
            found = manifest["format"]
            if found != _FORMAT:
                raise BackupUnusable(f"{path} has the format {found}; this version reads {_FORMAT}. Nothing was changed.")
            if whole and (broken := archive.testzip()):
                raise BackupUnusable(f"{path} is damaged in {broken}. Nothing was changed.")
            return manifest
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, OSError, EOFError) as error:
        raise BackupUnusable(f"{path} is no whole backup of NOVAWF: {error}. Nothing was changed.") from error


def _tables(cursor: Any) -> list[str]:
    """Give the tables in the database that belong to installed apps, also of a version that had more of them."""
    prefixes = tuple(f"{app.label}_" for app in apps.get_app_configs())
    names = connection.introspection.table_names(cursor)
    return sorted(name for name in names if name.startswith((*prefixes, "django_")))


def _columns(cursor: Any, table: str) -> list[str]:
    cursor.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = %s "
        "AND is_generated = 'NEVER' ORDER BY ordinal_position",
        [table],
    )
    return [row[0] for row in cursor.fetchall()]


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)
