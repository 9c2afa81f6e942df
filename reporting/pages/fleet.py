"""The first screen: is it fine, and if not, which Nova, and why? Six tiles, then the table, trouble first."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.http import urlencode

from reporting import fleet_rows
from reporting.core.statuses import LOOKS, verdict
from reporting.fragments import fragment, page
from reporting.pages.alerts import alerts_firing
from reporting.tiles import section_tiles
from safety.models import ApiKey, ProviderAccount
from workflow.core.demonstration import TEAM
from workflow.models import Nova

KEYS = frozenset({"q", "team", "status", "page"})


@fragment("fleet", "reporting/fleet/summary.html")
def fleet_summary(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give the sentence that says how it stands, and the six tiles: of real Novas only."""
    counts = fleet_rows.counts_by_status(fleet_rows.statuses(now).exclude(nova__team=TEAM))
    return {"verdict": verdict(counts), "tiles": section_tiles(counts, now)}


@fragment("fleet", "reporting/fleet/table.html", keys=KEYS)
def fleet_table(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give one page of the table, as the query asks."""
    asked = asked_for(request)
    number = request.GET.get("page", "1")
    shown = fleet_rows.fleet_page(
        now=now, text=asked["q"], team=asked["team"], status=asked["status"], number=int(number) if number.isdecimal() else 1
    )
    kept = {name: value for name, value in asked.items() if value and name != "status"}
    links = [
        (look, shown.counts[look.status], f"?{urlencode({**kept, 'status': look.status})}", asked["status"] == look.status)
        for look in LOOKS.values()
        if shown.counts.get(look.status)
    ]
    return {
        "page": shown,
        "links": links,
        "all_link": f"?{urlencode(kept)}",
        "total": sum(shown.counts.values()),
        "filters": sum(bool(value) for value in asked.values()),
        "status": asked["status"],
        "query": urlencode({name: value for name, value in asked.items() if value}),
        "any": bool(shown.counts) or Nova.objects.exists(),
    }


@page("reporting/fleet/page.html", "workflow.view_nova")
def fleet(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show the fleet."""
    teams = Nova.objects.filter(archived_at=None).exclude(team="").order_by("team").values_list("team", flat=True).distinct()
    return {
        "summary": fleet_summary.show(request, now),
        "alerts": alerts_firing.show(request, now),
        "table": fleet_table.show(request, now),
        "asked": asked_for(request),
        "teams": list(teams[:100]),
        "steps": [] if connected() else first_steps(request),
    }


def asked_for(request: HttpRequest) -> dict[str, str]:
    """Give what the query asks for; names that mean nothing are left out."""
    return {name: request.GET.get(name, "").replace("\0", "")[:100].strip() for name in ("q", "team", "status")}


def connected() -> bool:
    """Tell whether anything but the builtin work can do tasks here: a model's account, or an agent with a key."""
    return ProviderAccount.objects.exists() or ApiKey.objects.exclude(nova_id="").filter(revoked_at=None).exists()


def first_steps(request: HttpRequest) -> list[tuple[str, str, str]]:
    """Give (title, what it does, a command to copy) of the steps that connect an agent and give it work."""
    first = (
        Nova.objects.filter(archived_at=None).exclude(team=TEAM).order_by("nova_id").values_list("nova_id", flat=True).first()
    )
    nova_id, address = first or "torch", f"{request.scheme}://{request.get_host()}"
    python = ".venv/bin/python" if not settings.PRODUCTION else "python"
    return [
        ("Give an agent a key", f"It is shown once, and lets its holder act as {nova_id}.",
         f"{python} manage.py apikey_create {nova_id}"),
        ("Give it work", "The task waits until the agent claims it.",
         f"{python} manage.py task create 'Write the release notes' --assignee {nova_id} --executor agent"),
        ("Let the agent claim it", "Put the key of step 1 in place of KEY.",
         f"curl -X POST {address}/api/v1/tasks/claim -H 'Authorization: Bearer KEY'"),
    ]  # fmt: skip
