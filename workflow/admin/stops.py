"""The admin's page of orders to stop: who asked for what, and how far each Nova has come; lifted through a reason."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Case, Count, When
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from unfold.decorators import display

from safety.admin import table
from workflow import halts
from workflow.admin.verbs import AdminVerb, Done, VerbAdmin
from workflow.models import Halt, HaltConfirmation, NovaState

CONFIRMATIONS_SHOWN = 200


def _lift(keys: Sequence[str], answers: Mapping[str, Any], now: datetime) -> Done:
    done = Done()
    for key in keys:
        standing = halts.get(int(key)).lifted_at is None
        halts.lift(int(key), reason=answers["reason"], now=now)
        done.changed += standing
        done.unchanged += not standing
    return done


def _right(keys: Sequence[str]) -> str:
    return halts.right_to_resume(
        list(NovaState.objects.filter(nova__halts__halt__in=[int(key) for key in keys]).values_list("mode", flat=True))
    )


@admin.register(Halt)
class HaltAdmin(VerbAdmin):
    """Orders to stop, the newest first. Nothing is called stopped that has not been seen to stop."""

    journal_type = "halt"
    verbs = (
        AdminVerb(
            "lift", "Lift", "lifted", "Lets the Novas go on, staggered; halts and kills need a safety officer.", _lift,
            icon="play_arrow", offered=lambda halt: halt.lifted_at is None, right=_right,
        ),
    )  # fmt: skip
    list_display = ["id", "kind", "scope", "target", "show_progress", "drill", "requested_by", "requested_at", "lifted_at"]
    list_filter = ["kind", "scope", "drill", "requested_at"]
    texts = frozenset({"requested_by", "lifted_by"})  # they name persons
    ordering = ["-id"]
    fields = [
        ("kind", "scope"), ("target", "drill"), "reason", ("requested_by", "requested_at"), ("settled_at", "show_progress"),
        "show_confirmations",
        ("lifted_by", "lifted_at"), "lift_reason",
    ]  # fmt: skip
    readonly_fields = ["show_confirmations", "show_progress"]
    sortable_by: Any = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def may_use_verbs(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("workflow.lift_pause"))

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Give the list with how many Novas stand where, by one query for all orders."""
        changelist: ChangeList = super().get_changelist_instance(request)
        self._count(list(changelist.result_list))
        return changelist

    @staticmethod
    def _count(orders: list[Any]) -> None:
        rows = HaltConfirmation.objects.filter(halt__in=[order.pk for order in orders]).order_by()
        counts: dict[int, dict[str, int]] = {}
        for halt_id, status, number in rows.values_list("halt_id", "status").annotate(Count("pk")):
            counts.setdefault(halt_id, {})[status] = number
        for order in orders:
            order.counts = counts.get(order.pk, {})

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Halt | None:
        halts.settle(now=timezone.now())  # noqa: TID251 - a door: whoever looks sees what is true now
        halt: Halt | None = super().get_object(request, object_id, from_field)
        if halt is not None:
            self._count([halt])
        return halt

    @display(description="confirmed")
    def show_progress(self, halt: Any) -> str:
        missing = halt.counts.get("unreachable", 0)
        text = f"{halt.counts.get('confirmed', 0)} of {sum(halt.counts.values())}"
        return f"{text}, {missing} unreachable" if missing else text

    @display(description="Novas")
    def show_confirmations(self, halt: Any) -> SafeString:
        """Show those that have not obeyed yet, then the others, as far as they find room."""
        rows = []
        confirmed_last = Case(When(status="confirmed", then=1), default=0)
        for seen in halt.confirmations.order_by(confirmed_last, "nova_id")[:CONFIRMATIONS_SHOWN]:
            instants = seen.delivered_at, seen.acknowledged_at, seen.confirmed_at
            told = [f"{localtime(at):%H:%M:%S}" if at else "-" for at in instants]
            rows.append((seen.nova_id, seen.status, *told, seen.detail or "-"))
        left_out = sum(halt.counts.values()) - len(rows)
        if left_out > 0:
            rows.append((f"and {left_out:,} more", "", "", "", "", ""))
        return table(["Nova", "status", "delivered", "acknowledged", "confirmed", "still seen"], rows)
