"""`manage.py incident VERB`: incidents from the shell: list them, read one's story, say what was found or done.

Journalled as `cli:<user>`. Exit codes: 0 done; 1 refused; 2 the command line is wrong.
"""

import getpass
import json
from datetime import UTC, datetime
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand, CommandParser

from safety import audit, incident_services
from safety.models import SafetyIncident
from workflow.api.incidents import IncidentShown, show_incident

LISTED = 200


class Command(BaseCommand):
    help = "List incidents, show one with its story, or acknowledge, mitigate, resolve or annotate it. Exit code 1: refused."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the verb, the incident, and why."""
        parser.add_argument("verb", choices=["list", "show", *incident_services.VERBS])
        parser.add_argument("incident_ids", nargs="*", type=int, metavar="INCIDENT")
        parser.add_argument("--reason", default="", help="what was found or done: required for all verbs but list and show")
        parser.add_argument("--nova", default="", help="list: of this Nova only")
        parser.add_argument("--all", action="store_true", help=f"list: those that are over too (the newest {LISTED})")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, verb: str, incident_ids: list[int], **options: Any) -> None:
        """Do it, and print what became of it."""
        if verb == "list":
            self._list(options["nova"], options["all"], options["json"])
            return
        if not incident_ids:
            raise CommandError("Name an incident by its number. Nothing was changed.", returncode=2)
        if verb == "show":
            self._show([_get(incident_id) for incident_id in incident_ids], options["json"])
            return
        if not options["reason"].strip():
            raise CommandError("Say why with --reason; it is kept in the journal. Nothing was changed.", returncode=2)
        lines = []
        with audit.acting(f"cli:{getpass.getuser()}"[:128]):
            for incident_id in incident_ids:
                lines.append(_apply(verb, incident_id, options["reason"]))
        if options["json"]:
            self.stdout.write(json.dumps(lines))
        else:
            for line in lines:
                self.stdout.write(f"{line['id']}: {line['problem'] or ('done' if line['changed'] else 'no change')}")
        if any(line["problem"] for line in lines):
            raise SystemExit(1)

    def _list(self, nova_id: str, everything: bool, as_json: bool) -> None:
        incidents = SafetyIncident.objects.order_by("-id").defer("evidence")
        if nova_id:
            incidents = incidents.filter(nova_id=nova_id)
        if not everything:
            incidents = incidents.filter(ended_at=None)
        rows = IncidentShown(incidents[:LISTED], many=True).data
        if as_json:
            self.stdout.write(json.dumps(rows))
            return
        for row in rows:
            whose = row["nova_id"] or "the fleet"
            self.stdout.write(f"{row['id']:>6} {row['status']:<14} {row['mechanism']:<18} {whose:<24} {row['reason']}")

    def _show(self, incidents: list[SafetyIncident], as_json: bool) -> None:
        shown = [show_incident(incident) for incident in incidents]
        if as_json:
            self.stdout.write(json.dumps(shown))
            return
        for incident in shown:
            whose = incident["nova_id"] or "the fleet"
            self.stdout.write(f"incident {incident['id']} of {whose}: {incident['status']}, {incident['mechanism']}")
            for name in ("reason", "conclusion"):
                if incident[name]:
                    self.stdout.write(f"{name}: {incident[name]}")
            self.stdout.write(f"evidence: {json.dumps(incident['evidence'], ensure_ascii=False)}")
            for line in incident["story"]:
                self.stdout.write(f"  {line['created_at']} {line['action']} by {line['actor']}: {line['reason']}".rstrip(": "))
            if not incident["story_complete"]:
                self.stdout.write("  (older lines after the first are left out; the journal has them)")


def _get(incident_id: int) -> SafetyIncident:
    incident = SafetyIncident.objects.filter(pk=incident_id).first()
    if incident is None:
        raise CommandError(f"There is no incident {incident_id}.")
    return incident


def _apply(verb: str, incident_id: int, reason: str) -> dict[str, Any]:
    try:
        changed = incident_services.apply_verb(verb, incident_id, reason=reason, now=datetime.now(UTC))
    except incident_services.IncidentError as refusal:
        return {"id": incident_id, "changed": False, "problem": str(refusal)}
    return {"id": incident_id, "changed": changed, "problem": ""}
