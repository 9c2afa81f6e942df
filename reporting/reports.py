"""Reports: snapshots of figures that never change, links by which outsiders may read one, schedules that make them.

A report holds the figures of a period beside the period before, and what its charts are drawn from. Its digest and the newest
journal entry in its sums say what it stands on. Figures only: no text of a task, nothing personal.
"""

import hashlib
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.core import signing
from django.db import transaction
from django.urls import reverse

from reporting import series
from reporting.core.buckets import DAY, HOUR, aligned
from reporting.core.comparison import compare
from reporting.core.metrics import Period
from reporting.models import Report, ReportLink, ReportSchedule, RollUpCursor
from reporting.reporting_system import EnterpriseReportingSystem
from reporting.scope import Scope, ScopeUnknown
from safety import audit
from safety.audit import Entry
from safety.models import AuditSeal
from workflow.errors import WorkflowError

REPORT_MADE = "reporting.report.made"
LINK_MADE = "reporting.link.made"
LINK_REVOKED = "reporting.link.revoked"
SCHEDULE_MADE = "reporting.schedule.made"
SCHEDULE_CHANGED = "reporting.schedule.changed"

PERIOD_MOST = timedelta(days=366)
BY_DAY_FROM = timedelta(days=4)  # shorter periods have their series by the hour
LINK_DAYS_MOST = 90
_LATE_MOST = timedelta(days=1)  # a schedule that fell behind makes one report, not one for each time it missed
_SALT = "reporting.link"


class ReportRefused(WorkflowError):
    """The report, link or schedule can't be made as it was asked for; nothing was made."""

    answer = (400, "report_refused")


class ReportNotFound(WorkflowError):
    """There is no such report, link or schedule."""

    answer = (404, "report_not_found")


class LinkNotGood(WorkflowError):
    """The link was never given, has expired or was revoked."""


def make_report(scope: Scope, period: Period, *, now: datetime) -> Report:
    """Take a snapshot of a scope's figures over a period that has begun, and journal it.

    :raises ReportRefused: the period is none. :raises ScopeUnknown: there is no such Nova or team.
    """
    if not period.since < period.until <= now or period.length > PERIOD_MOST:
        raise ReportRefused("A report's period begins before it ends, ends by now, and has 366 days at most. Nothing was made.")
    scope.demand_exists()
    cursor = RollUpCursor.objects.filter(id=1).first()  # first: up to there everything is in the sums
    payload = _payload(scope, aligned(period, now), now)
    report = Report(
        id=f"REPORT-{now:%Y%m%d}-{secrets.token_hex(4)}",
        scope=scope.key,
        since=datetime.fromisoformat(payload["dashboard"]["period"]["since"]),
        until=datetime.fromisoformat(payload["dashboard"]["period"]["until"]),
        generated_at=now,
        generated_by=audit.current_actor()[:128],
        journal_head=cursor.position if cursor else 0,
        seal_head=AuditSeal.objects.order_by("-number").values_list("head", flat=True).first() or "",
        payload=payload,
        digest=digest_of(payload),
    )
    with transaction.atomic():
        report.save(force_insert=True)
        after = {"scope": report.scope, "since": report.since.isoformat(), "until": report.until.isoformat()}
        _record(REPORT_MADE, "report", report.id, after | {"digest": report.digest}, now)
    return report


def digest_of(payload: Mapping[str, Any]) -> str:
    """Give the SHA-256 of a payload's canonical JSON: keys sorted, no spaces, UTF-8."""
    return hashlib.sha256(orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _payload(scope: Scope, period: Period, now: datetime) -> dict[str, Any]:
    system = EnterpriseReportingSystem(scope.nova_id, team=scope.team)
    dashboard, before = system.describe(period, now=now), system.describe(period.previous, now=now)
    last = min(now, period.until) - timedelta(microseconds=1)
    by_day = period.length >= BY_DAY_FROM
    grain = DAY if by_day else HOUR
    number = max(1, round(period.length / timedelta(minutes=grain)) + 1)
    return {
        "dashboard": dashboard,
        "comparison": compare(dashboard["figures"], before["figures"]),
        "previous_period": before["period"],
        "series": {
            "grain_minutes": grain,
            "throughput": series.throughput(scope, now=last, hours=number, grain=grain),
            "cycle_times": series.cycle_times(scope, now=last, hours=number, grain=grain),
            "incidents_per_day": series.incidents_per_day(scope, now=last, days=max(1, period.length.days + 1)),
        },
    }


def find_report(report_id: str) -> Report:
    """Give a report.

    :raises ReportNotFound: there is none.
    """
    report = Report.objects.filter(pk=report_id).first()
    if report is None:
        raise ReportNotFound(f"There is no report {report_id}.")
    return report


# -- links


def make_link(report: Report, *, days: int, now: datetime, reason: str = "") -> ReportLink:
    """Let whoever has the link read this one report for so many days, and journal it.

    :raises ReportRefused: too many days.
    """
    if not 1 <= days <= LINK_DAYS_MOST:
        raise ReportRefused(f"A link lasts from 1 to {LINK_DAYS_MOST} days. Nothing was made.")
    link = ReportLink(
        id=secrets.token_hex(12),
        report=report,
        created_at=now,
        created_by=audit.current_actor()[:128],
        expires_at=now + timedelta(days=days),
    )
    with transaction.atomic():
        link.save(force_insert=True)
        _record(LINK_MADE, "report", report.id, {"link": link.id, "expires_at": link.expires_at.isoformat()}, now, reason)
    return link


def address_of(link: ReportLink) -> str:
    """Give the path that the link is: its id, signed."""
    return reverse("report-shared", args=[signing.Signer(salt=_SALT).sign(link.id)])


def open_link(token: str, *, now: datetime) -> Report:
    """Give the report that a link leads to.

    :raises LinkNotGood: it was never given, has expired or was revoked.
    """
    try:
        link_id = signing.Signer(salt=_SALT).unsign(token)
    except signing.BadSignature:
        raise LinkNotGood("This link leads to no report.") from None
    link = ReportLink.objects.select_related("report").filter(pk=link_id, revoked_at=None, expires_at__gt=now).first()
    if link is None:
        raise LinkNotGood("This link has expired or was revoked. Ask whoever gave it to you for a new one.")
    return link.report


def revoke_link(report: Report, link_id: str, *, reason: str, now: datetime) -> ReportLink:
    """End a link at once; a second time changes nothing.

    :raises ReportNotFound: the report has no such link.
    """
    with transaction.atomic():
        link = ReportLink.objects.select_for_update().filter(pk=link_id, report=report).first()
        if link is None:
            raise ReportNotFound(f"Report {report.id} has no link {link_id}. Nothing was changed.")
        if link.revoked_at is None:
            link.revoked_at, link.revoked_by = now, audit.current_actor()[:128]
            link.save(update_fields=["revoked_at", "revoked_by"])
            _record(LINK_REVOKED, "report", report.id, {"link": link.id}, now, reason)
    return link


# -- schedules


def make_schedule(name: str, scope: Scope, *, days: int, due_at: datetime, now: datetime) -> ReportSchedule:
    """Plan a report of the last `days` days each so many days, from `due_at` on.

    :raises ReportRefused: the name is taken. :raises ScopeUnknown: there is no such Nova or team.
    """
    scope.demand_exists()
    with transaction.atomic():
        if ReportSchedule.objects.filter(name=name).exists():
            raise ReportRefused(f"There is a schedule named {name} already. Nothing was made.")
        schedule = ReportSchedule.objects.create(name=name, scope=scope.key, days=days, due_at=due_at)
        after = {"name": name, "scope": scope.key, "days": days, "due_at": due_at.isoformat()}
        _record(SCHEDULE_MADE, "report_schedule", str(schedule.pk), after, now)
    return schedule


def switch_schedule(schedule_id: int, enabled: bool, *, reason: str, now: datetime) -> ReportSchedule:
    """Switch a schedule on or off; a second time changes nothing.

    :raises ReportNotFound: there is none.
    """
    with transaction.atomic():
        schedule = ReportSchedule.objects.select_for_update().filter(pk=schedule_id).first()
        if schedule is None:
            raise ReportNotFound(f"There is no schedule {schedule_id}. Nothing was changed.")
        if schedule.enabled != enabled:
            schedule.enabled = enabled
            schedule.save(update_fields=["enabled"])
            _record(SCHEDULE_CHANGED, "report_schedule", str(schedule.pk), {"enabled": enabled}, now, reason)
    return schedule


def make_due(*, now: datetime) -> list[str]:
    """Make the reports that are due, each once however many workers try, and give their ids.

    The row of the schedule is moved on in the transaction that makes its report, from the time it was due at.
    """
    made = []
    for schedule_id in list(ReportSchedule.objects.filter(enabled=True, due_at__lte=now).values_list("pk", flat=True)):
        with transaction.atomic():
            due = ReportSchedule.objects.select_for_update().filter(pk=schedule_id, enabled=True, due_at__lte=now).first()
            if due is None:
                continue  # another worker made it
            every = timedelta(days=due.days)
            until = due.due_at if now - due.due_at < _LATE_MOST else now
            with audit.acting(f"schedule:{due.name}"[:128]):
                try:
                    report = make_report(Scope.of(due.scope), Period(until - every, until), now=now)
                except (ScopeUnknown, ReportRefused) as refusal:  # it would be refused for ever
                    switch_schedule(due.pk, enabled=False, reason=str(refusal), now=now)
                    continue
            due.due_at += every * ((now - due.due_at) // every + 1)
            due.last_report = report
            due.save(update_fields=["due_at", "last_report"])
        made.append(report.id)
    return made


def _record(action: str, kind: str, object_id: str, after: Mapping[str, Any], now: datetime, reason: str = "") -> None:
    audit.record([Entry(action, object_type=kind, object_id=object_id, after=after, reason=reason)], now=now)
