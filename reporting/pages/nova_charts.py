"""The charts of a Nova's page: its course through the states, how long tasks take, how many it does, what its models cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString, mark_safe
from django.utils.timezone import localtime

from reporting import series
from reporting.core import charts
from reporting.core.charts import Span
from reporting.core.timeline import STOPS, UNKNOWN
from reporting.core.words import lasting, plain
from reporting.fragments import fragment
from reporting.scope import Scope
from safety.models import SafetyPolicy
from workflow import budgets
from workflow.core.state import WorkflowState
from workflow.models import Nova, NovaUsage

HOURS = ((1, "60 min"), (24, "24 h"))  # the timeline's two lengths, the usual one first
_LANES = (*WorkflowState, *dict.fromkeys(STOPS.values()), UNKNOWN)
_TONES = {
    "task_execution": "good", "progress_update": "good", "completion_routine": "good", "stream_check": "info",
    "work_discovery": "info", "phase_transition": "calm", "initializing": "calm", "error_recovery": "bad",
    "safety_pause": "bad", "paused": "warn", "archived": "calm",
    "halted": "bad", "killed": "bad", "quarantined": "bad", UNKNOWN: "none",
}  # fmt: skip
_NEAR = 80  # per cent of a budget


@dataclass(frozen=True, slots=True)
class Budget:
    """What was used today (UTC) of one budget. `limit` empty: there is none."""

    title: str
    used: str
    limit: str
    chart: SafeString
    tone: str


def hours_asked_for(request: HttpRequest) -> int:
    """Give the length of the timeline that the query asks for, in hours."""
    return next((hours for hours, _ in HOURS if str(hours) == request.GET.get("hours")), HOURS[0][0])


@fragment("nova:{nova_id}", "reporting/nova/charts.html", keys=frozenset({"hours"}))
def nova_charts(request: HttpRequest, now: datetime, nova_id: str) -> Mapping[str, Any]:
    """Give the charts of one Nova."""
    nova = Nova.objects.select_related("personality", "policy").get(pk=nova_id)
    hours, scope = hours_asked_for(request), Scope(nova_id)
    work, done = series.cycle_times(scope, now=now), series.throughput(scope, now=now)
    return {
        "timeline": _timeline(nova_id, hours, now),
        "times": _times(work, nova.personality.base_cycle_time),
        "cases": sum(point["cases"] for point in work),
        "base": nova.personality.base_cycle_time,
        "throughput": _throughput(done),
        "done": sum(point["succeeded"] + point["succeeded_momentum"] for point in done),
        "calls": _calls(nova_id, nova.policy, now),
        "limit": nova.policy.requests_per_minute,
        "budgets": _budgets(nova, budgets.used_today(nova_id, now=now)),
    }


def _timeline(nova_id: str, hours: int, now: datetime) -> SafeString:
    stretches = [
        (datetime.fromisoformat(one["since"]), datetime.fromisoformat(one["until"]), one["state"])
        for one in series.state_timeline(nova_id, now=now, hours=hours)
    ]
    stretches.sort(key=lambda one: _LANES.index(one[2]) if one[2] in _LANES else len(_LANES))
    spans = [
        Span(plain(state), localtime(since), localtime(until), plain(state), _TONES.get(state, "none"))
        for since, until, state in stretches
        if state != UNKNOWN or len(stretches) == 1
    ]
    begin, title = localtime(now - timedelta(hours=hours)), f"States of {nova_id} over {hours * 60} minutes"
    wide = charts.timeline(spans, begin=begin, end=localtime(now), title=title, chart_id="states")
    narrow = charts.timeline(
        spans, begin=begin, end=localtime(now), title=title, chart_id="states-narrow", width=440, left=132, lane_height=26
    )
    spent: dict[str, float] = {}
    for since, until, state in stretches:
        spent[state] = spent.get(state, 0.0) + (until - since).total_seconds()
    total = sum(spent.values()) or 1.0
    rows = [(plain(state), lasting(seconds), f"{100 * seconds / total:.0f} %") for state, seconds in spent.items()]
    times = "".join(f"<span>{begin + timedelta(hours=hours) * part / 4:%H:%M}</span>" for part in range(5))
    axis = f'<p class="axis" aria-hidden="true">{times}</p>'
    both = f'<div class="on-wide">{wide}</div><div class="on-narrow">{narrow}</div>{axis}'
    return _told(charts.with_table(both, chart_id="states", heads=("State", "Time", "Share"), rows=rows))


def _times(points: Sequence[Mapping[str, Any]], base: float) -> SafeString:
    lines = {"median": [point["p50"] for point in points], "95th percentile": [point["p95"] for point in points]}
    title = f"Seconds from begin to end of tasks, median and 95th percentile of each hour; the base cycle takes {base:g} s"
    chart = charts.line(lines, title=title, chart_id="times", limit=base, unit=" s", width=480)
    rows = [(_hour(p), _seconds(p["p50"]), _seconds(p["p95"]), p["cases"]) for p in points if p["cases"]]
    return _told(charts.with_table(chart, chart_id="times", heads=("Hour", "Median", "95 %", "Tasks"), rows=rows))


def _throughput(points: Sequence[Mapping[str, Any]]) -> SafeString:
    values = [(_hour(point), float(point["succeeded"] + point["succeeded_momentum"])) for point in points]
    chart = charts.bars(values, title="Tasks done, an hour each, over 24 hours", chart_id="done", width=480, height=120)
    rows = [
        (_hour(p), p["created"], p["succeeded"], p["succeeded_momentum"], p["blocked"])
        for p in points
        if p["created"] or p["succeeded"] or p["succeeded_momentum"] or p["blocked"]
    ]
    heads = ("Hour", "Created", "Done", "Done of its own", "Blocked")
    return _told(charts.with_table(chart, chart_id="done", heads=heads, rows=rows))


def _calls(nova_id: str, policy: SafetyPolicy, now: datetime) -> SafeString:
    points = series.provider_calls(nova_id, now=now)
    title = f"Calls to model providers a minute over an hour; {policy.requests_per_minute} are allowed"
    values: list[float | None] = [point["calls"] for point in points]
    chart = charts.line({"calls": values}, title=title, chart_id="calls", limit=policy.requests_per_minute, width=480)
    rows = [(_hour(point), point["calls"]) for point in points if point["calls"]]
    return _told(charts.with_table(chart, chart_id="calls", heads=("Minute", "Calls"), rows=rows))


def _budgets(nova: Nova, used: NovaUsage) -> list[Budget]:
    return [
        _budget("Money", f"{used.cost:,.2f}", used.cost, nova.budget_cost, "{:,.2f}"),
        _budget("Tokens", f"{used.tokens:,}", used.tokens, nova.budget_tokens, "{:,}"),
        _budget("Calls", f"{used.requests:,}", used.requests, nova.budget_requests, "{:,}"),
    ]


def _budget(title: str, told: str, used: float, limit: float | None, form: str) -> Budget:
    if limit is None:
        return Budget(title, told, "", _told(""), "calm")
    share = 100 * used / limit if limit else 100.0
    tone = "bad" if share >= 100 else "warn" if share >= _NEAR else "good"
    parts = [("used", min(share, 100.0), tone), ("left", max(0.0, 100 - share), "none")]
    chart = charts.stacked_bar(parts, title=f"{title}: {share:.0f} % of the budget used", chart_id=f"budget-{title.lower()}")
    return Budget(title, told, form.format(limit), _told(chart), tone)


def _hour(point: Mapping[str, Any]) -> str:
    return f"{localtime(datetime.fromisoformat(point['at'])):%H:%M}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} s"


def _told(chart: str) -> SafeString:
    return mark_safe(chart)  # noqa: S308 - reporting.core.charts escapes what it draws
