"""What the chores' thread and django-q2 call: a call each (settings.CHORES, reporting/apps.py)."""

import threading
import time
from datetime import datetime, timedelta

from django.db.models import Q

from reporting import metrics_collector, roll_ups
from reporting.models import RollUpCursor
from reporting.settled import Settled

_LOOK_SECONDS = 2.0
_SHARE = 0.2  # of one processor's time, while there is more to sum up than comes in
_HOUSEKEEPING = 60.0

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
