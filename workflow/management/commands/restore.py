"""`manage.py restore FILE`: put a backup in the database's place, while NOVAWF stands still. Journalled as `cli:<user>`.

Exit codes: 0 done; 1 refused, nothing was changed; 2 the command line is wrong.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError

from safety.stream_client import StreamError
from workflow.hosting import backups
from workflow.hosting.backup_sqlite import BackupUnusable
from workflow.hosting.standstill import StillRunning
from workflow.management import console


class Command(BaseCommand):
    help = "Put a backup in the place of the database and empty the stream server, which is rebuilt from it. Stop NOVAWF first."
    requires_system_checks: list[str] = []  # the database may be the trouble

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--replace", action="store_true", help="the database holds a journal already: replace it")
        parser.add_argument(
            "--leave-streams", action="store_true", help="the stream server is empty, or another: leave it alone"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        """Do it, and print what became of the old database."""
        try:
            with console.acting():
                done = backups.restore(
                    file, now=console.now(), replace=options["replace"], leave_streams=options["leave_streams"]
                )
        except (BackupUnusable, StillRunning, StreamError, OSError) as refusal:
            raise CommandError(str(refusal)) from refusal
        except DatabaseError as error:
            text = (
                f"The database could not be read or written: {error}. If its file is damaged, move it away and restore again."
            )
            raise CommandError(text) from error
        if options["json"]:
            console.print_json(self, asdict(done))
            return
        self.stdout.write(f"Restored: the journal up to entry {done.newest_entry}, and that it was restored.")
        if done.lost_entries:
            self.stdout.write(f"{done.lost_entries} entries that were written after the backup are not in it.")
        if done.kept_as:
            self.stdout.write(f"The old database is kept as {done.kept_as}; remove it when all is well.")
