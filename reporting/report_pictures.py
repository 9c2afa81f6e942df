"""A payload's six sections as people read them: a sentence, the figure that matters most, a chart, a table. Snapshot or live.

Text and SVG out of plain values; nothing is loaded here. What has too few cases says so, and is drawn nowhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reporting.core import charts
from reporting.core.words import plain

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One figure: its value in words, what it was before, how it is computed."""

    name: str
    text: str
    number: str  # the value without its unit, where it is a plain number
    enough: bool  # there are cases enough for a value
    before: str
    change: str
    tone: str
    cases: int
    formula: str


@dataclass(frozen=True, slots=True)
class Section:
    """One of the six sections. `missing`: why it could not be read; empty: it was."""

    key: str
    title: str
    figure: FigureRow | None
    sentence: str
    chart: str
    legend: Sequence[tuple[str, str]]  # word, and the tone or line that it stands for
    caption: str
    rows: Sequence[FigureRow]
    missing: str


TITLES: Mapping[str, str] = {
    "operational_status": "Operational status",
    "productivity_metrics": "Productivity",
    "quality_indicators": "Quality",
    "collaboration_metrics": "Collaboration",
    "safety_compliance": "Safety",
    "task_tracking_status": "Task tracking",
}
# The figure that stands for its section.
_HEADLINES = {
    "operational_status": "novas_working",
    "productivity_metrics": "tasks_completed_24h",
    "quality_indicators": "quality_score",
    "collaboration_metrics": "messages_sent",
    "safety_compliance": "safe_percentage",
    "task_tracking_status": "tasks_pending",
}
_PLAIN = frozenset({"Novas", "tasks", "orders", "cycles", "times", "messages", "insights", "incidents", "approvals"})
_ENDINGS = (
    ("_percentage", ""), ("_seconds", ""), ("_24h", ", last 24 hours"), ("_p50", ", median"), ("_p95", ", 95th percentile"),
)  # fmt: skip
# Of these less is better, or more; of others neither.
_LESS = frozenset(
    {"novas_in_trouble", "rework_percentage", "retry_percentage", "refused_completions", "cycle_time_p50_seconds",
     "cycle_time_p95_seconds", "lead_time_p50_seconds", "incidents_opened", "safety_pauses", "api_refusals", "quarantines"}
)  # fmt: skip
_MORE = frozenset(
    {"tasks_completed_24h", "average_tasks_per_hour", "completion_rate_percentage", "quality_score", "evidence_percentage",
     "insights_shared", "incidents_ended", "protocol_compliance_percentage"}
)  # fmt: skip


def sections(dashboard: Payload, comparison: Payload, series: Payload) -> list[Section]:
    """Give the six sections. `comparison` may be empty; `series` has throughput, cycle_times, incidents_per_day."""
    return [_section(key, title, dashboard, comparison, series) for key, title in TITLES.items()]


def _section(key: str, title: str, dashboard: Payload, comparison: Payload, series: Payload) -> Section:
    if key in dashboard["missing"]:
        return Section(key, title, None, "", "", (), "", [], str(dashboard["missing"][key]))
    rows = dict(_rows(dashboard["figures"][key], comparison.get(key, {})))
    text = {name: row.number for name, row in rows.items()}
    if (trend := dashboard[key].get("productivity_trend")) is not None:
        text["productivity_trend"] = f"{trend:+.1f} %"
    said, drawn = _WORDS[key](text), _DRAWN[key](dashboard[key], series)
    caption, legend = _LEGENDS[key] if drawn else ("", ())
    return Section(key, title, rows.get(_HEADLINES[key]), said, drawn, legend, caption, list(rows.values()), "")


def _rows(figures: Payload, compared: Payload) -> Iterator[tuple[str, FigureRow]]:
    for name, figure in figures.items():
        other = compared.get(name, {})
        percent, points = other.get("change_percentage"), other.get("change_points")
        amount = percent if percent is not None else points
        change = "" if amount is None else f"{amount:+.1f} {'%' if percent is not None else 'points'}"
        yield (
            name,
            FigureRow(
                _spoken(name),
                figure["text"],
                figure["text"].removesuffix(figure["unit"]).strip() if figure["unit"] in _PLAIN else figure["text"],
                figure["value"] is not None,
                other.get("previous_text") or "",
                change,
                _tone(name, amount),
                figure["cases"],
                figure["formula"],
            ),
        )


def _spoken(name: str) -> str:
    for ending, words in _ENDINGS:
        name = name.replace(ending, words)
    words = plain(name)
    return (words[0].upper() + words[1:]).replace("Api ", "API ")


def _tone(name: str, amount: float | None) -> str:
    if not amount or name not in _LESS | _MORE:
        return "calm"
    return "good" if (amount > 0) == (name in _MORE) else "warn"


_WORDS: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    "operational_status": lambda t: (
        f"{t['novas_working']} of {t['novas_total']} Novas at work, {t['novas_idle']} waiting for work, "
        f"{t['novas_stopped']} stopped by people, {t['novas_in_trouble']} in trouble."
    ),
    "productivity_metrics": lambda t: (
        f"{t['tasks_completed_24h']} tasks done in the last 24 hours, {t['average_tasks_per_hour']} over the period; "
        f"completion rate {t['completion_rate_percentage']}; change against the period before: {t['productivity_trend']}."
    ),
    "quality_indicators": lambda t: (
        f"Score {t['quality_score']}, with evidence {t['evidence_percentage']}, done again {t['rework_percentage']}; half of "
        f"the tasks took {t['cycle_time_p50_seconds']} or less."
    ),
    "collaboration_metrics": lambda t: (
        f"{t['messages_sent']} messages between Novas, {t['insights_shared']} insights shared, "
        f"{t['tasks_claimed']} tasks taken from the shared queue."
    ),
    "safety_compliance": lambda t: (
        f"{t['safe_percentage']} of the Novas safe now; {t['incidents_opened']} incidents opened, "
        f"{t['incidents_ended']} ended; {t['safety_pauses']} pauses by safety."
    ),
    "task_tracking_status": lambda t: (
        f"{t['tasks_pending']} tasks pending, {t['tasks_in_progress']} in progress, {t['tasks_blocked']} blocked, "
        f"{t['approvals_waiting']} waiting for a person."
    ),
}


def _parts(chart_id: str, title: str, parts: Sequence[tuple[str, Any, str]]) -> str:
    known = [(word, float(amount), tone) for word, amount, tone in parts if amount is not None]
    if not any(amount for _, amount, _ in known):
        return ""
    told = ", ".join(f"{amount:g} {word}" for word, amount, _ in known if amount)
    bar = charts.stacked_bar(known, title=f"{title}: {told}", chart_id=chart_id)
    return charts.with_table(bar, chart_id=chart_id, heads=("", "Number"), rows=[(w, f"{a:g}") for w, a, _ in known])


def _operational(values: Payload, series: Payload) -> str:
    return _parts("operational", "Novas", [
        ("working", values.get("novas_working"), "good"), ("idle", values.get("novas_idle"), "info"),
        ("stopped", values.get("novas_stopped"), "warn"), ("in trouble", values.get("novas_in_trouble"), "bad"),
    ])  # fmt: skip


def _productivity(values: Payload, series: Payload) -> str:
    points = series.get("throughput") or []
    if not any(point["succeeded"] for point in points):
        return ""
    named = [(_instant(point["at"]), float(point["succeeded"])) for point in points]
    bar = charts.bars(
        named, title="Tasks that succeeded, over the period (UTC)", chart_id="productivity", width=640, height=120
    )
    rows = [(_instant(p["at"]), p["created"], p["succeeded"], p["blocked"]) for p in points]
    return charts.with_table(bar, chart_id="productivity", heads=("From (UTC)", "Created", "Succeeded", "Blocked"), rows=rows)


def _quality(values: Payload, series: Payload) -> str:
    points = series.get("cycle_times") or []
    if not any(point["cases"] for point in points):
        return ""
    lines = {"median": [point["p50"] for point in points], "95th percentile": [point["p95"] for point in points]}
    title = "Seconds that tasks took, median and 95th percentile"
    drawn = charts.line(lines, title=title, chart_id="quality", unit=" s", height=140)
    rows = [(_instant(p["at"]), _shown(p["p50"]), _shown(p["p95"]), p["cases"]) for p in points]
    return charts.with_table(drawn, chart_id="quality", heads=("From (UTC)", "Median s", "95th s", "Cases"), rows=rows)


def _collaboration(values: Payload, series: Payload) -> str:
    return _parts("collaboration", "What passed between Novas", [
        ("messages", values.get("messages_sent"), "info"), ("insights", values.get("insights_shared"), "good"),
        ("tasks claimed", values.get("tasks_claimed"), "warn"), ("celebrations", values.get("celebrations"), "calm"),
    ])  # fmt: skip


def _safety(values: Payload, series: Payload) -> str:
    points = series.get("incidents_per_day") or []
    slots = [
        (f"{point['day']}: {point['incidents']} incidents, {point['safety_pauses']} pauses",
         "bad" if point["incidents"] else "warn" if point["safety_pauses"] or point["api_refusals"] else "good")
        for point in points
    ]  # fmt: skip
    if not slots:
        return ""
    drawn = charts.tracker(slots, title="Days with incidents, with pauses, without", chart_id="safety", width=640)
    rows = [(p["day"], p["incidents"], p["incidents_ended"], p["safety_pauses"], p["api_refusals"]) for p in points]
    heads = ("Day (UTC)", "Opened", "Ended", "Pauses", "Calls refused")
    return charts.with_table(drawn, chart_id="safety", heads=heads, rows=rows)


def _tasks(values: Payload, series: Payload) -> str:
    return _parts("tasks", "Unfinished tasks", [
        ("in progress", values.get("tasks_in_progress"), "good"), ("pending", values.get("tasks_pending"), "info"),
        ("blocked", values.get("tasks_blocked"), "warn"),
    ])  # fmt: skip


_LEGENDS: Mapping[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "operational_status": (
        "Novas, as they stand", (("working", "good"), ("idle", "info"), ("stopped", "warn"), ("in trouble", "bad"))
    ),
    "productivity_metrics": ("Tasks that succeeded, over the period", ()),
    "quality_indicators": ("How long tasks took, in seconds", (("median", "c1"), ("95th percentile", "c2"))),
    "collaboration_metrics": (
        "Over the period", (("messages", "info"), ("insights", "good"), ("tasks claimed", "warn"), ("celebrations", "calm"))
    ),
    "safety_compliance": (
        "Days of the period", (("with incidents", "bad"), ("pauses or refusals only", "warn"), ("quiet", "good"))
    ),
    "task_tracking_status": ("As they stand", (("in progress", "good"), ("pending", "info"), ("blocked", "warn"))),
}  # fmt: skip
_DRAWN: Mapping[str, Callable[[Payload, Payload], str]] = {
    "operational_status": _operational,
    "productivity_metrics": _productivity,
    "quality_indicators": _quality,
    "collaboration_metrics": _collaboration,
    "safety_compliance": _safety,
    "task_tracking_status": _tasks,
}


def _instant(text: str) -> str:
    return text[:16].replace("T", " ")


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
