"""`manage.py apikey VERB`: keys from the shell: list them, rotate, suspend, reinstate or revoke some.

Journalled as `cli:<user>`. Exit codes: 0 done; 1 refused; 2 the command line is wrong. `apikey_create` makes one.
"""

import getpass
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from safety import audit
from safety.api_keys import OVERLAP, CredentialError
from safety.models import ApiKey
from workflow import key_services
from workflow.api.keys import show_key
from workflow.errors import WorkflowError

LISTED = 200


class Command(BaseCommand):
    help = "List keys, or rotate, suspend, reinstate or revoke some. A rotated key's successor is printed once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the verb, the keys, and why."""
        parser.add_argument("verb", choices=["list", "rotate", "suspend", "reinstate", "revoke"])
        parser.add_argument("key_ids", nargs="*", type=int, metavar="KEY")
        parser.add_argument("--reason", default="", help="required for all verbs but list; kept in the journal")
        parser.add_argument(
            "--overlap-hours",
            type=float,
            default=OVERLAP.total_seconds() / 3600,
            help="rotate: how long the old key lives on (%(default)s)",
        )
        parser.add_argument("--nova", default="", help="list: of this Nova only")
        parser.add_argument("--all", action="store_true", help=f"list: those of no use too (the newest {LISTED})")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, verb: str, key_ids: list[int], **options: Any) -> None:
        """Do it, and print what became of it."""
        now = datetime.now(UTC)
        if verb == "list":
            self._list(options["nova"], options["all"], options["json"], now)
            return
        if not key_ids:
            raise CommandError("Name a key by its number (`apikey list`). Nothing was changed.", returncode=2)
        if not options["reason"].strip():
            raise CommandError("Say why with --reason; it is kept in the journal. Nothing was changed.", returncode=2)
        with audit.acting(f"cli:{getpass.getuser()}"[:128]):
            lines = [_apply(verb, key_id, options["reason"], options["overlap_hours"], now) for key_id in key_ids]
        if options["json"]:
            self.stdout.write(json.dumps(lines))
        else:
            for line in lines:
                self.stdout.write(_in_words(line))
        if any(line["problem"] for line in lines):
            raise SystemExit(1)

    def _list(self, nova_id: str, everything: bool, as_json: bool, now: datetime) -> None:
        keys = ApiKey.objects.select_related("user").order_by("-id")
        if nova_id:
            keys = keys.filter(nova_id=nova_id)
        if not everything:
            keys = keys.filter(revoked_at=None).exclude(expires_at__lte=now)
        rows = [show_key(key, now=now) for key in keys[:LISTED]]
        if as_json:
            self.stdout.write(json.dumps(rows))
            return
        for row in rows:
            used = f"used {row['last_used_at']}" if row["last_used_at"] else "never used"
            words = [row["status"], used, f"until {row['expires_at']}" if row["expires_at"] else "", row["name"]]
            self.stdout.write(f"{row['id']:>6} {row['prefix']}… {row['holder']:<28} {', '.join(w for w in words if w)}")


def _apply(verb: str, key_id: int, reason: str, hours: float, now: datetime) -> dict[str, Any]:
    line: dict[str, Any] = {"id": key_id, "changed": False, "problem": ""}
    try:
        if verb == "rotate":
            overlap = timedelta(hours=hours)
            text, key = key_services.rotate_key(key_id, maker=None, reason=reason, now=now, overlap=overlap)
            return {**line, "changed": True, "successor_id": key.pk, "key": text}
        if verb == "reinstate":
            return {**line, "changed": key_services.reinstate_key(key_id, maker=None, reason=reason, now=now)}
        return {**line, "changed": key_services.ENDINGS[verb](key_id, reason=reason, now=now)}
    except (CredentialError, WorkflowError) as refusal:
        return {**line, "problem": str(refusal)}


def _in_words(line: dict[str, Any]) -> str:
    if "key" in line:
        return f"{line['id']}: key {line['successor_id']} takes its place; it is shown this once:\n{line['key']}"
    return f"{line['id']}: {line['problem'] or ('done' if line['changed'] else 'no change')}"
