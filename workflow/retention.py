"""Forgets old rows, in bounded batches, each journalled with its count; what somebody may still need stays, however old.

How long is settings' (`NOVAWF_RETENTION_…_DAYS`, 0: for ever). Tables are walked along their keys, oldest first: a walk costs
what is old, not what is there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Q
from django_q.models import Task as QueueTask

from safety import audit, pruning
from safety.audit import Entry
from safety.models import VerificationRun
from safety.pruning import Pruned
from workflow.core.work import TaskStatus
from workflow.models import Execution, InboxMessage

ROWS_FORGOTTEN = "workflow.retention.rows_forgotten"
_AT_ONCE = 1_000
_BATCHES = 500  # of a table in one run: the next goes on


@dataclass(frozen=True, slots=True)
class Kept:
    """A table that grows: its rows by age, and which of the old ones may go."""

    model: Any
    key: str  # grows with age
    born: str  # the instant that counts
    may_go: Q


TABLES: Mapping[str, Kept] = {
    "inbox": Kept(InboxMessage, "id", "received_at", ~Q(status="waiting")),
    # an open task keeps the story of its attempts
    "executions": Kept(Execution, "id", "created_at", Q(finished_at__isnull=False, task__status=TaskStatus.COMPLETED)),
    "verifications": Kept(VerificationRun, "id", "requested_at", Q(finished_at__isnull=False)),
}


@dataclass(slots=True)
class Forgotten:
    """How many rows went, or would go, by table; and what became of the journal's."""

    rows: dict[str, int]
    journal: Pruned | None = None
    more: bool = False  # it was told to stop before all was done


def keep(*, now: datetime, dry_run: bool = False, go_on: Callable[[], bool] = lambda: True) -> Forgotten:
    """Forget what is older than the settings say, table by table while `go_on` says so.

    :raises PruneRefused: the journal's archive could not be made and verified; all else was done before.
    """
    done = Forgotten({})
    for name, table in TABLES.items():
        if not go_on():
            done.more = True
            return done
        if before := cutoff(name, now):
            done.rows[name] = _walk(name, table, before, now, dry_run, go_on)
    if before := cutoff("queue", now):
        done.rows["queue"] = _delete_all("queue", QueueTask.objects.filter(stopped__lt=before), now, dry_run)
    done.rows["sessions"] = _delete_all("sessions", Session.objects.filter(expire_date__lt=now), now, dry_run)
    if before := cutoff("journal", now):
        done.journal = pruning.prune(before=before, now=now, dry_run=dry_run, go_on=go_on)
        done.more = done.journal.more
    return done


def cutoff(name: str, now: datetime) -> datetime | None:
    """Give the instant before which rows of a table go; None: never."""
    days = int(settings.RETENTION_DAYS[name])
    return now - timedelta(days=days) if days else None


def _walk(name: str, table: Kept, before: datetime, now: datetime, dry_run: bool, go_on: Callable[[], bool]) -> int:
    """Go through a table's old rows along its key and delete those that may go; give how many."""
    at, gone = None, 0
    while go_on():
        rows = table.model.objects.order_by(table.key)
        if at is not None:
            rows = rows.filter(**{f"{table.key}__gt": at})
        seen = list(rows.values_list(table.key, table.born)[:_AT_ONCE])
        old = [key for key, born in seen if born < before]
        if not old:
            break
        at = old[-1]
        chosen = table.model.objects.filter(table.may_go, **{f"{table.key}__in": old})
        if name == "verifications":  # where the next verification goes on, and the badge's
            newest = VerificationRun.objects.exclude(finished_at=None).order_by("-finished_at")
            kept = [*newest.values_list("pk", flat=True)[:1], *newest.filter(damages=0).values_list("pk", flat=True)[:1]]
            chosen = chosen.exclude(pk__in=kept)
        gone += chosen.count() if dry_run else _delete(name, chosen, before, now)
    return gone


def _delete_all(name: str, rows: Any, now: datetime, dry_run: bool) -> int:
    """Delete rows that are all to go, some at a time; give how many."""
    if dry_run:
        return int(rows.count())
    gone = 0
    for _ in range(_BATCHES):
        keys = list(rows.values_list("pk", flat=True)[:_AT_ONCE])
        if not keys:
            break
        gone += _delete(name, rows.model.objects.filter(pk__in=keys), now, now)
    return gone


def _delete(name: str, rows: Any, before: datetime, now: datetime) -> int:
    with transaction.atomic():
        gone = int(sum(rows.delete()[1].values()))
        if gone:
            after = {"table": name, "rows": gone, "before": before.isoformat()}
            audit.record([Entry(ROWS_FORGOTTEN, "", "table", name, after=after, reason="retention")], now=now)
    return gone
