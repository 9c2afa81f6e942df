"""`manage.py streams NOVA`: the newest entries of a Nova's streams."""

import json
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety.stream_client import StreamClient, StreamError
from workflow.models import Nova
from workflow.streams.controller import StreamController


class Command(BaseCommand):
    help = "Show the newest entries of the streams of one Nova."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the Nova, how many entries, and whether to print JSON."""
        parser.add_argument("nova_id")
        parser.add_argument("--count", type=int, default=10, help="entries of each stream (default 10)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read and print."""
        nova_id = options["nova_id"]
        if not Nova.objects.filter(nova_id=nova_id).exists():
            raise CommandError(f"There is no Nova {nova_id!r}.")
        client = StreamClient(name="novawf-look")
        try:
            found = StreamController(nova_id, client).check_coordination_streams(options["count"])
        except StreamError as error:
            raise CommandError(str(error)) from error
        finally:
            client.close()
        if options["json"]:
            self.stdout.write(json.dumps(found, ensure_ascii=False))
            return
        for kind, entries in found.items():
            self.stdout.write(f"\n{kind} ({len(entries)} newest)")
            for entry in entries:
                self.stdout.write("  " + ", ".join(f"{name}={value[:80]}" for name, value in entry.items()))
