"""Backup and restore: the whole database at one instant into one file, while everything runs; and back, at a standstill.

A restore makes the stream server be rebuilt from the database: a new epoch, and none of our streams left on it, since a server
that knows more than the database would hand in again what was done after the backup. Secrets in `var/` are in no backup.
"""

import os
import secrets
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType

from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.models import Max

from safety import anchors, audit, triggers
from safety.audit import Entry
from safety.models import AuditEntry, AuditSeal, Installation
from safety.stream_client import StreamClient, StreamError
from workflow.hosting import backup_postgresql, backup_sqlite
from workflow.hosting.backup_sqlite import BackupUnusable
from workflow.hosting.standstill import standstill

BACKUP_MADE = "safety.backup.made"
BACKUP_RESTORED = "safety.backup.restored"

_MODULES: dict[str, ModuleType] = {"sqlite": backup_sqlite, "postgresql": backup_postgresql}
_OURS = ("nova.*", "nova:*", "novawf:*", "workflow:state:*")  # the keys we write to a stream server
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made or looked at."""

    file: str
    bytes: int
    newest_entry: int  # of the journal


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    newest_entry: int
    lost_entries: int  # of the journal, written after the backup: no longer in the database
    kept_as: str  # the file to which the old database was moved; empty: there was none, or it is not kept


def make(path: Path, *, now: datetime, replace: bool = False) -> Backup:
    """Write a backup, whole or not at all, readable by its owner only; the journal hears of it.

    :raises BackupUnusable: there is such a file already. :raises OSError: it can't be written.
    """
    if path.exists() and not replace:
        raise BackupUnusable(f"{path} is there already. Nothing was written.")
    draft = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        draft.touch(mode=0o600, exist_ok=False)
        module = _MODULES[connection.vendor]
        module.write(draft)
        backup_sqlite.flush(draft)
        newest = module.newest_entry(draft)
        draft.rename(path)
        backup_sqlite.flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    made = Backup(str(path), path.stat().st_size, newest)
    with transaction.atomic():
        audit.record([Entry(BACKUP_MADE, object_type="backup", object_id=path.name[:128], after=asdict(made))], now=now)
    return made


def restore(path: Path, *, now: datetime, replace: bool = False, leave_streams: bool = False) -> Restored:
    """Put a backup in the database's place and bring its tables up to date.

    1. Look at the backup. 2. See that everything stands still, and keep it so. 3. Empty the stream server of what is ours.
    4. Replace the database. 5. Migrate, see that the journal is guarded, and write there what was done.

    `replace`: the database holds a journal already. `leave_streams`: the stream server is empty, or another.

    :raises BackupUnusable: it can't be restored here. :raises StillRunning: something runs. :raises StreamError: see 3.
    """
    module = _module_of(path)
    _refuse_newer(module.applied_migrations(path))
    newest, aside = module.newest_entry(path), f"before-restore-{now:%Y%m%dT%H%M%S}"
    with standstill(now):
        present = _newest_present()
        if present and not replace:
            raise BackupUnusable(
                f"The database has a journal of {present} entries, the backup's newest is {newest}; to put the backup in its "
                "place use --replace. Nothing was changed."
            )
        if not leave_streams:
            _forget_streams(aside)
        kept = module.put_in_place(path, secrets.token_hex(8), aside if present else "")
        call_command("migrate", interactive=False, verbosity=0)
        triggers.install()
        anchors.note_restored(AuditSeal.objects.aggregate(last=Max("number"))["last"] or 0, now=now)
        done = Restored(newest, max(present - newest, 0), kept)
        with transaction.atomic():
            epoch = Installation.objects.values_list("epoch", flat=True).first()
            after = asdict(done) | {"epoch": epoch, "file": path.name}
            audit.record([Entry(BACKUP_RESTORED, object_type="backup", object_id=path.name[:128], after=after)], now=now)
    return done


def _module_of(path: Path) -> ModuleType:
    """Give what reads the file.

    :raises BackupUnusable: it is no backup, or one of the other database.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(16)
    except OSError as error:
        raise BackupUnusable(f"{path} can't be read: {error}. Nothing was changed.") from error
    kinds = {vendor for vendor, module in _MODULES.items() if begins.startswith(module.MAGIC)}
    if not kinds:
        raise BackupUnusable(f"{path} is no backup of NOVAWF. Nothing was changed.")
    if connection.vendor not in kinds:
        text = f"{path} is a backup of {kinds.pop()}, this installation uses {connection.vendor}."
        raise BackupUnusable(f"{text} Nothing was changed.")
    return _MODULES[connection.vendor]


def _refuse_newer(applied: backup_sqlite.Applied) -> None:
    known = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    ours = {app for app, _ in known}
    if newer := sorted(f"{app}.{name}" for app, name in applied if app in ours and (app, name) not in known):
        raise BackupUnusable(
            f"The backup was made by a newer version (it has {', '.join(newer[:3])}); install that one. Nothing was changed."
        )


def _newest_present() -> int:
    if AuditEntry._meta.db_table not in connection.introspection.table_names():
        return 0
    return AuditEntry.objects.order_by("-id").values_list("id", flat=True).first() or 0


def _forget_streams(aside: str) -> None:
    """Take what is ours from the stream server; the embedded one, which stands still too, gets new files.

    :raises StreamError: it could not be asked; nothing was changed.
    """
    if settings.EMBEDDED_STREAM_SERVER:
        place = Path(settings.VAR_DIR) / "stream"
        if place.exists():
            shutil.move(place, place.with_name(f"stream-{aside}"))
        return
    client = StreamClient(name="novawf-restore")
    try:
        for pattern in _OURS:
            cursor: bytes = b"0"
            while True:
                cursor, keys = client.call("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE)
                if keys:
                    client.call("DEL", *keys)
                if cursor in (b"0", 0):
                    break
    except StreamError as error:
        raise StreamError(
            f"{error} It must be emptied of our streams before the backup is restored; if it is empty already, use "
            "--leave-streams. The database was not changed."
        ) from error
    finally:
        client.close()
