"""What an agent asks about its own Nova: who am I, may I act; and what it tells of its calls to models."""

from typing import Any

from django.db import transaction
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from safety import audit
from safety.audit import Entry
from safety.models import SafetyState
from workflow import budgets, halts
from workflow.api.agent_tasks import agent_of, own_only
from workflow.api.authentication import ACT_AS_NOVA
from workflow.api.executors import UsageShown
from workflow.api.pages import Pages
from workflow.api.permits import own_nova
from workflow.api.serializers import Accepted, VerdictShown, show_instant
from workflow.api.views import Door
from workflow.models import Nova, NovaState, NovaUsage
from workflow.safety_checks import check_safety

USAGE_REPORTED = "workflow.usage.reported"
_MOST = 10**12


class UsageAccepted(Accepted):
    model = serializers.CharField(max_length=128)
    provider = serializers.SlugField(max_length=63, required=False, allow_blank=True, default="")
    requests = serializers.IntegerField(required=False, default=1, min_value=0, max_value=_MOST)
    input_tokens = serializers.IntegerField(required=False, default=0, min_value=0, max_value=_MOST)
    output_tokens = serializers.IntegerField(required=False, default=0, min_value=0, max_value=_MOST)
    tool_uses = serializers.IntegerField(required=False, default=0, min_value=0, max_value=_MOST)


class WhoAmI(Door):
    """GET by an agent: which Nova its key says it is, and where that Nova stands."""

    permissions_needed = {"GET": ACT_AS_NOVA}

    def get(self, request: Request) -> Response:
        nova = own_nova(request, agent_of(request))
        mode = NovaState.objects.values_list("mode", flat=True).get(nova=nova)
        return Response(
            {
                "nova_id": nova.nova_id,
                "name": nova.name,
                "personality": nova.personality_id,
                "policy": nova.policy_id,
                "team": nova.team,
                "mode": mode,
                "order": show_order(nova.nova_id),
                "time": show_instant(self.now),
            }
        )


class SafetyCheck(Door):
    """POST by an agent: have the five judges look at its Nova now. `may_act` is false while it is stopped or unsafe."""

    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request, nova_id: str) -> Response:
        own_only(request, nova_id)
        self.accept(Accepted)
        verdict = check_safety([nova_id], now=self.now)[nova_id].status
        mode = NovaState.objects.values_list("mode", flat=True).get(nova=nova_id)
        shown = VerdictShown(SafetyState.objects.filter(nova_id=nova_id).first() or SafetyState()).data
        may_act = bool(verdict.is_safe) and mode == NovaState.Mode.RUNNING
        return Response({"may_act": may_act, "mode": mode, "safety": shown, "order": show_order(nova_id)})


class Usage(Door):
    """What a Nova's calls to models came to, by day (UTC), the newest first.

    POST by an agent that calls models itself: it is journalled, counted as a metric, and spends the Nova's budgets.
    """

    permissions_needed = {"GET": "workflow.view_novausage", "POST": ACT_AS_NOVA}
    _pages: Pages[NovaUsage] = Pages("day", descending=True)

    def get(self, request: Request, nova_id: str) -> Response:
        if not Nova.objects.filter(pk=nova_id).exists():
            raise NotFound
        rows = NovaUsage.objects.filter(nova=nova_id)
        return Response(self._pages.answer(request, [rows], lambda found: list(UsageShown(found, many=True).data)))

    def post(self, request: Request, nova_id: str) -> Response:
        own_only(request, nova_id)
        used = dict(self.accept(UsageAccepted).validated_data)
        entry = Entry(USAGE_REPORTED, nova_id, "nova", nova_id, after=used, counted=True)
        spent = budgets.Used(used["input_tokens"], used["output_tokens"], used["tool_uses"])
        with transaction.atomic():
            budgets.note_used(nova_id, used["provider"], used["model"], spent, now=self.now, requests=used["requests"])
            (entry_id,) = audit.record([entry], now=self.now)
        return Response({"nova_id": nova_id, "journal_id": entry_id, **used}, status=201)


def show_order(nova_id: str) -> dict[str, Any] | None:
    """Show the order to stop under which a Nova stands; None if there is none."""
    order = halts.standing_order(nova_id)
    return None if order is None else {"id": order.halt_id, "type": order.kind, "by": order.actor, "reason": order.reason}
