"""Approvals at the API: an agent asks and looks, operators approve or deny. A Nova's key never approves."""

from datetime import timedelta
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from workflow import approvals
from workflow.api.agent_tasks import agent_of
from workflow.api.authentication import ACT_AS_NOVA, NovaAgent
from workflow.api.pages import Pages
from workflow.api.serializers import Accepted, ReasonAccepted, Seconds, Shown, small_json
from workflow.api.views import Door, choices_of
from workflow.core.protocol import TASK_ID_LIMIT
from workflow.models import Approval


class ApprovalAccepted(Accepted):
    action = serializers.CharField(max_length=128)
    arguments = serializers.DictField(required=False, default=dict, validators=[small_json])
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=2_000)
    task_id = serializers.CharField(required=False, allow_blank=True, default="", max_length=TASK_ID_LIMIT)
    good_for = Seconds(
        required=False,
        default=approvals.GOOD_FOR.total_seconds(),
        min_value=approvals.LEAST.total_seconds(),
        max_value=approvals.MOST.total_seconds(),
    )


class ApprovalShown(Shown):
    nova_id = serializers.CharField()

    class Meta:
        model = Approval
        fields = [
            "id", "nova_id", "task_id", "action", "arguments", "digest", "reason", "requested_by", "requested_at",
            "expires_at", "frozen_at", "status", "decided_by", "decided_at", "decision_reason", "used_at",
        ]  # fmt: skip


class ApprovalList(Door):
    """GET: requests, newest first; an agent sees its own. POST by an agent: ask; 201, or 200 where the same is open already."""

    permissions_needed = {"GET": "workflow.view_approval", "POST": ACT_AS_NOVA}
    agents_too = frozenset({"GET"})
    parameters = frozenset({"status", "nova"})
    _pages: Pages[Approval] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows = Approval.objects.all()
        if whose := _whose(request):
            rows = rows.filter(nova=whose)
        if nova_id := request.query_params.get("nova"):
            rows = rows.filter(nova=nova_id)
        if statuses := choices_of(request, "status", list(Approval.Status.values)):
            rows = rows.filter(status__in=statuses)
        approvals.settle(now=self.now)
        return Response(self._pages.answer(request, [rows], lambda found: list(ApprovalShown(found, many=True).data)))

    def post(self, request: Request) -> Response:
        nova_id = agent_of(request)
        data = self.accept(ApprovalAccepted).validated_data
        approval = approvals.request_approval(
            nova_id,
            data["action"],
            data["arguments"],
            reason=data["reason"],
            task_id=data["task_id"],
            good_for=timedelta(seconds=data["good_for"]),
            now=self.now,
        )
        return Response(ApprovalShown(approval).data, status=201 if approval.requested_at == self.now else 200)


class ApprovalDetail(Door):
    """One request; an agent sees its own Nova's."""

    permissions_needed = {"GET": "workflow.view_approval"}
    agents_too = frozenset({"GET"})

    def get(self, request: Request, approval_id: str) -> Response:
        approval = approvals.get_approval(int(approval_id), now=self.now, nova_id=_whose(request))
        return Response(ApprovalShown(approval).data)


class ApprovalVerb(Door):
    """POST with a reason: approve or deny."""

    permissions_needed = {"POST": "workflow.change_approval"}

    def post(self, request: Request, approval_id: str, verb: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        decide = approvals.approve if verb == "approve" else approvals.deny
        return Response(ApprovalShown(decide(int(approval_id), reason=reason, now=self.now)).data)


def _whose(request: Request) -> str:
    """Give whose approvals the caller may see: an agent's Nova, or empty for all."""
    user: Any = request.user
    return user.nova_id if isinstance(user, NovaAgent) else ""
