"""The momentum ledger: when each template last ran in a scope, what it found, and whether it sleeps (spec section 5).

The limits themselves are workflow.core.momentum's; here is only the memory they need.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from safety import bulk
from workflow.core.momentum import MOMENTUM_INTERVAL, MomentumFacts, after_momentum_run, allowed_templates
from workflow.core.work import MomentumBudget
from workflow.models import MomentumLedger, Task

NOTHING = MomentumBudget()


def budgets(teams: Mapping[str, str], *, now: datetime) -> dict[str, MomentumBudget]:
    """Give what each Nova (with its team) may still do as momentum work: two queries, whatever their number."""
    ledgers: defaultdict[str, list[MomentumFacts]] = defaultdict(list)
    for row in MomentumLedger.objects.filter(scope__in=set(teams.values())):
        ledgers[row.scope].append(MomentumFacts(row.template, row.last_created_at, row.asleep))
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today: defaultdict[str, Counter[str]] = defaultdict(Counter)
    done = Task.objects.filter(work_type="momentum", completed_at__gte=midnight, assignee_id__in=list(teams))
    for assignee, action in done.exclude(action="").values_list("assignee_id", "action"):
        today[assignee or ""][action] += 1
    return {nova_id: MomentumBudget(allowed_templates(ledgers[team], now, today[nova_id])) for nova_id, team in teams.items()}


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
    rows = {(row.scope, row.template): row for row in MomentumLedger.objects.filter(scope__in={run[0] for run in runs})}
    for scope, template, findings in runs:
        if row := rows.get((scope, template)):
            row.fruitless_runs, row.asleep = after_momentum_run(row.findings, findings, row.fruitless_runs)
            row.findings = sorted(findings)
    MomentumLedger.objects.bulk_update(rows.values(), ["fruitless_runs", "asleep", "findings"])


def wake_templates(scopes: Collection[str]) -> None:
    """Wake the sleeping templates of these scopes: something happened there."""
    MomentumLedger.objects.filter(scope__in=list(scopes), asleep=True).update(asleep=False, fruitless_runs=0)
