"""What the chores' thread and django-q2 call: a call each (settings.CHORES, reporting/apps.py)."""

import threading
import time
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone

from reporting import alert_sending, alerting, metrics_collector, reports, roll_ups
from reporting.models import RollUpCursor
from reporting.settled import Settled
from workflow.hosting import slots

_LOOK_SECONDS = 2.0
_SHARE = 0.2  # of one processor's time, while there is more to sum up than comes in
_HOUSEKEEPING = 60.0
_SEND_LOOK = 5.0  # seconds between two looks at what is to be sent
_clock = timezone.now  # noqa: TID251 - a job is a door

_keeper = roll_ups.RollUpKeeper(Settled(threading.Event().wait))


def keep_roll_ups(now: datetime) -> float:
    """Sum up what is new in the journal, and give the seconds until the next look."""
    begun = time.monotonic()
    if _keeper.turn(now=now) < roll_ups.ENTRIES:
        return _LOOK_SECONDS
    return (time.monotonic() - begun) * (1 / _SHARE)


def keep_figures(now: datetime) -> float:
    """Store the hour's metrics and forget what nobody reads any more."""
    metrics_collector.collect_due(now=now)
    due = Q(forgotten_at=None) | Q(forgotten_at__lt=now - timedelta(hours=1))
    if RollUpCursor.objects.filter(due, id=1).update(forgotten_at=now):
        roll_ups.forget_old(now=now)
    return _HOUSEKEEPING


def look_after_alerts(now: datetime) -> float:
    """Evaluate the alert rules if that is due, have what is due sent by another worker, and give the seconds to the next look.

    Sending waits for receivers, which must hold up neither the other chores nor their lease.
    """
    try:
        alerting.evaluate_if_due(now=now)
    finally:
        if alert_sending.is_due(now=now):
            slots.enqueue_job("reporting.jobs.send_alerts", group="alerts")
    return _SEND_LOOK


def send_alerts() -> None:
    """Send the alerts that are due."""
    alert_sending.send_due(now=_clock(), clock=_clock)


def make_due_reports() -> None:
    """Make the reports that are due."""
    reports.make_due(now=_clock())
