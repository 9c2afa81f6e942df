"""MetricsCollector: the figures of a scope as EnterpriseMetric rows, one set an hour for the fleet and for each team.

The single events go on `nova.enterprise.metrics` when they are relayed (workflow.streams.relay); these rows sum them up.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from reporting.core.buckets import HOUR, start_of
from reporting.models import EnterpriseMetric, RollUpCursor
from reporting.reporting_system import EnterpriseReportingSystem
from reporting.scope import Scope
from workflow.models import Nova

_EVERY = timedelta(hours=1)
_COUNTERS = frozenset({"tasks", "messages", "incidents", "times"})  # units of what is counted; the rest are gauges


class MetricsCollector:
    """Collects the metrics of one Nova, of a team, or of the fleet if neither is named (spec section 7)."""

    def __init__(self, nova_id: str | None = None, *, team: str | None = None) -> None:
        self.scope = Scope(nova_id or "", "" if nova_id else team or "")

    def collect(self, now: datetime) -> Iterator[EnterpriseMetric]:
        """Give every figure of the dashboard as a metric, not stored."""
        payload = EnterpriseReportingSystem(self.scope.nova_id, team=self.scope.team).generate_real_time_dashboard(now)
        for section, figures in payload["figures"].items():
            for name, figure in figures.items():
                if isinstance(figure["value"], str):
                    continue
                counted = figure["unit"] in _COUNTERS and figure["since"]
                yield EnterpriseMetric(
                    metric_name=name,
                    metric_value=figure["value"],
                    metric_type="counter" if counted else "gauge",
                    timestamp=now,
                    nova_id=self.scope.nova_id,
                    context={"section": section, "unit": figure["unit"], "cases": figure["cases"], "team": self.scope.team},
                )


def collect_due(*, now: datetime) -> int:
    """Store the metrics of the hour that has begun, if nobody has; give how many rows."""
    hour = start_of(now, HOUR)
    due = RollUpCursor.objects.filter(Q(collected_at=None) | Q(collected_at__lte=hour - _EVERY), id=1)
    if not due.exists():
        return 0
    teams = Nova.objects.filter(archived_at=None).exclude(team="").values_list("team", flat=True).distinct().order_by("team")
    rows = [row for team in ("", *teams[:200]) for row in MetricsCollector(team=team).collect(now)]
    with transaction.atomic():
        if not due.update(collected_at=hour):
            return 0
        EnterpriseMetric.objects.bulk_create(rows)
    return len(rows)
