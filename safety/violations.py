"""A violation that somebody reports, beside those that the judges find by themselves (spec `handle_safety_violation`).

What the mechanism must remember is set, the incident opened, the journal told; the verdict itself is the judges', who are to be
asked right afterwards. This room must not know who reports.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from safety import audit, incidents, observations
from safety.audit import Entry
from safety.core.mechanisms import STREAM_MONITOR
from safety.core.objections import (
    ACTIVATE_COOLDOWN,
    ACTIVATE_EMERGENCY_STOP,
    ACTIVATE_MEDITATION,
    ACTIVATE_QUARANTINE,
    ACTIVATE_RECOVERY,
    next_cooldown_until,
)
from safety.core.orchestrator import SafetyOrchestrator, ViolationResponse
from safety.core.status import SafetyFacts, SafetyRules
from safety.models import SafetyState
from safety.observations import STATE_DEFAULTS, Kind

VIOLATION_REPORTED = "safety.violation.reported"


def report_violation(
    nova_id: str,
    violation_type: str,
    details: Mapping[str, Any],
    *,
    now: datetime,
    rules: SafetyRules | None = None,
    until: datetime | None = None,
) -> ViolationResponse:
    """Do what a reported violation calls for, in one transaction, and say what that is.

    1. What its mechanism remembers of the Nova is set, never shortened; `until` is when the reporter lets go by itself, where
    it is the one that enforces. 2. Its incident is opened or joined, with `details` as evidence; a new one of a Nova that is
    unsafe already alerts by itself, since no change of verdict may follow. 3. Journalled. A lost stream server is the fleet's:
    nothing is set for the Nova.
    """
    rules = rules or SafetyRules()
    response = SafetyOrchestrator().handle_safety_violation(violation_type, details)
    fleet = response.mechanism == STREAM_MONITOR
    with transaction.atomic():
        after: dict[str, Any] = {"violation": violation_type, "recommended_action": response.recommended_action}
        if not fleet:
            after |= _activate(nova_id, response, rules, now, until)
        violation = incidents.Violation(
            "" if fleet else nova_id,
            response.mechanism,
            response.reason,
            {**details, "recommended_action": response.recommended_action},
            violation_type,
            response.safety_level.value,
            alert=SafetyState.objects.filter(nova_id=nova_id, is_safe=False).exists(),
        )
        entries = incidents.open_incidents([violation], now=now)
        reported = Entry(VIOLATION_REPORTED, nova_id, "nova", nova_id, after={**details, **after}, reason=response.reason)
        audit.record([reported, *entries], now=now)
    return response


def _activate(
    nova_id: str, response: ViolationResponse, rules: SafetyRules, now: datetime, given: datetime | None
) -> dict[str, Any]:
    """Set what the mechanism remembers; give what was set."""
    SafetyState.objects.get_or_create(nova_id=nova_id, defaults=STATE_DEFAULTS)
    state = SafetyState.objects.select_for_update().get(nova_id=nova_id)
    action, changes = response.recommended_action, dict[str, Any]()
    if action == ACTIVATE_RECOVERY:  # the hooks are taken for broken until their failures are past
        observations.observe(nova_id, Kind.HOOK_FAILURE, now=now, count=rules.hook_failures_in_window)
        return {"hook_failures": rules.hook_failures_in_window}
    until, name = now + rules.meditation, "meditation_until"
    if action == ACTIVATE_QUARANTINE:
        until, name = now + rules.quarantine, "quarantine_until"
        changes["quarantine_reason"] = response.reason
    elif action == ACTIVATE_COOLDOWN:
        until, name = _cooldown_until(state, rules, now), "cooldown_until"
        changes |= {"cooldown_reason": response.reason, "cooldown_since": now}
        changes["cooldowns_in_a_row"] = state.cooldowns_in_a_row + 1
    elif action == ACTIVATE_EMERGENCY_STOP and response.mechanism == "api_guardian":
        until, name = given or now + rules.cooldown_limit, "api_cooldown_until"
        changes["api_cooldown_reason"] = response.reason
    elif action not in (ACTIVATE_MEDITATION, ACTIVATE_EMERGENCY_STOP):
        return {}
    in_force = getattr(state, name)
    if in_force is not None and in_force >= until:
        return {name: in_force}
    changes[name] = until
    for column, value in changes.items():
        setattr(state, column, value)
    state.save(update_fields=list(changes))
    return {name: until}


def _cooldown_until(state: SafetyState, rules: SafetyRules, now: datetime) -> datetime:
    facts = SafetyFacts(
        state.nova_id,
        cooldown_until=state.cooldown_until,
        cooldowns_in_a_row=state.cooldowns_in_a_row,
        last_cooldown_end=state.last_cooldown_end,
    )
    return next_cooldown_until(facts, rules, now)
