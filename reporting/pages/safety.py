"""The safety page: is every Nova guarded, what objects to which of them, who stands under an order, and what happened."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import HttpRequest

from reporting import safety_rows, series
from reporting.core import charts
from reporting.core.safety_looks import BREAKERS, INCIDENTS, MECHANISMS, mechanism_title, posture
from reporting.fragments import fragment, page
from reporting.incident_rows import incident_page
from reporting.scope import Scope
from safety.admin import may_read_texts
from safety.models import SafetyIncident
from workflow import halts
from workflow.core.demonstration import TEAM

KEYS = frozenset({"q", "show", "page", "status", "mechanism", "nova", "from"})
DAYS = 30
_NEAR, _CLOSE = 100, 75  # per cent of a limit
_FIRST_LIMITS = 8  # those of calls and tools; the others are folded


@fragment("safety", "reporting/safety/summary.html")
def safety_summary(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give the sentence that says how safe it is, and the incidents of the last days."""
    real = safety_rows.novas_in_service().exclude(nova__team=TEAM)
    total, unsafe = real.count(), real.filter(stopped=True).count()
    lasting = SafetyIncident.objects.filter(ended_at=None)
    unseen = lasting.filter(status=SafetyIncident.Status.OPEN).count()
    days = series.incidents_per_day(Scope(), now=now, days=DAYS)
    values = [(day["day"], float(day["incidents"])) for day in days]
    title = f"Incidents opened, a day each, over {DAYS} days: {sum(value for _, value in values):g}"
    chart = charts.bars(values, title=title, chart_id="incidents", width=480, height=96)
    objecting = safety_rows.objections()
    rows = [(day["day"], day["incidents"], day["safety_pauses"], day["api_refusals"]) for day in reversed(days) if any_of(day)]
    heads = ("Day", "Incidents", "Safety pauses", "Calls refused")
    return {
        "posture": posture(unsafe, total, lasting.count(), unseen),
        "chart": charts.with_table(chart, chart_id="incidents", heads=heads, rows=rows, summary=f"The numbers of {DAYS} days"),
        "checked": checked(),
        "mechanisms": [(name, title, what, objecting.get(name, 0)) for name, (title, what) in MECHANISMS.items()],
    }


def checked() -> str:
    """Give how many cycles were begun with the judges' leave; empty for none."""
    cycles = safety_rows.cycles_checked()
    return f"{cycles:,}" if cycles else ""


def any_of(day: Mapping[str, Any]) -> bool:
    """Tell whether anything happened on a day of a series."""
    return any(value for name, value in day.items() if name != "day")


@fragment("banner", "reporting/safety/orders.html")
def safety_orders(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give the orders that stand, confirmed Nova by Nova, and the last drill."""
    halts.settle(now=now)  # whoever looks sees what is true now, whether or not a loop runs
    return {"orders": safety_rows.standing_orders(), "drill": safety_rows.last_drill()}


@fragment("safety", "reporting/safety/matrix.html", keys=KEYS)
def safety_matrix(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give one page of the matrix of Novas and mechanisms."""
    only = request.GET.get("show") == "trouble"
    text = word(request, "q")
    shown = safety_rows.matrix(now, text, only_trouble=only, number=number(request, "page"))
    objecting = safety_rows.objections()
    return {
        "matrix": shown,
        "heads": [(title, what, objecting.get(name, 0)) for name, (title, what) in MECHANISMS.items()],
        "only": only,
        "asked": text,
        "all_link": link(request, "novas", show=None, page=None),
        "trouble_link": link(request, "novas", show="trouble", page=None),
        "before": link(request, "novas", page=shown.number - 1),
        "next": link(request, "novas", page=shown.number + 1),
    }


@fragment("safety", "reporting/safety/incidents.html", keys=KEYS)
def safety_incidents(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give one page of incidents, those that want a person first."""
    status, mechanism, nova_id = word(request, "status"), word(request, "mechanism"), word(request, "nova")
    shown = incident_page(
        status=status, mechanism=mechanism, nova_id=nova_id, number=number(request, "from"), texts=may_read_texts(request)
    )
    chips = [
        (sign, name, shown.counts.get(name, 0), link(request, "incidents", **{"status": name, "from": None}))
        for name, sign in INCIDENTS.items()
    ]
    quiet = not shown.rows and shown.number == 1 and not (status or mechanism or nova_id)
    return {
        "shown": shown,
        "chips": chips,
        "status": status,
        "may_read": may_read_texts(request),
        "lasting": sum(shown.counts.values()),
        "all_link": link(request, "incidents", **{"status": None, "from": None}),
        "lasting_link": link(request, "incidents", **{"status": "lasting", "from": None}),
        "filters": sum(map(bool, (status, mechanism, nova_id))),
        "clear": link(request, "incidents", **dict.fromkeys(("status", "mechanism", "nova", "from"))),
        "before": link(request, "incidents", **{"from": shown.number - 1}),
        "next": link(request, "incidents", **{"from": shown.number + 1}),
        "checked": checked() if quiet else "",
    }


@fragment("safety", "reporting/safety/guards.html")
def safety_guards(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give how near the Novas are to their limits, the breakers, and the limits in force."""
    policies, limits = safety_rows.policies_in_use()
    return {
        "margins": [
            _margin(place, one) for place, one in enumerate(series.safety_margins(Scope(), now=now)) if one["measured"]
        ],
        "breakers": [(account, BREAKERS[account.breaker]) for account in safety_rows.breakers(now)],
        "policies": policies,
        "limits": limits[:_FIRST_LIMITS],
        "further": limits[_FIRST_LIMITS:],
    }


def _margin(place: int, one: Mapping[str, Any]) -> Mapping[str, Any]:
    used = one["used_percentage"] or 0.0
    tone = "bad" if used >= _NEAR else "warn" if used >= _CLOSE else "good"
    parts = [("used", min(used, 100.0), tone), ("left", max(0.0, 100.0 - used), "none")]
    title = f"{one['nova_id']}: {one['measured']:g} of {one['most']:g} {one['meaning']}"
    return {**one, "tone": tone, "chart": charts.stacked_bar(parts, title=title, chart_id=f"margin-{place}", width=160)}


@page("reporting/safety/page.html", "safety.view_safetyincident")
def safety(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show how safe the fleet is."""
    parts = (safety_summary, safety_orders, safety_matrix, safety_incidents, safety_guards)
    return {
        **{part.name.removeprefix("safety_"): part.show(request, now) for part in parts},
        "asked": {name: word(request, name) for name in sorted(KEYS)},
        "mechanisms": [(name, mechanism_title(name)) for name in (*MECHANISMS, "stream_gap")],
    }


def word(request: HttpRequest, name: str) -> str:
    """Give what the query says under a name, fit for a search."""
    return request.GET.get(name, "").replace("\0", "")[:100].strip()


def number(request: HttpRequest, name: str) -> int:
    """Give the number of a page in the query; 1 for anything else."""
    given = word(request, name)
    return min(int(given), 1_000_000) if given.isascii() and given.isdecimal() else 1


def link(request: HttpRequest, anchor: str, **changes: str | int | None) -> str:
    """Give the page's address with its query changed; None leaves a name out."""
    query = request.GET.copy()
    for name in [name for name in query if name not in KEYS]:
        del query[name]
    for name, value in changes.items():
        query.pop(name, None)
        if value is not None:
            query[name] = str(value)
    return f"?{query.urlencode()}#{anchor}"
