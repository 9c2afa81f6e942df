"""Orders to stop: the banner that every page shows while one stands, and the page of one order, confirmed Nova by Nova."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Count
from django.http import Http404, HttpRequest

from reporting.fragments import fragment, page
from workflow import halts
from workflow.derived_status import STREAM_REACHABLE, load_fleet
from workflow.models import Halt, NovaState

SHOWN = 500  # confirmations on a page; those that are waited for come first
_ORDER = {"unreachable": 0, "requested": 1, "delivered": 2, "acknowledged": 3, "confirmed": 4}


@fragment("banner", "reporting/orders/banner.html")
def banner(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give what everybody must see, whichever page they are on."""
    standing = list(Halt.objects.filter(lifted_at=None, drill=False).exclude(scope=Halt.Scope.NOVA).order_by("-id")[:5])
    counted = Halt.objects.filter(pk__in=[halt.pk for halt in standing]).values_list("pk", "confirmations__status")
    progress: dict[int, dict[str, int]] = {}
    for pk, status, number in counted.annotate(Count("confirmations")).order_by():
        progress.setdefault(pk, {})[status] = number
    stream = load_fleet().get(STREAM_REACHABLE)
    return {
        "orders": [(halt, *_confirmed(progress.get(halt.pk, {}))) for halt in standing],
        "stream_away_since": stream.since if stream is not None and stream.value is False else None,
    }


@fragment("halt:{halt_id}", "reporting/orders/progress.html")
def progress(request: HttpRequest, now: datetime, halt_id: int) -> Mapping[str, Any]:
    """Give how far each Nova has come in obeying an order."""
    halts.settle(now=now)  # whoever looks sees what is true now, whether or not a loop runs
    halt = Halt.objects.filter(pk=halt_id).first()
    if halt is None:
        raise Http404
    statuses = dict(halt.confirmations.order_by().values_list("status").annotate(Count("id")))
    confirmations = sorted(halt.confirmations.order_by("nova_id")[:5_000], key=lambda one: _ORDER[one.status])
    confirmed, total = _confirmed(statuses)
    return {
        "halt": halt,
        "confirmed": confirmed,
        "total": total,
        "waiting": total - confirmed - statuses.get("unreachable", 0),
        "confirmations": confirmations[:SHOWN],
        "more": max(0, total - SHOWN),
        "right_to_lift": halts.right_to_resume(
            list(NovaState.objects.filter(nova__halts__halt=halt).values_list("mode", flat=True).distinct())
        ),
    }


@page("reporting/orders/page.html", "workflow.view_halt")
def order(request: HttpRequest, now: datetime, halt_id: int) -> Mapping[str, Any]:
    """Show one order to stop."""
    halt = Halt.objects.filter(pk=halt_id).first()
    if halt is None:
        raise Http404
    return {"halt": halt, "progress": progress.show(request, now, halt_id=halt_id)}


def _confirmed(statuses: Mapping[str, int]) -> tuple[int, int]:
    return statuses.get("confirmed", 0), sum(number for status, number in statuses.items() if status)
