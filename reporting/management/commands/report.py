"""`manage.py report`: make a report and write it as a file, or to the standard output.

Exit codes: 0 done; 1 refused; 2 the command line is wrong (docs/cli.md).
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser
from rest_framework.exceptions import ValidationError

from reporting import exports, reports
from reporting.api.dashboards import period_of
from reporting.core.metrics import Period
from reporting.scope import Scope, ScopeUnknown
from workflow.management import console


class Command(BaseCommand):
    help = "Make a report of the fleet, a team or a Nova, and write it as csv, xlsx or json."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what the report is of, and what file it becomes."""
        parser.add_argument("--period", default="7d", help="how far back: 24h, 7d, 30d, … (default 7d)")
        parser.add_argument("--format", choices=sorted(exports.FORMATS), default="csv", help="default csv")
        whose = parser.add_mutually_exclusive_group()
        whose.add_argument("--nova", default="", help="of this Nova only")
        whose.add_argument("--team", default="", help="of this team only")
        parser.add_argument("--out", default="", metavar="FILE", help="where to write it; - or nothing: the standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the report, write the file, and say which report it is."""
        now = console.now()
        period = self._period(options["period"])
        to_terminal = options["out"] in ("", "-")
        if to_terminal and options["format"] == "xlsx" and sys.stdout.isatty():
            raise CommandError("A workbook is nothing for a terminal; name a file with --out. Nothing was made.", returncode=2)
        with console.acting():
            try:
                report = reports.make_report(Scope(options["nova"], options["team"]), Period(now - period, now), now=now)
            except ScopeUnknown as unknown:
                raise CommandError(f"{unknown} Nothing was made.") from unknown
        file = exports.export(report, options["format"])
        if to_terminal:
            if options["format"] == "xlsx":
                sys.stdout.buffer.write(file.content)
            else:
                self.stdout.write(file.content.decode("utf-8-sig"), ending="")
            return
        try:
            Path(options["out"]).write_bytes(file.content)
        except OSError as error:
            raise CommandError(f"Report {report.id} was made, but {options['out']} can't be written: {error}.") from error
        self.stdout.write(f"{report.id}: {len(file.content):,} bytes in {options['out']}")

    @staticmethod
    def _period(text: str) -> timedelta:
        try:
            return period_of(text)
        except ValidationError as wrong:
            raise CommandError(f"--period: {wrong.detail['period'][0]} Nothing was made.", returncode=2) from wrong  # type: ignore[call-overload, index]
