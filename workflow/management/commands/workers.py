"""`manage.py workers NAME`: run a cluster of workers on this machine, supervised, until SIGTERM or Ctrl-C."""

import fcntl
import gc
import importlib
import os
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from workflow.execution import registry
from workflow.hosting import lifeline, slots
from workflow.hosting.child import StopSignal
from workflow.hosting.supervisor import Supervisor


class Command(BaseCommand):
    help = "Run the workers of one cluster (loops: the Novas' loops; work: their executions) until told to stop."
    requires_system_checks: list[str] = []  # they would load every page; `manage.py check` runs them

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", choices=slots.clusters())

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        """Hold the lock of this cluster on this machine and supervise.

        What the slices need is loaded here, once: the cluster is a fork of this process and shares its memory.
        """
        if os.environ.get("Q_CLUSTER_NAME") != slots.queue_name(name):
            raise CommandError(f"Start it as `manage.py workers {name}`: the settings name the cluster by that.")
        stop = StopSignal()
        lifeline.bind_forks()
        importlib.import_module(settings.SLICE_JOBS[name].rpartition(".")[0])
        if name == "work":
            registry.executors()
        gc.collect()
        gc.freeze()  # the garbage collector of a fork leaves alone, and so shared, what is here now
        settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
        lock = os.open(slots.lock_file(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"The workers of {name} run already from {settings.VAR_DIR}; nothing was started.") from None
        os.ftruncate(lock, 0)
        os.write(
            lock, f"{os.getpid()}\n".encode()
        )  # for `manage.py deploy`, which restarts workers one cluster after the other
        try:
            Supervisor(name, stop, pulse=lambda: os.utime(lock)).run()
        finally:
            os.close(lock)
