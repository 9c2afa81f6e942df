"""`manage.py run_workflow`: the engine in the foreground, without queue and workers, for development and for looking at it."""

import os
import threading
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.core.management.base import BaseCommand

from workflow import jobs
from workflow.hosting.child import StopSignal

LOOK_SECONDS = 0.5


class Command(BaseCommand):
    help = "Drive the Novas in this process until Ctrl-C."
    requires_system_checks: list[str] = []  # they would load every page; `manage.py check` runs them

    def handle(self, *args: Any, **options: Any) -> None:
        """Drive in a thread, so that the main thread is free to hear signals."""
        asked = StopSignal()
        stop = threading.Event()
        slot = f"slot:foreground:{settings.HOST}:{os.getpid()}"
        engine = threading.Thread(target=jobs.drive, args=(stop, slot), name="engine")
        engine.start()
        while engine.is_alive() and not asked.wait(LOOK_SECONDS):
            pass
        stop.set()
        engine.join(settings.STOP_GRACE_SECONDS)
        if engine.is_alive():
            self.stderr.write(f"The engine did not stop within {settings.STOP_GRACE_SECONDS:.0f} s; leaving it.")
            os._exit(1)  # what it held is taken over by lease
        if not asked.asked:
            raise CommandError("The engine ended by itself; see the log above.")
