"""A backup of SQLite: one database file, as it stood at one instant, written while others read and write.

Triggers and counters are in it. It must not know who may call it.
"""

import os
import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

from django.db import connection

MAGIC = b"SQLite format 3\0"

Applied = Set[tuple[str, str]]


class BackupUnusable(Exception):
    """The file is no backup that this database can take. Nothing was changed."""


def write(path: Path) -> None:
    """Write the database to an empty file, as of one instant."""
    apart = connection.copy()
    try:
        with apart.cursor() as cursor:
            cursor.execute("VACUUM INTO %s", [str(path)])
    finally:
        apart.close()


def applied_migrations(path: Path) -> Applied:
    """Give the migrations that made a backup's tables.

    :raises BackupUnusable: it is damaged, or none of ours.
    """
    with _opened(path) as database:
        try:
            if (problem := database.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise BackupUnusable(f"{path} is damaged: {problem}. Nothing was changed.")
            return {(app, name) for app, name in database.execute("SELECT app, name FROM django_migrations")}
        except _library().Error as error:
            raise BackupUnusable(f"{path} is no backup of NOVAWF: {error}. Nothing was changed.") from error


def newest_entry(path: Path) -> int:
    """Give the id of a backup's newest journal entry; 0: it has none."""
    with _opened(path) as database:
        return int(database.execute("SELECT coalesce(max(id), 0) FROM safety_auditentry").fetchone()[0])


def put_in_place(path: Path, epoch: str, aside: str) -> str:
    """Replace the database by a backup and give the name under which the old one is kept; `aside` empty: it isn't.

    1. Copy the backup beside the database, with the new epoch, and flush it. 2. See that nobody has the old one open, with its
    log written back. 3. Move the old one aside, and the new one in.

    :raises BackupUnusable: somebody has the database open.
    """
    place = Path(str(connection.settings_dict["NAME"]))
    connection.close()
    draft = place.with_name(f"{place.name}.restoring")
    try:
        draft.touch(mode=0o600)
        shutil.copyfile(path, draft)
        with _opened(draft, write=True) as database:
            database.execute("UPDATE safety_installation SET epoch = ?", [epoch])
            database.commit()
        flush(draft)
        kept = ""
        if place.exists():
            _close_log(place)
            if aside:
                kept = f"{place.name}.{aside}"
                place.rename(place.with_name(kept))
        draft.rename(place)
        flush(place.parent)
        return kept
    finally:
        draft.unlink(missing_ok=True)


def _close_log(place: Path) -> None:
    """Write the log back into the file; that succeeds only where nobody else has it open."""
    with _opened(place, write=True, timeout=1.0) as database:
        try:
            mode = database.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        except _library().OperationalError:
            mode = ""
        if mode != "delete":
            raise BackupUnusable(f"Somebody has {place} open, perhaps the web server; stop it. Nothing was changed.")


class _opened:
    """A connection of our own that is closed at the end."""

    def __init__(self, path: Path, *, write: bool = False, timeout: float = 5.0) -> None:
        self._address = f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}"
        self._timeout = timeout

    def __enter__(self) -> Any:
        self._connection = _library().connect(self._address, uri=True, timeout=self._timeout)
        return self._connection

    def __exit__(self, *error: object) -> None:
        self._connection.close()


def _library() -> Any:
    return connection.Database  # type: ignore[attr-defined] # the one in use: see novawf_site.sqlite


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
