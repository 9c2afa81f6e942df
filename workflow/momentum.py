"""The momentum ledger: when each template last ran in a scope, what it found, and whether it sleeps (spec section 5).

The limits themselves are workflow.core.momentum's; here is only the memory they need.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

from django.db import connection, transaction
from django.db.models import QuerySet

from safety import bulk
from workflow.core.momentum import (
    MOMENTUM_INTERVAL,
    MOMENTUM_TEMPLATES,
    MomentumFacts,
    after_momentum_run,
    allowed_templates,
)
from workflow.core.work import MomentumBudget
from workflow.models import MomentumLedger, Task

NOTHING = MomentumBudget()
_LEDGER_LOCK = 7_041_776  # the number of our advisory lock


def budgets(teams: Mapping[str, str], today: Mapping[str, Counter[str]], *, now: datetime) -> dict[str, MomentumBudget]:
    """Give what each Nova (with its team) may still do as momentum work: two queries, whatever their number.

    A template with an item that has not ended is not repeated, so a blocked one does not pile up.
    """
    ledgers: defaultdict[str, list[MomentumFacts]] = defaultdict(list)
    scopes = set(teams.values())
    for row in MomentumLedger.objects.filter(scope__in=scopes):
        ledgers[row.scope].append(MomentumFacts(row.template, row.last_created_at, row.asleep))
    for scope, template in _momentum_tasks().filter(completed_at=None, team__in=scopes).values_list("team", "action"):
        ledgers[scope].append(MomentumFacts(template, last_created_at=now))
    nothing: Counter[str] = Counter()
    return {
        nova_id: MomentumBudget(allowed_templates(ledgers[team], now, today.get(nova_id, nothing)))
        for nova_id, team in teams.items()
    }


def runs_today(nova_ids: Collection[str], *, now: datetime) -> dict[str, Counter[str]]:
    """Count how often each Nova ran each template since midnight: one query."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today: defaultdict[str, Counter[str]] = defaultdict(Counter)
    done = _momentum_tasks().filter(completed_at__gte=midnight, assignee_id__in=list(nova_ids))
    for assignee, action in done.values_list("assignee_id", "action"):
        today[assignee or ""][action] += 1
    return today


def _momentum_tasks() -> QuerySet[Task]:
    """Give all of them, found by the index task_history, whose condition must stand here word for word."""
    return Task.objects.filter(work_type="momentum", action__in=list(MOMENTUM_TEMPLATES)).exclude(action="")


def lock_ledger(*, waiting: bool = True) -> bool:
    """Let one transaction at a time change the ledger: on PostgreSQL two could wait for each other's rows in a circle.

    Without `waiting`, tell whether it could be had.
    """
    if connection.vendor != "postgresql":
        return True
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_{'' if waiting else 'try_'}advisory_xact_lock(%s)", [_LEDGER_LOCK])  # noqa: S608
        return waiting or bool(cursor.fetchone()[0])


def take_turns(wanted: Sequence[tuple[str, str]], *, now: datetime) -> set[tuple[str, str]]:
    """Take the hourly turn of templates in scopes, (scope, template) each, in the caller's transaction; give the free ones."""
    taken = bulk.insert(
        MomentumLedger,
        ("scope", "template", "last_created_at", "fruitless_runs", "asleep", "findings"),
        [(scope, template, now, 0, False, "[]") for scope, template in wanted],
        on_conflict="(scope, template) DO UPDATE SET last_created_at = excluded.last_created_at "
        "WHERE workflow_momentumledger.last_created_at IS NULL OR workflow_momentumledger.last_created_at <= %s",
        conflict_values=[now - MOMENTUM_INTERVAL],
        returning="scope, template",
    )
    return {(scope, template) for scope, template in taken}


def note_runs(runs: Sequence[tuple[str, str, Collection[str]]]) -> None:
    """Remember what finished runs found, given as (scope, template, findings); fruitless ones may fall asleep."""
    if not runs:
        return
    templates = {run[1] for run in runs}
    ledger = MomentumLedger.objects.filter(scope__in={run[0] for run in runs}, template__in=templates)
    rows = {(row.scope, row.template): row for row in ledger}
    for scope, template, findings in runs:
        if row := rows.get((scope, template)):
            row.fruitless_runs, row.asleep = after_momentum_run(row.findings, findings, row.fruitless_runs)
            row.findings = sorted(findings)
    MomentumLedger.objects.bulk_update(rows.values(), ["fruitless_runs", "asleep", "findings"])


def wake_templates(scopes: Collection[str]) -> None:
    """Wake the sleeping templates of these scopes: something happened there. Where another has the ledger, after the commit."""
    if lock_ledger(waiting=False):
        MomentumLedger.objects.filter(scope__in=list(scopes), asleep=True).update(asleep=False, fruitless_runs=0)
    else:
        transaction.on_commit(partial(_wake_templates_later, list(scopes)))


def _wake_templates_later(scopes: Collection[str]) -> None:
    with transaction.atomic():
        lock_ledger()
        wake_templates(scopes)
