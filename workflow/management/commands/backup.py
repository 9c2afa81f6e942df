"""`manage.py backup FILE`: the whole database at one instant into one file, while everything runs. Journalled as `cli:<user>`.

Exit codes: 0 done; 1 not done, nothing was written; 2 the command line is wrong.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from workflow.hosting import backups
from workflow.hosting.backup_sqlite import BackupUnusable
from workflow.management import console


class Command(BaseCommand):
    help = (
        "Write a backup of the database (SQLite or PostgreSQL) to a file, readable by its owner only. Nothing need be stopped."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--force", action="store_true", help="write over a file that is there")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        """Write it, and print how large it is."""
        try:
            with console.acting():
                made = backups.make(file, now=console.now(), replace=options["force"])
        except BackupUnusable as refusal:
            raise CommandError(str(refusal)) from refusal
        except OSError as error:
            raise CommandError(f"{file} can't be written: {error}.") from error
        if options["json"]:
            console.print_json(self, asdict(made))
        else:
            self.stdout.write(f"{made.file}: {made.bytes:,} bytes, the journal up to entry {made.newest_entry}.")
