"""`manage.py cluster NAME`: one django-q2 cluster whose processes die with their parents; `workers` starts and watches it."""

import gc
import importlib
import os
from typing import Any

from django.conf import settings
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand, CommandParser

from workflow.hosting import lifeline, slots


class Command(BaseCommand):
    help = "Run one django-q2 cluster of this host; `workers` starts and watches it."
    requires_system_checks: list[str] = []  # they would load every page; `manage.py check` runs them

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", choices=slots.clusters())

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        """Arm forks, load what the slices need while memory is still shared, and become the cluster."""
        if os.environ.get("Q_CLUSTER_NAME") != slots.queue_name(name):
            raise CommandError(f"Q_CLUSTER_NAME must be {slots.queue_name(name)}; `manage.py workers {name}` sets it.")
        lifeline.bind_forks()
        importlib.import_module(settings.SLICE_JOBS[name].rpartition(".")[0])
        gc.collect()
        gc.freeze()  # what is here already need not be copied into every worker by the garbage collector
        call_command("qcluster")
