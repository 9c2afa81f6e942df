"""The safety check of Novas between two of their cycles: for doors whose answer can't wait for the next one.

The same facts, judges and store as in the engine's batch. Whether work waits for a Nova is the engine's to know, so drift is
judged there; a cooldown that came of it stays in force here.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from functools import partial

from django.db import transaction

from safety import observe
from safety.core.orchestrator import SafetyOrchestrator, Verdict
from safety.core.status import SafetyFacts
from safety.facts import WorkflowSideFacts, load_facts
from safety.verdicts import store_verdicts
from workflow import waking
from workflow.core.state import WorkflowState, working_since
from workflow.effective import Effective, EffectiveConfigurations, candidates_of
from workflow.models import NovaState

_COLUMNS = (
    "nova_id", "last_task_change", "mode_since", "session_start_time", "current_state", "completion_stage",
    "last_completion_celebration", "due_at", "lease_until", "error_ratio", "context",
    "completion_until",
)  # fmt: skip


def check_safety(nova_ids: Collection[str], *, now: datetime) -> dict[str, Verdict]:
    """Judge Novas now, store what changed, and let those whose verdict changed act on it at once.

    A number of queries that does not grow with the Novas; Novas that don't exist are left out.
    """
    with transaction.atomic():
        effective, facts, verdicts = judge_now(nova_ids, now=now)
        changed = store_verdicts(verdicts, facts, now)
        observe.record_opinions(observe.judge_candidates(candidates_of(effective), facts, verdicts, now), now)
        if changed:
            waking.mark_due(changed, now=now)
            transaction.on_commit(partial(waking.knock, "loops"))
    return verdicts


def judge_now(
    nova_ids: Collection[str], *, now: datetime
) -> tuple[dict[str, Effective], dict[str, SafetyFacts], dict[str, Verdict]]:
    """Judge Novas now and store nothing: give what they live under, what is known of them, and the verdicts."""
    effective = EffectiveConfigurations().load(nova_ids, now=now)
    known = sorted(effective)
    rules = {nova_id: effective[nova_id].rules for nova_id in known}
    facts = load_facts(known, rules, _work_facts(effective, now), now)
    judge = SafetyOrchestrator().judge
    return effective, facts, {nova_id: judge(facts[nova_id], rules[nova_id], now) for nova_id in known}


def _work_facts(effective: Mapping[str, Effective], now: datetime) -> dict[str, WorkflowSideFacts]:
    found = {}
    for row in NovaState.objects.filter(nova_id__in=effective).values_list(*_COLUMNS):
        nova_id, change, mode_since, session, state, stage, celebrated, due_at, lease_until, errors, context, end = row
        celebrates = bool(stage) and (end is None or now < end)  # as the engine sees it
        held = lease_until is not None and lease_until > now
        found[nova_id] = WorkflowSideFacts(
            last_task_change=change,
            active_since=working_since(mode_since, session, context),
            celebrating_since=celebrated if celebrates and state != WorkflowState.SAFETY_PAUSE else None,
            error_ratio=errors,
            api_breaker_open_until=effective[nova_id].breaker_open_until,
            queue_lag=timedelta(0) if held else max(now - due_at, timedelta(0)),
            configuration_problem=effective[nova_id].problem,
        )
    return found
