"""Alerts: those that fire, the worst first, and those that are over. The fleet page shows the first of them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Case, IntegerField, Value, When
from django.http import HttpRequest
from django.utils.http import urlencode

from reporting.core.alerting import TIERS
from reporting.core.statuses import Look
from reporting.fragments import fragment, page
from reporting.models import AlertEvent

PAGE = 50
FIRST = 3  # of those that fire, on the fleet page
SUBJECTS = 5  # named of one alert
LOOKS: Mapping[str, Look] = {
    "critical": Look("critical", "Critical", "bad", "alert"),
    "warning": Look("warning", "Warning", "warn", "alert"),
    "info": Look("info", "Notice", "info", "dot"),
}
_KEYS = frozenset({"tier", "rule", "before"})


def firing() -> Any:
    """Give those that fire, the worst first, and of these the oldest."""
    rank = Case(*(When(tier=tier, then=Value(-place)) for place, tier in enumerate(TIERS)), output_field=IntegerField())
    return AlertEvent.objects.filter(status=AlertEvent.Status.FIRING).order_by(rank, "fired_at", "id")


@fragment("alerts", "reporting/alerts/first.html")
def alerts_firing(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give the first of those that fire."""
    found = list(firing()[:100])
    return {"alerts": [(event, LOOKS[event.tier]) for event in found[:FIRST]], "number": len(found)}


@fragment("alerts", "reporting/alerts/lists.html", keys=_KEYS)
def alerts_lists(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give those that fire, and a page of those that are over."""
    asked = {name: request.GET.get(name, "").replace("\0", "")[:64] for name in ("tier", "rule")}
    said = {name: value for name, value in asked.items() if value}
    narrowed = {"tier": asked["tier"]} if asked["tier"] in LOOKS else {}
    if asked["rule"]:
        narrowed["rule_id"] = asked["rule"]
    over = AlertEvent.objects.filter(status=AlertEvent.Status.RESOLVED, **narrowed).order_by("-id")
    before = request.GET.get("before", "")
    if before.isdecimal() and len(before) < 19:
        over = over.filter(id__lt=int(before))
    found = list(over[: PAGE + 1])
    return {
        "firing": [(event, LOOKS[event.tier], event.subjects[:SUBJECTS]) for event in firing().filter(**narrowed)[:200]],
        "over": [(event, LOOKS[event.tier]) for event in found[:PAGE]],
        "older": found[PAGE - 1].id if len(found) > PAGE else 0,
        "tiers": [(look, f"?{urlencode({**said, 'tier': name})}", asked["tier"] == name) for name, look in LOOKS.items()],
        "filters": len(said),
        "query": urlencode(said),
    }


@page("reporting/alerts/page.html", "reporting.view_alertevent")
def alerts(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show the alerts."""
    return {"lists": alerts_lists.show(request, now)}
