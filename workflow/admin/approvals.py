"""The admin's page of approvals: what agents want to do, and a person's word on it, with a reason."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.timesince import timeuntil
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from safety.admin import ExactTextFilter, table
from workflow import approvals
from workflow.admin.verbs import AdminVerb, VerbAdmin, one_by_one
from workflow.models import Approval

LABELS = {"pending": "warning", "approved": "success", "denied": "danger", "expired": "default", "used": "info"}


def _decide(status: str, decision: Callable[..., Approval]) -> Callable[..., Any]:
    def act(key: str, answers: Mapping[str, Any], now: datetime) -> bool:
        stood = approvals.get_approval(int(key), now=now).status
        decision(int(key), reason=answers["reason"], now=now)
        return stood != status

    return one_by_one(act)


@admin.register(Approval)
class ApprovalAdmin(VerbAdmin):
    """Requests, the newest first. What was asked for is shown whole to those who may decide."""

    journal_type = "approval"
    paginator = InfinitePaginator
    verbs = (
        AdminVerb(
            "approve", "Approve", "approved", "Lets exactly this be done, once, until the request expires.",
            _decide("approved", approvals.approve), icon="check", offered=lambda row: row.status == "pending",
        ),
        AdminVerb(
            "deny", "Deny", "denied", "Lets it not be done. What was approved and not used yet is taken back.",
            _decide("denied", approvals.deny), icon="block", danger=True, offered=lambda row: row.status in Approval.OPEN,
        ),
    )  # fmt: skip
    list_display = ["id", "nova", "action", "show_status", "show_left", "task_id", "requested_at", "decided_at"]
    list_filter = [
        "status",
        ("nova__nova_id", ExactTextFilter),
        ("action", ExactTextFilter),
        ("task_id", ExactTextFilter),
        "requested_at",
    ]
    ordering = ["-id"]
    sortable_by: Any = ()
    served = frozenset({"status__exact"})
    texts = frozenset(
        {"show_arguments", "show_reason", "show_decision", "arguments", "reason", "decided_by", "decision_reason"}
    )
    readonly_fields = ["show_status", "show_left", "show_arguments", "show_reason", "show_decision"]
    fieldsets = [
        ("What is asked", {"fields": [("nova", "action"), "show_arguments", "show_reason", "task_id"]}),
        ("Where it stands", {"fields": [("show_status", "show_left"), ("requested_at", "expires_at"), "show_decision",
                                        ("decided_at", "used_at"), "digest"]}),
    ]  # fmt: skip

    def describe(self, rows: Sequence[Approval]) -> list[str]:
        """Name what would be decided as it was asked for: nobody should approve what they have not read."""
        return [f"{row.pk}, {row.nova_id}: {row.action} {json.dumps(row.arguments, ensure_ascii=False)[:2000]}" for row in rows]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # only by the verbs

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Approval | None:
        """Give the request as it stands now."""
        approvals.settle(now=timezone.now())  # noqa: TID251 - a door: whoever looks sees what is true now
        approval: Approval | None = super().get_object(request, object_id, from_field)
        return approval

    @display(description="status", ordering="status", label=LABELS)
    def show_status(self, approval: Approval) -> str:
        return approval.status

    @display(description="expires in", ordering="expires_at")
    def show_left(self, approval: Approval) -> str:
        if approval.status not in Approval.OPEN:
            return "-"
        if approval.frozen_at:
            return "its clock stands, with its Nova"
        now = timezone.now()  # noqa: TID251 - a door
        return timeuntil(approval.expires_at, now, depth=1) if approval.expires_at > now else "now"

    @display(description="with these arguments")
    def show_arguments(self, approval: Approval) -> SafeString | str:
        rows = [(name, said if isinstance(said, str) else json.dumps(said)) for name, said in approval.arguments.items()]
        return table(["argument", "value"], rows) if rows else "none"

    @display(description="why the agent wants it")
    def show_reason(self, approval: Approval) -> str:
        return approval.reason or "-"

    @display(description="decision")
    def show_decision(self, approval: Approval) -> str:
        return f"{approval.decided_by}: {approval.decision_reason}" if approval.decided_by else "-"
