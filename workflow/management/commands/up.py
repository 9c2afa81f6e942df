"""`manage.py up`: everything on this machine in one command, until Ctrl-C."""

import fcntl
import os
from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management import CommandError
from django.core.management.base import BaseCommand

from workflow.hosting import runfile
from workflow.hosting.child import StopSignal
from workflow.hosting.stack import PreparationFailed, Stack


class Command(BaseCommand):
    help = "Prepare and run NOVAWF on this machine: stream server, web server and workers, until Ctrl-C."
    requires_system_checks = [Tags.security, Tags.compatibility]  # the others would load every page

    def handle(self, *args: Any, **options: Any) -> None:
        """Hold the folder's lock and run the stack."""
        stop = StopSignal()
        settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
        lock = os.open(settings.VAR_DIR / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            former = runfile.read(settings.VAR_DIR)
            where = f" at {former.url}/" if former else ""
            raise CommandError(f"NOVAWF runs already from {settings.VAR_DIR}{where}; nothing was started.") from None
        try:
            Stack(stop, self._say).run()
        except (OSError, PreparationFailed) as error:
            raise CommandError(str(error)) from error
        finally:
            os.close(lock)

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
