"""The momentum ledger: when each template last ran in a scope, what it found, and whether it sleeps (spec section 5).

The limits themselves are workflow.core.momentum's; here is only the memory they need.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from safety import bulk
from workflow.core.momentum import LEAST_INTERVAL, TemplateFacts, after_momentum_run, allowed_templates, woken
from workflow.core.work import MomentumBudget
from workflow.models import MomentumLedger, Task

NOTHING = MomentumBudget()


def budgets(teams: Mapping[str, str], *, now: datetime) -> dict[str, MomentumBudget]:
    """Give what each Nova (with its team) may still do as momentum work: two queries, whatever their number."""
    ledgers: defaultdict[str, dict[str, TemplateFacts]] = defaultdict(dict)
    for row in MomentumLedger.objects.filter(scope__in=set(teams.values())):
        ledgers[row.scope][row.template] = _facts(row)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today: defaultdict[str, Counter[str]] = defaultdict(Counter)
    done = Task.objects.filter(work_type="momentum", completed_at__gte=midnight, assignee_id__in=list(teams))
    for assignee, action in done.exclude(action="").values_list("assignee_id", "action"):
        today[assignee or ""][action] += 1
    return {nova_id: MomentumBudget(allowed_templates(ledgers[team], now, today[nova_id])) for nova_id, team in teams.items()}


def take_turns(wanted: Sequence[tuple[str, str]], *, now: datetime) -> set[tuple[str, str]]:
    """Take the hourly turn of templates, given as (scope, template); give those that were free (in the caller's transaction)."""
    taken = bulk.insert(
        MomentumLedger,
        ("scope", "template", "last_created_at", "fruitless_runs", "asleep", "findings"),
        [(scope, template, now, 0, False, "[]") for scope, template in wanted],
        on_conflict="(scope, template) DO UPDATE SET last_created_at = excluded.last_created_at "
        "WHERE workflow_momentumledger.last_created_at IS NULL OR workflow_momentumledger.last_created_at <= %s",
        conflict_values=[now - LEAST_INTERVAL],
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
            _keep(row, after_momentum_run(_facts(row), list(findings)))
    MomentumLedger.objects.bulk_update(rows.values(), ["fruitless_runs", "asleep", "findings"])


def wake_templates(scopes: Collection[str]) -> None:
    """Wake the sleeping templates of these scopes: something happened there."""
    for row in MomentumLedger.objects.filter(scope__in=list(scopes), asleep=True):
        _keep(row, woken(_facts(row)))
        row.save(update_fields=["fruitless_runs", "asleep", "findings"])


def _facts(row: MomentumLedger) -> TemplateFacts:
    return TemplateFacts(row.last_created_at, row.fruitless_runs, row.asleep, row.findings)


def _keep(row: MomentumLedger, facts: TemplateFacts) -> None:
    row.fruitless_runs, row.asleep, row.findings = facts.fruitless_runs, facts.asleep, list(facts.findings)
