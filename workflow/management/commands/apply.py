"""`manage.py apply -f FILE`: put a fleet file in force: policies, personalities, Novas, objectives. Journalled as `cli:<user>`.

Exit codes: 0 done, or nothing to do; 1 refused, nothing was changed; 2 the command line is wrong; with --dry-run 3: it would
change something.
"""

import sys
from pathlib import Path
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from workflow import fleet_file
from workflow.management import console

WOULD_CHANGE = 3


class Command(BaseCommand):
    help = "Put a fleet file in force, all of it or nothing; print what changed. What it does not name is left alone."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the file, and whether only to look."""
        parser.add_argument("-f", "--file", required=True, help="the file; - : standard input")
        parser.add_argument("--dry-run", action="store_true", help="only print what would change; exit code 3: something would")
        parser.add_argument("--reason", default="", help="why; kept in the journal")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, file: str, dry_run: bool, **options: Any) -> None:
        """Do it, and print the difference."""
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file} can't be read: {error}. Nothing was changed.") from error
        with console.acting():
            content = fleet_file.read_fleet(text)
            changes = fleet_file.apply_fleet(content, now=console.now(), reason=options["reason"], rehearse=dry_run)
        if options["json"]:
            shown = [
                {"verb": c.verb, "kind": c.kind, "name": c.name, "fields": {n: list(v) for n, v in c.fields.items()}}
                for c in changes
            ]
            console.print_json(self, {"applied": not dry_run, "changes": shown})
        else:
            for change in changes:
                self.stdout.write("\n".join(change.lines()))
            what = "would change" if dry_run else "changed"
            self.stdout.write(f"{len(changes)} {what}." if changes else "Nothing to change.")
        if dry_run and changes:
            raise SystemExit(WOULD_CHANGE)
