"""`manage.py roll_ups`: say how far the journal is summed up, sum up what is left, or make all roll-ups anew.

Exit codes: 0 done; 1 refused.
"""

import threading
import time
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Max

from reporting import roll_ups
from reporting.models import RollUp, RollUpCursor
from reporting.settled import Settled
from safety.models import AuditEntry
from workflow.management import console


class Command(BaseCommand):
    help = "Say how far the journal is summed up; catch-up sums up what is left; rebuild makes all roll-ups anew."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what to do."""
        parser.add_argument("verb", nargs="?", choices=["status", "catch-up", "rebuild"], default="status")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, and say how things stand then."""
        begun, settled, read = time.monotonic(), Settled(threading.Event().wait), 0
        if options["verb"] == "rebuild":
            try:
                read = roll_ups.rebuild(now=console.now(), settled=settled)
            except roll_ups.JournalIsGone as refusal:
                raise CommandError(str(refusal)) from refusal
        elif options["verb"] == "catch-up":
            keeper = roll_ups.RollUpKeeper(settled)
            while step := keeper.turn(now=console.now()):
                read += step
        cursor = RollUpCursor.objects.filter(id=1).first()
        newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
        position = cursor.position if cursor else 0
        found = {
            "position": position,
            "newest": newest,
            "behind": max(0, newest - position),
            "data_until": roll_ups.data_until(now=console.now()),
            "rows": RollUp.objects.count(),
            "read": read,
            "seconds": round(time.monotonic() - begun, 1),
        }
        if options["json"]:
            console.print_json(self, found)
            return
        if read:
            self.stdout.write(f"{read:,} entries read in {found['seconds']} s.")
        self.stdout.write(
            f"Summed up to entry {position:,} of {newest:,} ({found['behind']:,} behind), in {found['rows']:,} rows; "
            f"figures reach up to {found['data_until'] or 'nothing yet'}."
        )
