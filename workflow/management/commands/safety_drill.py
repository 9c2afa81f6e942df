"""`manage.py safety_drill`: would every Nova hear a halt? Asks without stopping anybody, measures, keeps the result.

Exit codes: 0 all confirmed; 1 some did not; 2 the command line is wrong.
"""

import getpass
import json
import statistics
from datetime import UTC, datetime
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety import audit
from workflow import halts
from workflow.api.halts import show_halt
from workflow.errors import WorkflowError
from workflow.management.commands.nova import print_halt, wait_for
from workflow.models import Halt


class Command(BaseCommand):
    help = (
        "A halt without effect: measures how long every Nova takes to show that it would hear one. Exit code 1: some did not."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take whom to ask."""
        parser.add_argument("--team", default="", help="only a team's Novas (default: the fleet)")
        parser.add_argument("--nova", default="", help="only one Nova")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, team: str, nova: str, **options: Any) -> None:
        """Ask, wait until all have answered or are unreachable, print."""
        if team and nova:
            raise CommandError("Give --team or --nova, not both. Nothing was asked.", returncode=2)
        scope, target = ("team", team) if team else ("nova", nova) if nova else ("fleet", "")
        try:
            with audit.acting(f"cli:{getpass.getuser()}"[:128]):
                drill = halts.order(Halt.Kind.HALT, scope, target, reason="safety drill", now=_now(), drill=True)
        except WorkflowError as refusal:
            raise CommandError(str(refusal)) from refusal
        wait_for([drill], halts.UNREACHABLE_AFTER.total_seconds() + 5)
        confirmed = drill.confirmations.exclude(confirmed_at=None).values_list("confirmed_at", flat=True)
        seconds = sorted((at - drill.requested_at).total_seconds() for at in confirmed if at)
        shown = show_halt(halts.get(drill.pk))
        shown["seconds"] = {"median": statistics.median(seconds), "most": seconds[-1]} if seconds else None
        if options["json"]:
            self.stdout.write(json.dumps(shown, default=str))
        else:
            print_halt(self, shown)
            if seconds:
                self.stdout.write(f"Confirmed within {statistics.median(seconds):.2f} s (median), {seconds[-1]:.2f} s (most).")
        if shown["counts"]["confirmed"] != len(shown["novas"]):
            raise SystemExit(1)


def _now() -> datetime:
    return datetime.now(UTC)
