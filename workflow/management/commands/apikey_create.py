"""Make a key for a Nova's agent, a person, or a program; it is shown this once.

Journalled as `cli:<user>`. Exit codes: 0 done; 1 refused; 2 the command line is wrong.
"""

import getpass
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from safety import audit
from safety.api_keys import CredentialError
from safety.core.scopes import Scope
from workflow import key_services
from workflow.errors import WorkflowError
from workflow.key_services import KeyRequest


class Command(BaseCommand):
    help = (
        "Make a key by which the agent of a Nova shows who it is, or by which a program has the rights of a person or a role. "
        "The key is printed once and can't be had again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("nova", nargs="?", default="", help="the Nova's id")
        parser.add_argument("--user", default="", help="instead of a Nova: the person whose rights the key has")
        parser.add_argument("--operator", default="", help="instead of a Nova: the name of a program, with --role")
        parser.add_argument("--role", default="", help="the role (group) whose rights the operator's key has")
        parser.add_argument(
            "--scope",
            action="append",
            choices=[scope.value for scope in Scope],
            help="its uses; may be repeated (all but keys)",
        )
        parser.add_argument("--days", type=float, help="the key expires after so many days (never)")
        parser.add_argument("--name", default="", help="what the key is for, such as the machine it goes to")
        parser.add_argument("--json", action="store_true", help='print {"id", "holder", "nova_id", "expires_at", "key"}')

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it, and print it."""
        now = datetime.now(UTC)
        request = KeyRequest(
            nova_id=options["nova"],
            user=options["user"],
            operator=options["operator"],
            role=options["role"],
            name=options["name"],
            scopes=options["scope"],
            expires_at=_end(options["days"], now),
        )
        try:
            with audit.acting(f"cli:{getpass.getuser()}"[:128]):
                text, key = key_services.request_key(request, maker=None, now=now)
        except (CredentialError, WorkflowError) as refusal:
            raise CommandError(str(refusal)) from None
        if options["json"]:
            end = key.expires_at.isoformat() if key.expires_at else None
            made = {"id": key.pk, "holder": key.holder, "nova_id": key.nova_id, "expires_at": end, "key": text}
            self.stdout.write(json.dumps(made))
        elif key.nova_id:
            self.stdout.write(f"The key of {key.nova_id}, shown this once; give it to the agent as NOVA_TOKEN:\n{text}")
        else:
            self.stdout.write(f"The key of {key.holder}, shown this once; send it as `Authorization: Bearer …`:\n{text}")


def _end(days: float | None, now: datetime) -> datetime | None:
    if days is None:
        return None
    if not 0 < days <= 36_500:
        raise CommandError("--days must be more than 0 and at most 36500; no key was made.", returncode=2)
    return now + timedelta(days=days)
