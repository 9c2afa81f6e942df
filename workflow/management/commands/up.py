"""`manage.py up`: everything on this machine in one command, until Ctrl-C. manage.py itself leads there, past this file."""

from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand

from workflow.hosting import keeper
from workflow.hosting.stack import PreparationFailed


class Command(BaseCommand):
    help = "Prepare and run NOVAWF on this machine: stream server, web server and workers, until Ctrl-C."
    requires_system_checks: list[str] = []  # `prepare` makes them

    def handle(self, *args: Any, **options: Any) -> None:
        """Keep everything running."""
        try:
            keeper.keep()
        except (OSError, PreparationFailed, keeper.RunsAlready) as error:
            raise CommandError(str(error)) from error
