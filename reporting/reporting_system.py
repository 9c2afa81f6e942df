"""The six sections of the enterprise dashboard, for the fleet, a team or a Nova (spec section 7).

One payload for page, API, report and export. It is made of roll-ups and present rows, of sums and counts only: no text of a
task and nothing personal gets in here. It reads; it writes nothing.

The payload, plain values throughout:

    {
      "operational_status":    {"novas_total": 5, "novas_working": 3, …},      the spec's six sections, each its keys and values
      "productivity_metrics":  {"tasks_completed_24h": 212, "average_tasks_per_hour": 8.8, "completion_rate_percentage": 97.2,
                                "quality_score": None, "productivity_trend": 4.0},
      "quality_indicators": {…}, "collaboration_metrics": {…}, "safety_compliance": {…}, "task_tracking_status": {…},
      "generated_at": "2026-11-20T12:00:00+00:00",
      "scope": {"kind": "fleet" | "team" | "nova", "name": ""},
      "period": {"since": …, "until": …, "seconds": 86400.0},
      "data_until": …,                                              the journal is counted up to there; None: nothing yet
      "figures": {"productivity_metrics": {"quality_score": {"value": None, "text": "not enough data (3 of 20)",
                  "unit": "percent", "formula": …, "since": …, "until": …, "cases": 3, "least_cases": 20,
                  "link": "tasks?status=completed"}, …}, …},
      "missing": {"safety_compliance": "could not be read"},        a section that failed; its value is {} then
    }

A value of None means that there is not enough data; its figure says so in `text`. `link` is a list of /api/v1/ with its query.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import structlog
from django.db import connection, transaction

from reporting import standing
from reporting.core import histogram, tally
from reporting.core.buckets import aligned
from reporting.core.metrics import LEAST_FOR_QUANTILES, Figure, Period, count, per_hour, ratio, share, trend
from reporting.core.tally import Sums
from reporting.roll_ups import data_until, observed, sums_of
from reporting.scope import Scope
from workflow.derived_status import load_fleet

DAY, WEEK = timedelta(days=1), timedelta(days=7)
Figures = dict[str, Figure]

logger = structlog.get_logger(__name__)


@dataclass
class _Facts:
    """What the sections are made of, each loaded when first asked for."""

    scope: Scope
    now: datetime
    period: Period
    include_momentum: bool

    @cached_property
    def day(self) -> Period:
        return aligned(Period(self.period.until - DAY, self.period.until), self.now)

    @cached_property
    def week(self) -> Period:
        return aligned(Period(self.period.until - WEEK, self.period.until), self.now)

    @cached_property
    def before(self) -> Period:
        return aligned(self.period.previous, self.now)

    @cached_property
    def sums(self) -> Mapping[Period, Sums]:
        return sums_of(self.scope.key, [self.period, self.before, self.day, self.week], now=self.now)

    @cached_property
    def novas(self) -> standing.Novas:
        return standing.novas(self.scope, self.now, load_fleet())

    @cached_property
    def tasks(self) -> Mapping[str, int]:
        return standing.open_tasks(self.scope)

    def done(self, name: str, period: Period | None = None) -> int:
        """Give how often something happened to tasks in a period; what Novas made up for themselves only when asked for."""
        sums = self.sums[period or self.period]
        return sums.get(name, 0) + (sums.get(f"{name}_momentum", 0) if self.include_momentum else 0)

    def seen(self, name: str, period: Period | None = None) -> int:
        return self.sums[period or self.period].get(name, 0)

    def link(self, rows: str, **query: str) -> str:
        """Name the list of rows behind a figure, and its query."""
        mine = {"assignee" if rows == "tasks" else "nova_id": self.scope.nova_id} if self.scope.nova_id else {}
        if self.scope.team and rows in ("tasks", "novas"):
            mine = {"team": self.scope.team}
        parts = [f"{name}={value}" for name, value in (query | mine).items()]
        return f"{rows}?{'&'.join(parts)}" if parts else rows


class EnterpriseReportingSystem:
    """Makes dashboards of one scope: of a Nova, of a team, or of the fleet if neither is named."""

    def __init__(self, nova_id: str | None = None, *, team: str | None = None) -> None:
        self.scope = Scope(nova_id or "", "" if nova_id else team or "")

    def generate_real_time_dashboard(
        self, now: datetime, period: timedelta = DAY, *, include_momentum: bool = False
    ) -> dict[str, Any]:
        """Give the payload described above. `include_momentum`: count the tasks that Novas made up for themselves too."""
        return self.describe(Period(now - period, now), now=now, include_momentum=include_momentum)

    def describe(self, period: Period, *, now: datetime, include_momentum: bool = False) -> dict[str, Any]:
        """Give the payload for any period; what stands now is as it stands at `now`."""
        facts = _Facts(self.scope, now, aligned(period, now), include_momentum)
        payload: dict[str, Any] = {}
        figures: dict[str, dict[str, Any]] = {}
        missing: dict[str, str] = {}
        for name, section in _SECTIONS.items():
            found = self._section(name, section, facts)
            if found is None:
                missing[name] = "could not be read; the other sections are not affected"
            payload[name] = {key: figure.value for key, figure in (found or {}).items()}
            figures[name] = {key: figure.shown() for key, figure in (found or {}).items()}
        seconds = facts.period.length.total_seconds()
        reached = None if _SECTIONS.keys() == missing.keys() else data_until(now=now)
        return payload | {
            "generated_at": now.isoformat(),
            "scope": {"kind": self.scope.kind, "name": self.scope.name},
            "period": {
                "since": facts.period.since.isoformat(),
                "until": facts.period.until.isoformat(),
                "seconds": seconds,
            },
            "data_until": reached.isoformat() if reached else None,
            "figures": figures,
            "missing": missing,
        }

    @staticmethod
    def _section(name: str, section: Callable[[_Facts], Figures], facts: _Facts) -> Figures | None:
        try:
            if not connection.in_atomic_block:
                return section(facts)
            with transaction.atomic():  # so that a statement that failed leaves the caller's transaction usable
                return section(facts)
        except Exception:  # the wall around one dashboard tile: it is missing, the page is not
            logger.exception("a section of the dashboard failed", section=name)
            return None


def _operational_status(facts: _Facts) -> Figures:
    novas = facts.novas
    figures = {
        "novas_total": count(novas.total, "Novas", "Novas that are not archived", None, facts.link("novas")),
        "novas_working": count(
            novas.among(standing.WORKING), "Novas", "Novas with tasks in flight, or completing one", None, facts.link("novas")
        ),
        "novas_idle": count(novas.among(standing.RESTING), "Novas", "Novas that wait for work", None, facts.link("novas")),
        "novas_stopped": count(
            novas.among(standing.STOPPED),
            "Novas",
            "Novas that people paused, drained, halted or killed",
            None,
            facts.link("novas", mode="paused,draining,halted,killed"),
        ),
        "novas_in_trouble": count(
            novas.among(standing.TROUBLED),
            "Novas",
            "Novas that are unsafe, quarantined, in error recovery, or due and not stepped",
            None,
            facts.link("novas"),
        ),
        "open_halts": count(standing.open_halts(facts.scope), "orders", "orders to stop in force", None, "halts"),
        "cycles_completed": count(novas.cycles, "cycles", "cycles completed since the Novas were made", None),
    }
    if facts.scope.nova_id and novas.by_status:
        status = next(iter(novas.by_status))
        figures["status"] = Figure(status, "", "derived from mode, verdict, deadlines and tasks in flight", None, 1)
    return figures


def _productivity_metrics(facts: _Facts) -> Figures:
    period, link = facts.period, facts.link("tasks", status="completed")
    succeeded = facts.done("succeeded")
    ended = succeeded + facts.done("cancelled") + facts.done("blocked")
    return {
        "tasks_completed_24h": count(
            facts.done("succeeded", facts.day),
            "tasks",
            "tasks that succeeded in the last 24 hours of the period",
            facts.day,
            link,
        ),
        "average_tasks_per_hour": per_hour(succeeded, observed(period), "tasks that succeeded / hours observed", link),
        "completion_rate_percentage": share(
            succeeded, ended, "succeeded / (succeeded + cancelled + times a task became blocked)", period, link
        ),
        "quality_score": _quality_score(facts),
        "productivity_trend": trend(
            succeeded,
            facts.done("succeeded", facts.before),
            "change of tasks that succeeded against the period before",
            period,
            link,
        ),
    }


def _quality_score(facts: _Facts) -> Figure:
    """Share the succeeded tasks of seven days that have evidence and were not done again. Of tasks, not of momentum's."""
    good = max(0, facts.seen("with_evidence", facts.week) - facts.seen(tally.REWORKED, facts.week))
    return share(
        good,
        facts.seen("succeeded", facts.week),
        "succeeded with evidence and no rework within 7 days so far / succeeded, over 7 days, without momentum tasks",
        facts.week,
        facts.link("tasks", status="completed"),
    )


def _quality_indicators(facts: _Facts) -> Figures:
    week, link = facts.week, facts.link("tasks", status="completed")
    succeeded = facts.seen("succeeded", week)
    attempts = facts.seen("started", week)
    return {
        "quality_score": _quality_score(facts),
        "evidence_percentage": share(
            facts.seen("with_evidence", week), succeeded, "succeeded with evidence / succeeded, over 7 days", week, link
        ),
        "rework_percentage": share(
            facts.seen(tally.REWORKED, week), succeeded, "succeeded, but done again within 7 days / succeeded", week, link
        ),
        "retry_percentage": share(
            facts.seen("retried", week), attempts, "attempts that failed and were retried / attempts begun", week, "executions"
        ),
        "refused_completions": count(
            facts.seen("completions_refused"), "times", "results that came after another claim", facts.period
        ),
        "cycle_time_p50_seconds": _quantile(facts, tally.WORK, 0.5, "half of the tasks took no longer from begin to end"),
        "cycle_time_p95_seconds": _quantile(facts, tally.WORK, 0.95, "19 of 20 tasks took no longer from begin to end"),
        "lead_time_p50_seconds": _quantile(facts, tally.LEAD, 0.5, "half of the tasks took no longer from creation to end"),
    }


def _quantile(facts: _Facts, name: str, wanted: float, formula: str) -> Figure:
    counts = tally.histogram_of(facts.sums[facts.period], name)
    cases = sum(counts.values())
    value = histogram.quantile(counts, wanted) if cases >= LEAST_FOR_QUANTILES else None
    link = facts.link("tasks", status="completed")
    return Figure(value, "seconds", f"{formula} (within a fifth)", facts.period, cases, LEAST_FOR_QUANTILES, link)


def _collaboration_metrics(facts: _Facts) -> Figures:
    period, seen = facts.period, facts.seen
    succeeded = facts.done("succeeded")
    return {
        "messages_sent": count(seen("messages_sent"), "messages", "messages that Novas posted to Novas", period),
        "messages_received": count(seen("messages_received"), "messages", "messages posted to Novas, by anybody", period),
        "signals_handled": count(seen("signals"), "messages", "inbound signals that Novas acted on", period),
        "tasks_claimed": count(seen("claimed"), "tasks", "tasks taken from the shared queue", period, facts.link("tasks")),
        "insights_shared": count(seen("insights"), "insights", "insights recorded after tasks", period, facts.link("insights")),
        "celebrations": count(seen("celebrations"), "times", "completed tasks celebrated", period, facts.link("celebrations")),
        "insights_per_task": ratio(
            seen("insights"), succeeded, "insights/task", "insights / tasks that succeeded", period, least=10
        ),
    }


def _safety_compliance(facts: _Facts) -> Figures:
    novas, period, seen = facts.novas, facts.period, facts.seen
    incidents = facts.link("incidents")
    return {
        "safe_percentage": share(
            novas.total - novas.unsafe, novas.total, "Novas with a safe verdict / Novas", None, facts.link("novas"), least=1
        ),
        "novas_unsafe": count(novas.unsafe, "Novas", "Novas whose verdict in force is unsafe", None, facts.link("novas")),
        "incidents_open": count(standing.open_incidents(facts.scope), "incidents", "incidents that last", None, incidents),
        "incidents_opened": count(seen("incidents"), "incidents", "incidents opened", period, incidents),
        "incidents_ended": count(seen("incidents_ended"), "incidents", "incidents that ended", period, incidents),
        "safety_pauses": count(seen("safety_pauses"), "times", "times a Nova's verdict became unsafe", period),
        "api_refusals": count(seen("api_refusals"), "times", "calls to providers that the API guardian refused", period),
        "quarantines": count(seen("quarantines"), "times", "Novas put into quarantine", period),
        "operator_stops": count(seen("operator_stops"), "times", "Novas paused, halted or killed by people", period),
    }


def _task_tracking_status(facts: _Facts) -> Figures:
    novas, tasks, period = facts.novas, facts.tasks, facts.period
    return {
        "tasks_pending": count(
            tasks.get("pending", 0), "tasks", "tasks that wait", None, facts.link("tasks", status="pending")
        ),
        "tasks_in_progress": count(
            tasks.get("in_progress", 0), "tasks", "tasks in progress", None, facts.link("tasks", status="in_progress")
        ),
        "tasks_blocked": count(
            tasks.get("blocked", 0), "tasks", "tasks that wait for somebody", None, facts.link("tasks", status="blocked")
        ),
        "approvals_waiting": count(
            standing.waiting_approvals(facts.scope), "approvals", "approvals that wait for a person", None, "approvals"
        ),
        "tasks_created": count(facts.done("created"), "tasks", "tasks accepted", period, facts.link("tasks")),
        "tasks_made_up": count(
            facts.seen("created_momentum"), "tasks", "tasks that Novas made up for themselves", period, facts.link("tasks")
        ),
        "protocol_compliance_percentage": share(
            novas.protocol_passes,
            novas.protocol_checks,
            "task messages that kept the protocol / task messages checked, since the Novas were made",
            None,
        ),
    }


_SECTIONS: Mapping[str, Callable[[_Facts], Figures]] = {
    "operational_status": _operational_status,
    "productivity_metrics": _productivity_metrics,
    "quality_indicators": _quality_indicators,
    "collaboration_metrics": _collaboration_metrics,
    "safety_compliance": _safety_compliance,
    "task_tracking_status": _task_tracking_status,
}
SECTIONS = tuple(_SECTIONS)
