"""The morning's page: what changed since you last took over, what is broken now, what waits for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_POST

from reporting import handover as service
from reporting.core.words import plain
from reporting.fragments import demand, page
from reporting.pages.links import address_of, page_of, story_of
from safety import audit

_RIGHT = "workflow.view_nova"
_COUNTS = {
    "created": "tasks asked for", "succeeded": "succeeded", "succeeded_momentum": "succeeded, made up by Novas",
    "cancelled": "cancelled", "blocked": "blocked", "retried": "tried again", "incidents": "incidents opened",
    "incidents_ended": "incidents ended", "safety_pauses": "pauses by safety", "quarantines": "quarantines",
    "breakers_opened": "breakers opened", "api_refusals": "calls refused", "operator_stops": "stops by people",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One list of a section: {title, count, rows as (words, since, address), how many more}."""

    title: str
    count: int
    rows: Sequence[tuple[str, datetime | None, str]]
    more: int
    tone: str  # of its number, where there is anything


@page("reporting/handover/page.html", _RIGHT)
def handover(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show the handover to whoever asks, from where they left off."""
    since = service.since_for(audit.current_actor(), now=now)
    found = service.make_handover(since=since, now=now, in_full=service.knows_people(request.user))
    changed, broken, waiting = found["changed"], found["broken"], found["waiting"]
    sections = [
        ("Still broken", [_novas(broken["novas"]), *_parts(broken, _BROKEN, "bad")], "Nothing is broken."),
        ("Waits for you", _parts(waiting, _WAITING, "warn"), "Nothing waits for a person."),
        ("Changed", _parts(changed, _CHANGED, "info"), ""),
    ]
    numbers = [sum(part.count for part in parts) for _, parts, _ in sections]
    return {
        "since": found["since"],
        "until": now,
        "counted_from": changed["counted_from"],
        "counts": [(words, changed["counts"][name]) for name, words in _COUNTS.items() if changed["counts"][name]],
        "verdict": _verdict(*numbers[:2]),
        "sections": [(title, parts, "" if number else nothing)
                     for (title, parts, nothing), number in zip(sections, numbers, strict=True)],
    }  # fmt: skip


def _verdict(broken: int, waiting: int) -> str:
    if not broken and not waiting:
        return "Nothing is broken, and nothing waits for you."
    first = f"{broken} {'thing is' if broken == 1 else 'things are'} broken" if broken else "Nothing is broken"
    second = f"{waiting} {'thing waits' if waiting == 1 else 'things wait'}" if waiting else "nothing waits"
    return f"{first}; {second} for you."


@require_POST
@login_required
def take_over(request: HttpRequest) -> HttpResponse:
    """Note that the handover was read, up to the instant at which it was shown."""
    demand(request, _RIGHT)
    now = timezone.now()  # noqa: TID251 - a door
    try:
        until = parse_datetime(request.POST.get("until", ""))
    except ValueError:
        until = None
    until = until if until is not None and until.tzinfo is not None else now
    service.take_over(audit.current_actor(), until=until, now=now)
    messages.success(request, "Taken over. The next handover begins here.")
    return HttpResponseRedirect(reverse("handover"))


def _novas(statuses: Mapping[str, int]) -> Part:
    rows = [(f"{number} {plain(status)}", None, f"{reverse('fleet')}?status={status}") for status, number in statuses.items()]
    return Part("Novas in trouble", sum(statuses.values()), rows, 0, "bad")


def _parts(section: Mapping[str, Any], lists: Mapping[str, tuple[str, Any]], tone: str) -> list[Part]:
    return [
        Part(title, section[name]["count"], [words(row) for row in section[name]["rows"]], section[name]["more"], tone)
        for name, (title, words) in lists.items()
    ]


def _alert(row: Mapping[str, Any]) -> tuple[str, datetime | None, str]:
    over = ", resolved" if row["until"] else ""
    return f"{row['title']} ({row['tier']}{over}, {row['count']})", row["since"], f"{reverse('alerts')}#event-{row['id']}"


def _incident(row: Mapping[str, Any]) -> tuple[str, datetime | None, str]:
    whose = row["nova_id"] or "the fleet"
    address = page_of("incident", str(row["id"])) or page_of("nova", row["nova_id"])
    return f"incident {row['id']} of {whose}: {plain(row['mechanism'])}, {plain(row['status'])}", row["since"], address


def _order(row: Mapping[str, Any]) -> tuple[str, datetime | None, str]:
    stands = "lifted" if row["lifted"] else "confirmed" if row["confirmed"] else "not confirmed"
    by = f" by {row['by']}" if row.get("by") else ""
    return f"{row['kind']} of {row['target'] or 'the fleet'}{by}: {stands}", row["since"], reverse("order", args=[row["id"]])


def _changed(row: Mapping[str, Any]) -> tuple[str, datetime | None, str]:
    by = f" by {row['by']}" if row.get("by") else ""
    fields = f": {', '.join(plain(name) for name in row['fields'][:4])}" if row["fields"] else ""
    if row["action"].endswith(".created"):
        fields = ", new"
    return f"{plain(row['type'])} {row['id']}{by}{fields}", row["at"], story_of(row["type"], row["id"])


def _blocked(row: Mapping[str, Any]) -> tuple[str, datetime | None, str]:
    for_whom = f", for {row['owner']}" if row.get("owner") else ""
    return f"{row['task_id']}{for_whom}", row["since"], page_of("task", row["task_id"])


_BROKEN: Mapping[str, tuple[str, Any]] = {
    "alerts": ("Alerts that fire", _alert),
    "incidents": ("Incidents that last", _incident),
    "breakers": (
        "Breakers that are not closed",
        lambda row: (f"{row['account']}: {plain(row['breaker'])}", row["since"], address_of("safety")),
    ),
    "channels": ("Channels that fail", lambda row: (row["channel"], row["since"], reverse("alerts"))),
}
_WAITING: Mapping[str, tuple[str, Any]] = {
    "approvals": (
        "Approvals",
        lambda row: (f"approval {row['id']} of {row['nova_id']}", row["since"], page_of("approval", str(row["id"]))),
    ),
    "blocked": ("Blocked tasks", _blocked),
    "incidents": ("Incidents that nobody looks at", _incident),
    "orders": ("Orders to stop that stand", _order),
    "stopped": (
        "Novas that only a person resumes",
        lambda row: (f"{row['nova_id']}: {row['mode']}", row["since"], reverse("nova", args=[row["nova_id"]])),
    ),
}
_CHANGED: Mapping[str, tuple[str, Any]] = {
    "alerts": ("Alerts", _alert),
    "incidents": ("Incidents", _incident),
    "orders": ("Orders to stop", _order),
    "configuration": ("Configuration", _changed),
}
