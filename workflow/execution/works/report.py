"""What the builtin works have in common: the report they write and the part of the fleet they look at.

A finding is a short text that stays the same as long as the fault does, so no number that moves may stand in it: whether a run
found anything new is told by comparing findings. This file looks for no faults itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from workflow.core import demonstration
from workflow.execution.registry import ExecutionContext, Result
from workflow.models import Execution, Nova, NovaState, Task

FINDINGS_LIMIT = 100
LINES_LIMIT = 400


@dataclass(frozen=True, slots=True)
class Scope:
    """The Novas a work looks at: one team, or the fleet when `team` is empty. Archived Novas are in no scope.

    The demonstration team's history is made up: it is in no scope but its own.
    """

    team: str = ""

    @classmethod
    def of(cls, context: ExecutionContext) -> "Scope":
        """Read the scope a task asks for."""
        return cls(str(context.metadata.get("scope") or ""))

    @property
    def label(self) -> str:
        return f"team {self.team}" if self.team else "the fleet"

    def novas(self) -> QuerySet[Nova]:
        found = Nova.objects.filter(archived_at=None)
        return found.filter(team=self.team) if self.team else found.exclude(team=demonstration.TEAM)

    def states(self) -> QuerySet[NovaState]:
        found = NovaState.objects.filter(nova__archived_at=None)
        return found.filter(nova__team=self.team) if self.team else found.exclude(nova__team=demonstration.TEAM)

    def recent_tasks(self, statuses: Sequence[str], limit: int) -> QuerySet[Task]:
        """Give this scope's share of the newest `limit` tasks of each status, without personal ones, in no order.

        Bounded whatever the table holds: the newest are found by their index first, and sifted then.
        """
        wanted = Q(pk__in=[])
        for status in statuses:
            wanted |= Q(pk__in=Task.objects.filter(status=status).order_by("-created_at").values("pk")[:limit])
        found = Task.objects.filter(wanted, personal=False)
        if not self.team:
            return found.exclude(team=demonstration.TEAM)
        return found.filter(Q(team=self.team) | Q(assignee__team=self.team))

    def recent_executions(self, limit: int) -> QuerySet[Execution]:
        """Give this scope's share of the newest `limit` executions, without those of personal tasks."""
        newest = Execution.objects.order_by("-id").values("pk")[:limit]
        found = Execution.objects.filter(pk__in=newest, task__personal=False)
        return found.filter(nova__team=self.team) if self.team else found


@dataclass(slots=True)
class Report:
    """A work's text, its numbers and what it found, as they come."""

    title: str
    metrics: dict[str, Any] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)
    _findings: dict[str, str] = field(default_factory=dict)

    def section(self, heading: str) -> None:
        self._lines += ["", heading]

    def line(self, text: str) -> None:
        self._lines.append(f"- {text}")

    def lines(self, texts: Sequence[str], *, most: int = 20) -> None:
        """Add the first `most` texts, and say how many are left out."""
        for text in texts[:most]:
            self.line(text)
        if len(texts) > most:
            self.line(f"and {len(texts) - most} more")

    def find(self, finding: str, text: str) -> None:
        """Name a fault: `finding` stays the same from run to run, `text` tells a person what was measured."""
        self._findings.setdefault(finding, text)

    def result(self) -> Result:
        found = sorted(self._findings)[:FINDINGS_LIMIT]
        lines = [self.title, "", "Found"]
        lines += [f"- {self._findings[name]} [{name}]" for name in found] or ["- nothing that needs correcting"]
        if len(self._findings) > FINDINGS_LIMIT:
            lines.append(f"- and {len(self._findings) - FINDINGS_LIMIT} more of the same kinds")
        lines += self._lines[:LINES_LIMIT]
        return Result("\n".join(lines), self.metrics | {"finding_count": len(self._findings)}, findings=found)


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that `share` (0 to 1) of the values do not exceed; 0 for none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def duration_text(seconds: float) -> str:
    """Say a duration as people do."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def age(now: datetime, moment: datetime | None) -> float:
    """Give the seconds since a moment; 0 where there was none."""
    return (now - moment) / timedelta(seconds=1) if moment else 0.0


def share_text(part: float, whole: float) -> str:
    """Say a share in percent."""
    return f"{100 * part / whole:.0f} %" if whole else "none"


def counted(counts: Mapping[str, int]) -> list[str]:
    """Say what was counted, most frequent first."""
    return [f"{name}: {count:,}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
