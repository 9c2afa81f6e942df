"""Make a key for a Nova's agent; it is shown this once."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from safety import audit
from safety.api_keys import create_key
from workflow.models import Nova


class Command(BaseCommand):
    help = "Make a key by which the agent of a Nova shows who it is. The key is printed once and can't be had again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("nova", help="the Nova's id")
        parser.add_argument("--name", default="", help="what the key is for, such as the machine it goes to")
        parser.add_argument("--json", action="store_true", help='print {"nova_id", "key"}')

    def handle(self, *args: Any, **options: Any) -> None:
        nova_id = options["nova"]
        if not Nova.objects.filter(pk=nova_id, archived_at=None).exists():
            raise CommandError(f"There is no Nova {nova_id} in service; no key was made.")
        with audit.acting("cli:apikey_create"):
            key, _ = create_key(nova_id, name=options["name"], now=timezone.now())
        if options["json"]:
            self.stdout.write(json.dumps({"nova_id": nova_id, "key": key}))
        else:
            self.stdout.write(f"The key of {nova_id}, shown this once; give it to the agent as NOVA_TOKEN:\n{key}")
