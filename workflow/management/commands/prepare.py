"""`manage.py prepare`: what must stand before anything runs; `up` does it by this command, in a program that ends with it."""

from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandParser

from workflow.hosting import preparation, runfile
from workflow.management import console


class Command(BaseCommand):
    help = "Bring tables, starting fleet, static files and the login of `admin` up to date. May be repeated."
    requires_system_checks = [Tags.security, Tags.compatibility]  # others ask about tables that are only made here

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do each step that is needed; show the password of a login that is new, or still the one made here."""
        preparation.prepare_database()
        preparation.forget_beats()
        collected = preparation.collect_static()
        password, is_new = preparation.ensure_admin(runfile.read(settings.VAR_DIR))
        if options["json"]:
            console.print_json(self, {"static_collected": collected, "password": password, "is_new": is_new})
            return
        self.stdout.write("Tables and starting fleet are up to date.")
        self.stdout.write("Static files were collected." if collected else "Static files are up to date.")
        if is_new:
            self.stdout.write(f"Login: {runfile.ADMIN}, password {password} (shown this once)")
