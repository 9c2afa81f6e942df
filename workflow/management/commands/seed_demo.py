"""`manage.py seed_demo [--days N] [--remove]`: a labelled demonstration team with history, and away with it.

Exit codes: 0 done; 1 refused; 2 the command line is wrong.
"""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workflow import demo_team
from workflow.management import console


class Command(BaseCommand):
    help = "Make the demonstration team with a history of some days, or remove it. It is in no real figure and on no stream."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, default=14, help=f"days of history (default 14, at most {demo_team.MOST_DAYS})")
        parser.add_argument("--remove", action="store_true", help="delete its rows; the journal keeps its entries")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, days: int, remove: bool, **options: Any) -> None:
        """Do it, and print how much."""
        with console.acting():
            now = console.now()
            done = dict(demo_team.remove(now=now).rows) if remove else demo_team.seed(days=days, now=now)
        if options["json"]:
            console.print_json(self, done)
        else:
            what = ", ".join(f"{count} {name}" for name, count in done.items())
            self.stdout.write(f"{'removed' if remove else 'made'}: {what}")
