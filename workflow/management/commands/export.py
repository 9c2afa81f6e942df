"""`manage.py export`: the configuration as a fleet file for `manage.py apply`: no secrets, no history.

Exit codes: 0 done; 1 the file could not be written; 2 the command line is wrong.
"""

from pathlib import Path
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from workflow import fleet_file


class Command(BaseCommand):
    help = "Print policies, personalities, Novas and objectives as a fleet file; the same rows give the same text."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--out", type=Path, help="the file to write (default: standard output)")

    def handle(self, *args: Any, out: Path | None, **options: Any) -> None:
        """Print or write it."""
        text = fleet_file.export_fleet()
        if out is None:
            self.stdout.write(text, ending="")
            return
        try:
            out.write_text(text)
        except OSError as error:
            raise CommandError(f"{out} can't be written: {error}.") from error
        self.stdout.write(str(out))
