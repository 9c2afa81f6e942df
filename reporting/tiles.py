"""The six tiles of the first screen, one for each section of the specification's dashboard.

A tile that can't be worked out says so; the page stands without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Count

from reporting.core import charts
from reporting.core.statuses import LOOKS
from safety.models import SafetyIncident
from workflow.core.work import TaskStatus
from workflow.models import Task

UNKNOWN = "–"


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


def section_tiles(counts: Mapping[str, int]) -> list[Tile]:
    """Give the tiles; `counts` are the fleet's, by derived status."""
    return [_operational(counts), _productivity(), _quality(), _collaboration(), _safety(), _tasks()]


def _operational(counts: Mapping[str, int]) -> Tile:
    total = sum(counts.values())
    needing = sum(number for status, number in counts.items() if LOOKS[status].needs_help)
    parts = [(look.word, counts.get(look.status, 0), look.tone) for look in LOOKS.values()]
    words = ", ".join(f"{number} {word.lower()}" for word, number, _ in parts if number)
    chart = charts.stacked_bar(parts, title=f"Novas by status: {words or 'none'}", chart_id="tile-operational")
    word, tone = (f"{needing} need{'s' if needing == 1 else ''} help", "bad") if needing else ("all well", "good")
    return Tile(
        "operational_status", "Operational status", str(total - needing), f"of {total} without trouble",
        word if total else "no Novas", tone if total else "calm", chart, "?status=help" if needing else "",
    )  # fmt: skip


def _safety() -> Tile:
    number = SafetyIncident.objects.filter(status=SafetyIncident.Status.OPEN).count()
    word, tone = ("open", "bad") if number else ("none open", "good")
    return Tile("safety_compliance", "Safety", str(number), f"incident{'' if number == 1 else 's'}", word, tone)


def _tasks() -> Tile:
    unfinished = (TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED)
    counts = dict(Task.objects.filter(status__in=unfinished).order_by().values_list("status").annotate(Count("id")))
    blocked = counts.get(TaskStatus.BLOCKED, 0)
    parts = [
        ("in progress", counts.get(TaskStatus.IN_PROGRESS, 0), "good"),
        ("pending", counts.get(TaskStatus.PENDING, 0), "info"),
        ("blocked", blocked, "bad"),
    ]
    words = ", ".join(f"{number} {word}" for word, number, _ in parts)
    chart = charts.stacked_bar(parts, title=f"Unfinished tasks: {words}", chart_id="tile-tasks")
    return Tile(
        "task_tracking_status", "Tasks", f"{sum(counts.values()):,}", "unfinished",
        f"{blocked:,} blocked" if blocked else "none blocked", "warn" if blocked else "good", chart,
    )  # fmt: skip


def _productivity() -> Tile:
    return Tile("productivity_metrics", "Productivity", UNKNOWN, "completed in 24 h", "not enough data", "calm")


def _quality() -> Tile:
    return Tile("quality_indicators", "Quality", UNKNOWN, "of rated tasks", "not enough data", "calm")


def _collaboration() -> Tile:
    return Tile("collaboration_metrics", "Collaboration", UNKNOWN, "hand-overs in 24 h", "not enough data", "calm")
