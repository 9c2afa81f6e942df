"""What charts are drawn from: figures over time, a Nova's course through its states, margins to the limits in force.

Plain values, of sums and counts; nothing is drawn here. Every series is bounded, whatever the history.
"""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Sum

from reporting import standing
from reporting.core import histogram, tally
from reporting.core.buckets import DAY, HOUR, KEPT, start_of
from reporting.core.tally import Sums, add
from reporting.core.timeline import MOVED, STARTS, STOPS, Moment, course
from reporting.models import RollUp
from reporting.roll_ups import key_of
from reporting.scope import Scope
from safety.limits import MEANINGS
from safety.models import AuditEntry, Observation, SafetyState
from safety.observations import Kind
from safety.windows import NO_COUNTS, load_counts
from workflow.effective import EffectiveConfigurations
from workflow.models import Nova

TIMELINE_ENTRIES = 4_000  # of a Nova's newest journal entries are looked at
MARGINS_SHOWN = 10  # Novas nearest to a limit
_MINUTE = timedelta(minutes=1)
# Limit of the policy -> the count of the judges' windows that is held against it.
_MEASURED = {
    "requests_per_minute": "api_requests_minute",
    "requests_per_hour": "api_requests_hour",
    "requests_per_day": "api_requests_day",
    "burst_requests": "api_requests_burst",
    "tool_uses_per_minute": "tool_uses_minute",
    "failures_in_window": "failures_in_failure_window",
    "identical_calls_per_minute": "identical_calls_minute",
    "own_wakes_per_hour": "own_wakes_hour",
    "empty_cycles_per_minute": "empty_cycles_minute",
    "hook_failures_in_window": "hook_failures_in_window",
    "session_events_per_minute": "session_events_minute",
}


def _buckets(scope: Scope, grain: int, number: int, now: datetime) -> list[tuple[datetime, Sums]]:
    """Give the newest buckets of a scope, the one of now last, by start."""
    length = timedelta(minutes=grain)
    last = start_of(now, grain)
    starts = [last - length * back for back in range(number - 1, -1, -1)]
    rows = dict(RollUp.objects.filter(key__in=[key_of(scope.key, grain, at) for at in starts]).values_list("key", "sums"))
    return [(at, rows.get(key_of(scope.key, grain, at), {})) for at in starts]


def throughput(scope: Scope, *, now: datetime, hours: int = 24, grain: int = HOUR) -> list[dict[str, Any]]:
    """Give for each hour (or bucket of so many minutes) how many tasks were created and how many ended, and how."""
    return [
        {
            "at": at.isoformat(),
            "created": sums.get("created", 0),
            "succeeded": sums.get("succeeded", 0),
            "succeeded_momentum": sums.get("succeeded_momentum", 0),
            "cancelled": sums.get("cancelled", 0),
            "blocked": sums.get("blocked", 0),
        }
        for at, sums in _buckets(scope, grain, _within(hours, grain), now)
    ]


def cycle_times(scope: Scope, *, now: datetime, hours: int = 24, grain: int = HOUR) -> list[dict[str, Any]]:
    """Give for each hour how long tasks took from begin to end, in seconds: median, 95th percentile (None: no cases)."""
    points = []
    for at, sums in _buckets(scope, grain, _within(hours, grain), now):
        counts = tally.histogram_of(sums, tally.WORK)
        points.append(
            {
                "at": at.isoformat(),
                "p50": histogram.quantile(counts, 0.5),
                "p95": histogram.quantile(counts, 0.95),
                "cases": sum(counts.values()),
            }
        )
    return points


def cumulative_flow(scope: Scope, *, now: datetime, hours: int = 168) -> list[dict[str, Any]]:
    """Give how many tasks were pending, in progress and blocked at the end of each hour, and completed since the first.

    Counted back from the tasks that are open now; a team's and a Nova's are those assigned to them.
    """
    buckets = _buckets(scope, HOUR, _within(hours, HOUR), now)
    level = Counter(standing.open_tasks(scope, assigned_only=True))
    total: Sums = {}
    for _, sums in buckets:
        add(total, sums)
    completed = total.get(tally.COMPLETED, 0)
    points = []
    for at, sums in reversed(buckets):
        points.append(
            {"at": min(now, at + timedelta(hours=1)).isoformat(), "completed": completed}
            | {status: max(0, level[status]) for status in ("pending", "in_progress", "blocked")}
        )
        completed -= sums.get(tally.COMPLETED, 0)
        for status in ("pending", "in_progress", "blocked"):
            level[status] -= sums.get(tally.LEVELS[status], 0)
    return points[::-1]


def incidents_per_day(scope: Scope, *, now: datetime, days: int = 30) -> list[dict[str, Any]]:
    """Give for each day (UTC) how many incidents were opened and ended, and how often Novas became unsafe or were refused."""
    names = ("incidents", "incidents_ended", "safety_pauses", "api_refusals", "quarantines")
    return [
        {"day": at.date().isoformat()} | {name: sums.get(name, 0) for name in names}
        for at, sums in _buckets(scope, DAY, max(1, min(days, 366)), now)
    ]


def state_timeline(nova_id: str, *, now: datetime, hours: float = 24) -> list[dict[str, Any]]:
    """Give the stretches of a Nova's last hours, oldest first: {since, until, state}. Only its newest entries are looked at."""
    since = now - timedelta(hours=hours)
    rows = AuditEntry.objects.filter(nova_id=nova_id, action__in=(MOVED, *STOPS, *STARTS), personal=False).order_by("id")
    if first := oldest_of_newest(nova_id, TIMELINE_ENTRIES):
        rows = rows.filter(id__gte=first)
    moments = [
        Moment(at, action, tuple((after or {}).get("path") or ()))
        for at, action, after in rows.values_list("created_at", "action", "after")
    ]
    return [
        {"since": stretch.since.isoformat(), "until": stretch.until.isoformat(), "state": stretch.state}
        for stretch in course(moments, since, now)
    ]


def oldest_of_newest(nova_id: str, number: int, *, before: int = 0) -> int:
    """Give the id of the oldest of a Nova's newest journal entries (before an id); 0: it has not so many. One index is read."""
    rows = AuditEntry.objects.filter(nova_id=nova_id, **({"id__lt": before} if before else {}))
    return next(iter(rows.order_by("-id").values_list("id", flat=True)[number - 1 : number]), 0)


def safety_margins(scope: Scope, *, now: datetime) -> list[dict[str, Any]]:
    """Give the limits in force beside what was measured: of a Nova all, of a team or the fleet the nearest to being reached."""
    nova_ids = [scope.nova_id] if scope.nova_id else _busiest(scope, now)
    configured = EffectiveConfigurations().load(nova_ids, now=now)
    cooled = dict.fromkeys(nova_ids) | dict(
        SafetyState.objects.filter(nova_id__in=nova_ids).values_list("nova_id", "cooldown_since")
    )
    counts = load_counts(cooled, {name: found.rules for name, found in configured.items()}, now) if nova_ids else {}
    margins = []
    for nova_id, found in configured.items():
        measured = dict(NO_COUNTS) | counts.get(nova_id, {})
        for limit, name in _MEASURED.items():
            most = getattr(found.rules, limit)
            margins.append(
                {
                    "nova_id": nova_id,
                    "limit": limit,
                    "meaning": MEANINGS[limit][1],
                    "most": most,
                    "measured": measured[name],
                    "used_percentage": round(100 * measured[name] / most, 1) if most else None,
                }
            )
    if scope.nova_id:
        return margins
    margins.sort(key=lambda margin: -(margin["used_percentage"] or 0))
    return margins[:MARGINS_SHOWN]


def provider_calls(nova_id: str, *, now: datetime, minutes: int = 60) -> list[dict[str, Any]]:
    """Give for each of a Nova's last minutes how many calls to model providers it made; the minute of now is the last."""
    last = start_of(now, 1)
    starts = [last - _MINUTE * back for back in range(minutes - 1, -1, -1)]
    rows = Observation.objects.filter(nova_id=nova_id, kind=Kind.API_REQUEST_BY_MINUTE, at__gte=starts[0], at__lte=last)
    counts = dict(rows.order_by().values_list("at").annotate(Sum("count")))
    return [{"at": at.isoformat(), "calls": counts.get(at, 0)} for at in starts]


def _busiest(scope: Scope, now: datetime) -> list[str]:
    """Give the Novas that called models and tools most within the last minute."""
    seen = Observation.objects.filter(at__gt=now - _MINUTE, kind__in=(Kind.API_REQUEST, Kind.TOOL_USE))
    if scope.team:
        seen = seen.filter(nova_id__in=Nova.objects.filter(team=scope.team).values("pk"))
    rows = seen.values("nova_id").annotate(number=Sum("count")).order_by("-number", "nova_id")
    return [row["nova_id"] for row in rows[:MARGINS_SHOWN]]


def _within(number: int, grain: int) -> int:
    return max(1, min(number, int(KEPT[grain] / timedelta(minutes=grain))))
