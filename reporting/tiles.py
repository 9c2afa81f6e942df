"""The six tiles of the first screen, one for each section of the specification's dashboard: of its payload, made short.

A section that failed, or that has too few cases, says so in its tile; the page stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reporting import series
from reporting.core import charts
from reporting.core.statuses import LOOKS
from reporting.reporting_system import EnterpriseReportingSystem
from reporting.scope import Scope

UNKNOWN = "–"
_GOOD_QUALITY, _FAIR_QUALITY = 90, 70  # per cent


@dataclass(frozen=True, slots=True)
class Tile:
    """One number with its word, tone and chart, and where it leads."""

    section: str
    title: str
    number: str
    unit: str
    word: str
    tone: str
    chart: str = ""
    url: str = ""


def section_tiles(counts: Mapping[str, int], now: datetime) -> list[Tile]:
    """Give the tiles; `counts` are the fleet's, by derived status."""
    payload = EnterpriseReportingSystem().generate_real_time_dashboard(now)
    hours = series.throughput(Scope(), now=now)
    return [
        _operational(counts),
        _productivity(payload, hours),
        _quality(payload),
        _collaboration(payload),
        _safety(payload),
        _tasks(payload),
    ]


def _operational(counts: Mapping[str, int]) -> Tile:
    total = sum(counts.values())
    needing = sum(number for status, number in counts.items() if LOOKS[status].needs_help)
    parts = [(look.word, counts.get(look.status, 0), look.tone) for look in LOOKS.values()]
    chart = charts.stacked_bar(parts, title=f"Novas by status: {_told(parts)}", chart_id="tile-operational")
    word, tone = (f"{needing} need{'s' if needing == 1 else ''} help", "bad") if needing else ("no trouble", "good")
    return Tile(
        "operational_status", "Operational", str(total - needing), f"of {total} well",
        word if total else "no Novas", tone if total else "calm", chart, "?status=help" if needing else "",
    )  # fmt: skip


def _productivity(payload: Mapping[str, Any], hours: list[dict[str, Any]]) -> Tile:
    section = payload["productivity_metrics"]
    values = [(hour["at"][11:16], float(hour["succeeded"])) for hour in hours]
    chart = charts.bars(values, title="Tasks completed, an hour each, over 24 hours", chart_id="tile-productivity", height=28)
    trend = section.get("productivity_trend")
    word = _text(payload, "productivity_metrics", "productivity_trend") if trend is None else f"{trend:+.0f} % day on day"
    tone = "calm" if not trend else "good" if trend > 0 else "warn"
    number = _number(section.get("tasks_completed_24h"))
    return Tile("productivity_metrics", "Productivity", number, "done in 24 h", word, tone, chart)


def _quality(payload: Mapping[str, Any]) -> Tile:
    score = payload["quality_indicators"].get("quality_score")
    if score is None:
        text = _text(payload, "quality_indicators", "quality_score")
        return Tile("quality_indicators", "Quality", UNKNOWN, "with evidence, 7 d", text, "calm")
    rework = payload["quality_indicators"].get("rework_percentage")
    tone = "good" if score >= _GOOD_QUALITY else "info" if score >= _FAIR_QUALITY else "warn"
    parts = [("with evidence, not redone", score, tone), ("others", 100 - score, "none")]
    chart = charts.stacked_bar(parts, title=f"Quality score {score:.0f} of 100", chart_id="tile-quality")
    word = f"{rework:.0f} % redone" if rework is not None else "rework unknown"
    return Tile("quality_indicators", "Quality", f"{score:.0f} %", "score, 7 d", word, tone, chart)


def _collaboration(payload: Mapping[str, Any]) -> Tile:
    section = payload["collaboration_metrics"]
    insights = section.get("insights_shared") or 0
    word = f"{insights:,} insight{'' if insights == 1 else 's'}"
    number = _number(section.get("messages_sent"))
    return Tile("collaboration_metrics", "Collaboration", number, "messages, 24 h", word, "info" if insights else "calm")


def _safety(payload: Mapping[str, Any]) -> Tile:
    section = payload["safety_compliance"]
    number, pauses = section.get("incidents_open"), section.get("safety_pauses") or 0
    safe = section.get("safe_percentage")
    parts = [("safe", safe, "good"), ("unsafe", 100 - safe, "bad")] if safe is not None else []
    chart = charts.stacked_bar(parts, title=f"{safe:.0f} % of Novas safe", chart_id="tile-safety") if parts else ""
    word = "could not be read" if number is None else f"{pauses:,} pause{'' if pauses == 1 else 's'} in 24 h"
    tone = "calm" if number is None else "bad" if number else "good" if not pauses else "warn"
    unit = "open incident" if number == 1 else "open incidents"
    return Tile("safety_compliance", "Safety", _number(number), unit, word, tone, chart)


def _tasks(payload: Mapping[str, Any]) -> Tile:
    section = payload["task_tracking_status"]
    blocked, waiting = section.get("tasks_blocked") or 0, section.get("approvals_waiting") or 0
    parts = [
        ("in progress", section.get("tasks_in_progress") or 0, "good"),
        ("pending", section.get("tasks_pending") or 0, "info"),
        ("blocked", blocked, "warn"),
    ]
    chart = charts.stacked_bar(parts, title=f"Unfinished tasks: {_told(parts)}", chart_id="tile-tasks")
    number = _number(sum(int(amount) for _, amount, _ in parts)) if section else UNKNOWN
    word = f"{blocked + waiting:,} waiting for you" if blocked + waiting else "none waiting"
    tone = "warn" if blocked + waiting else "good"
    return Tile("task_tracking_status", "Tasks", number, "unfinished", word, tone, chart)


def _text(payload: Mapping[str, Any], section: str, name: str) -> str:
    """Say why a figure has no value."""
    if section in payload["missing"]:
        return "could not be read"
    return str(payload["figures"][section][name].get("text") or "not enough data")


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def _told(parts: list[tuple[str, Any, str]]) -> str:
    return ", ".join(f"{number:,} {word.lower()}" for word, number, _ in parts if number) or "none"
