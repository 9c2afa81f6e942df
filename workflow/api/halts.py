"""Orders to stop, at the API: give one, watch it being confirmed, lift it; and an agent's word that it obeys."""

from typing import Any

from django.db import transaction
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from workflow import halts, services
from workflow.api.authentication import ACT_AS_NOVA, NovaAgent
from workflow.api.pages import Pages
from workflow.api.serializers import Accepted, AnyCase, ReasonAccepted, Shown
from workflow.api.views import Door, show_one_nova
from workflow.models import Halt, HaltConfirmation, NovaState


class HaltAccepted(ReasonAccepted):
    kind = AnyCase(choices=Halt.Kind.values)
    scope = AnyCase(choices=Halt.Scope.values)
    target = serializers.CharField(max_length=64, required=False, allow_blank=True, default="")
    drill = serializers.BooleanField(required=False, default=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if (attrs["scope"] == Halt.Scope.FLEET) != (not attrs["target"]):
            raise serializers.ValidationError({"target": ["A team or a Nova is named here; the fleet has no name."]}, "target")
        return attrs


class HaltShown(Shown):
    class Meta:
        model = Halt
        fields = [
            "id", "kind", "scope", "target", "reason", "requested_by", "requested_at", "drill", "settled_at", "lifted_at",
            "lifted_by", "lift_reason",
        ]  # fmt: skip


class ConfirmationShown(Shown):
    nova_id = serializers.CharField()

    class Meta:
        model = HaltConfirmation
        fields = [
            "nova_id", "status", "requested_at", "delivered_at", "acknowledged_at", "confirmed_at", "unreachable_at", "detail",
        ]  # fmt: skip


def show_halt(halt: Halt) -> dict[str, Any]:
    """Show an order with how far each Nova has come."""
    confirmations = list(halt.confirmations.order_by("nova_id"))
    counts: dict[str, int] = dict.fromkeys(HaltConfirmation.Status.values, 0)
    for confirmation in confirmations:
        counts[confirmation.status] += 1
    return {**HaltShown(halt).data, "counts": counts, "novas": ConfirmationShown(confirmations, many=True).data}


class HaltList(Door):
    """Orders, newest first, and the door for new ones: 201, or 200 with the same order where it stands already."""

    permissions_needed = {"GET": "workflow.view_halt", "POST": "workflow.order_stop"}
    parameters = frozenset({"open"})
    _pages: Pages[Halt] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows = Halt.objects.all()
        if request.query_params.get("open") == "true":
            rows = rows.filter(lifted_at=None, drill=False)
        return Response(self._pages.answer(request, [rows], lambda found: list(HaltShown(found, many=True).data)))

    def post(self, request: Request) -> Response:
        data = self.accept(HaltAccepted).validated_data
        halt = halts.order(
            data["kind"], data["scope"], data["target"], reason=data["reason"], now=self.now, drill=data["drill"]
        )
        return Response(show_halt(halt), status=201 if halt.requested_at == self.now else 200)


class HaltDetail(Door):
    """One order, and how far each Nova has come."""

    permissions_needed = {"GET": "workflow.view_halt"}

    def get(self, request: Request, halt_id: str) -> Response:
        halts.settle(now=self.now)  # whoever looks sees what is true now, whether or not a loop runs
        return Response(show_halt(halts.get(int(halt_id))))


class HaltLift(Door):
    """POST with a reason: let the Novas go on. Halts and kills need a safety officer."""

    permissions_needed = {"POST": "workflow.lift_pause"}

    def post(self, request: Request, halt_id: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        halt = halts.get(int(halt_id))
        demand_right(request, NovaState.objects.filter(nova__halts__halt=halt).values_list("mode", flat=True))
        return Response(show_halt(halts.lift(halt.pk, reason=reason, now=self.now)))


class NovaVerb(Door):
    """POST with a reason: a verb on a Nova. Answers the Nova as it stands then."""

    permissions_needed = {"POST": "workflow.change_nova"}

    def post(self, request: Request, nova_id: str, verb: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        if verb in ("halt", "kill"):
            halts.order(verb, Halt.Scope.NOVA, nova_id, reason=reason, now=self.now)
        elif verb == "resume":
            demand_right(request, NovaState.objects.filter(nova=nova_id).values_list("mode", flat=True))
            with transaction.atomic():
                services.resume_nova(nova_id, reason=reason, now=self.now)
                halts.lift_empty([nova_id], reason=reason, now=self.now)
        elif verb == "lift-safety":
            halts.lift_safety(nova_id, reason=reason, now=self.now)
        else:
            acts = {"pause": services.pause_nova, "drain": services.drain_nova, "wake": services.wake_nova}
            acts[verb](nova_id, reason=reason, now=self.now)
        return Response(show_one_nova(self, nova_id))


class NovaStop(NovaVerb):
    """POST with a reason: stop a Nova. Answers the Nova as it stands then."""

    permissions_needed = {"POST": "workflow.order_stop"}


class NovaResume(NovaVerb):
    """POST with a reason: let a Nova go on."""

    permissions_needed = {"POST": "workflow.lift_pause"}


class NovaLiftSafety(NovaVerb):
    """POST with a reason: end what safety mechanisms imposed for a time."""

    permissions_needed = {"POST": "workflow.lift_halt"}


class HaltAcknowledged(Door):
    """POST by a Nova's agent: it has heard the order and stopped."""

    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request, nova_id: str) -> Response:
        if isinstance(request.user, NovaAgent) and request.user.nova_id != nova_id:
            raise PermissionDenied
        self.accept(Accepted)
        halts.note_acknowledged(nova_id, now=self.now)
        order = halts.standing_order(nova_id)
        return Response({"nova_id": nova_id, "halt_id": order.halt_id if order else None})


def demand_right(request: Request, modes: Any) -> None:
    """Refuse to let Novas go on that only a safety officer may let go on.

    :raises PermissionDenied: the caller has no such right.
    """
    if not request.user.has_perm(halts.right_to_resume(set(modes))):
        raise PermissionDenied("Only a safety officer resumes what was halted, killed or quarantined. Nothing was changed.")
