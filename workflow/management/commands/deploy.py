"""`manage.py deploy --check | --apply`: bring this version into service on this machine.

Exit codes: 0 done, or nothing to do; 1 something stands against it; 2 the command line is wrong; with --check 3: there is
something to do.
"""

from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from workflow.hosting import deployment
from workflow.management import console

SOMETHING_TO_DO = 3


class Command(BaseCommand):
    help = "Look whether this version is in service, or bring it there: checks, migrations, static files, workers in turn."
    requires_system_checks: list[str] = []  # it runs them itself, and says what they found

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--check", action="store_true", help="only look; exit code 3: there is something to do")
        what.add_argument("--apply", action="store_true", help="do it")
        parser.add_argument("--json", action="store_true", help="with --check: print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, and print each step."""
        if options["apply"]:
            try:
                with console.acting():
                    deployment.carry_out(self.stdout.write)
            except deployment.DeploymentStopped as stopped:
                raise CommandError(str(stopped)) from stopped
            self.stdout.write(
                "A web server that `up`, systemd or a container keeps is restarted by it: see docs/operations.md."
            )
            return
        found = deployment.look()
        problems = [finding.text for finding in found if finding.problem]
        steps = [finding.text for finding in found if not finding.problem]
        if options["json"]:
            console.print_json(self, {"problems": problems, "to_do": steps})
        else:
            for finding in found:
                self.stdout.write(f"{'problem' if finding.problem else 'to do'}: {finding.text}")
            if not found:
                self.stdout.write("This version is in service: nothing to do.")
        if found:
            raise SystemExit(1 if problems else SOMETHING_TO_DO)
