"""`manage.py approval VERB`: what agents want to do and may not without a person's word: list, show, approve, deny.

Journalled as `cli:<user>`. Exit codes: 0 done; 1 refused, or not all of it done; 2 the command line is wrong.
"""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workflow import approvals
from workflow.api.approvals import ApprovalShown
from workflow.errors import WorkflowError
from workflow.management.console import acting, demand, now, print_json
from workflow.models import Approval

LISTED = 200
DECISIONS = {"approve": approvals.approve, "deny": approvals.deny, "refuse": approvals.deny}  # deny is the API's word


class Command(BaseCommand):
    help = "List requests for approval, show some, or approve or deny (refuse) them. Exit code 1: refused."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the verb, the requests, and why."""
        parser.add_argument("verb", choices=["list", "show", *DECISIONS])
        parser.add_argument("approval_ids", nargs="*", type=int, metavar="APPROVAL")
        parser.add_argument("--reason", default="", help="approve, deny: why; it is kept in the journal")
        parser.add_argument("--nova", default="", help="list: of this Nova only")
        parser.add_argument("--all", action="store_true", help=f"list: the decided ones too (the newest {LISTED})")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, verb: str, approval_ids: list[int], **options: Any) -> None:
        """Do it, and print what became of it."""
        if verb == "list":
            self._list(options["nova"], options["all"], options["json"])
            return
        demand(approval_ids, "Name a request by its number.")
        if verb == "show":
            self._show(approval_ids, options["json"])
            return
        demand(options["reason"].strip(), "Say why with --reason; it is kept in the journal.")
        self._decide(verb, approval_ids, options["reason"], options["json"])

    def _list(self, nova_id: str, everything: bool, as_json: bool) -> None:
        approvals.settle(now=now())
        rows = Approval.objects.order_by("-id")
        if nova_id:
            rows = rows.filter(nova=nova_id)
        if not everything:
            rows = rows.filter(status=Approval.Status.PENDING)
        shown = ApprovalShown(rows[:LISTED], many=True).data
        if as_json:
            print_json(self, shown)
            return
        for row in shown:
            until = row["expires_at"] if row["status"] in Approval.OPEN else ""
            self.stdout.write(f"{row['id']:>6} {row['status']:<9} {row['nova_id']:<24} {row['action']} {until}".rstrip())

    def _show(self, approval_ids: list[int], as_json: bool) -> None:
        with acting():
            shown = [ApprovalShown(approvals.get_approval(number, now=now())).data for number in approval_ids]
        if as_json:
            print_json(self, shown)
            return
        for row in shown:
            self.stdout.write(f"approval {row['id']} of {row['nova_id']}: {row['status']}, {row['action']}")
            self.stdout.write(f"arguments: {json.dumps(row['arguments'], ensure_ascii=False)}")
            for name in ("reason", "task_id", "requested_by", "requested_at", "expires_at", "decided_by", "decision_reason"):
                if row[name]:
                    self.stdout.write(f"{name}: {row[name]}")

    def _decide(self, verb: str, approval_ids: list[int], reason: str, as_json: bool) -> None:
        lines = []
        with acting():
            for number in approval_ids:
                try:
                    lines.append(
                        {"id": number, "status": DECISIONS[verb](number, reason=reason, now=now()).status, "problem": ""}
                    )
                except WorkflowError as refusal:
                    lines.append({"id": number, "status": "", "problem": str(refusal)})
        if as_json:
            print_json(self, lines)
        else:
            for line in lines:
                self.stdout.write(f"{line['id']}: {line['problem'] or line['status']}")
        if any(line["problem"] for line in lines):
            raise SystemExit(1)
