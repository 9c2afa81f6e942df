"""Stores what the judges decided: the verdict in force, incidents and journal, for a whole batch, in the caller's transaction.

Nothing is written for a Nova whose verdict did not change. What the stream monitor objects to is the whole fleet's: one
incident and one journal entry for all, however many Novas wait because of it. This room decides nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from safety import audit, bulk, incidents
from safety.audit import Entry
from safety.core.mechanisms import STREAM_MONITOR
from safety.core.orchestrator import Verdict
from safety.core.status import SafetyFacts, SafetyLevel, SafetyStatus
from safety.incidents import message_text
from safety.models import SafetyState

NOVA_UNSAFE = "safety.nova.unsafe"
NOVA_SAFE = "safety.nova.safe"
FLEET_UNSAFE = "safety.fleet.unsafe"
FLEET_SAFE = "safety.fleet.safe"

# The columns that verdicts own; the others of SafetyState belong to those who observe.
_MEMORY = (
    "cooldown_since",
    "cooldown_until",
    "cooldown_reason",
    "cooldowns_in_a_row",
    "last_cooldown_end",
    "meditation_until",
    "quarantine_until",
    "quarantine_reason",
    "stressed_since",
)
_VERDICT = ("is_safe", "safety_level", "mechanism", "reason", "measured", "limit", "since", "until")
_COLUMNS = ("nova_id", *_VERDICT, *_MEMORY, "hooks_expected")
_ON_CONFLICT = "(nova_id) DO UPDATE SET " + ", ".join(f'"{name}" = excluded."{name}"' for name in (*_VERDICT, *_MEMORY))


def store_verdicts(
    verdicts: Mapping[str, Verdict], facts: Mapping[str, SafetyFacts], now: datetime, *, announce: bool = True
) -> set[str]:
    """Write what changed against the verdicts in force, which came with `facts`; give the Novas whose verdict changed.

    1. SafetyState rows. 2. Incidents are opened, joined or ended. 3. Each change of a Nova's own verdict is journalled and
    announced on its safety stream; one of the fleet's once for all. `announce=False`: the caller wakes the relay itself.
    """
    written = {
        nova_id: verdict
        for nova_id, verdict in verdicts.items()
        if verdict.memory or _key(verdict.status) != _key_in_force(facts[nova_id])
    }
    if not written:
        return set()
    rows = [_row(facts[nova_id], verdict, now) for nova_id, verdict in sorted(written.items())]
    bulk.insert(SafetyState, _COLUMNS, rows, on_conflict=_ON_CONFLICT)
    changed = {
        nova_id: verdict for nova_id, verdict in written.items() if _key(verdict.status) != _key_in_force(facts[nova_id])
    }
    entries = [
        _entry(facts[nova_id], verdict.status, now)
        for nova_id, verdict in changed.items()
        if not (_is_quiet(verdict.status.is_safe, verdict.status.mechanism) and _was_quiet(facts[nova_id]))
    ]
    entries += _follow_incidents(changed, facts, now)
    audit.record(entries, now=now, announce=announce)
    return set(changed)


def _key(status: SafetyStatus) -> tuple[bool, SafetyLevel, str, datetime | None]:
    """What makes one verdict another; numbers that move within the same verdict are no news."""
    return status.is_safe, status.safety_level, status.mechanism, status.expires_at


def _key_in_force(facts: SafetyFacts) -> tuple[bool, SafetyLevel, str, datetime | None]:
    return facts.verdict_is_safe, facts.verdict_level, facts.verdict_mechanism, facts.verdict_until


def _is_quiet(is_safe: bool, mechanism: str) -> bool:
    """Say whether a verdict needs no words about this Nova: it may act, or it waits with the whole fleet."""
    return is_safe or mechanism == STREAM_MONITOR


def _was_quiet(facts: SafetyFacts) -> bool:
    return _is_quiet(facts.verdict_is_safe, facts.verdict_mechanism)


def _row(facts: SafetyFacts, verdict: Verdict, now: datetime) -> tuple[Any, ...]:
    status, memory = verdict.status, verdict.memory
    since = status.since
    if status.is_safe:  # also since when: what a Nova could not do before that is not held against it
        since = facts.verdict_since if facts.verdict_is_safe else now
    return (
        facts.nova_id,
        status.is_safe,
        status.safety_level.value,
        status.mechanism,
        status.reason,
        status.measured,
        status.limit,
        since,
        status.expires_at,
        *(memory[name] if name in memory else getattr(facts, name) for name in _MEMORY),
        False,
    )


def _follow_incidents(changed: Mapping[str, Verdict], facts: Mapping[str, SafetyFacts], now: datetime) -> list[Entry]:
    """Open and end the incidents of the batch; give what the journal must be told of them."""
    opened: list[incidents.Violation] = []
    over: list[tuple[str, str]] = []
    fleet: SafetyStatus | None = None
    fleet_over = False
    for nova_id, verdict in changed.items():
        before = facts[nova_id]
        for name, status in verdict.by_mechanism.items():
            if name == STREAM_MONITOR:
                if not status.is_safe:
                    fleet = status
                elif not before.verdict_is_safe and before.verdict_mechanism == STREAM_MONITOR:
                    fleet_over = True
            elif not status.is_safe:
                level, alert = status.safety_level.value, name != verdict.status.mechanism  # the verdict's own is told with it
                opened.append(incidents.Violation(nova_id, name, status.reason, _evidence(status), level=level, alert=alert))
            elif not before.verdict_is_safe:
                over.append((nova_id, name))
        if not before.verdict_is_safe and before.verdict_mechanism not in verdict.by_mechanism:
            over.append((nova_id, before.verdict_mechanism))  # one that is no judge's: its configuration was missing
    entries = incidents.open_incidents(opened, now=now)
    ended = incidents.end_incidents(over + [("", STREAM_MONITOR)] if fleet_over and not fleet else over, now=now)
    if fleet:
        violation = incidents.Violation("", STREAM_MONITOR, fleet.reason, _evidence(fleet), level=fleet.safety_level.value)
        if told := incidents.open_fleet_incident(violation, now=now):
            entries += [told, Entry(FLEET_UNSAFE, object_type="fleet", after=_evidence(fleet), reason=fleet.reason)]
    elif ("", STREAM_MONITOR) in ended:
        entries.append(Entry(FLEET_SAFE, object_type="fleet", reason="The stream monitor objects no more."))
    return entries + list(ended.values())


def _evidence(status: SafetyStatus) -> dict[str, Any]:
    return {
        "safety_level": status.safety_level.value,
        "measured": status.measured,
        "limit": status.limit,
        "since": status.since,
        "expires_at": status.expires_at,
        "recommended_action": status.recommended_action,
    }


def _entry(facts: SafetyFacts, status: SafetyStatus, now: datetime) -> Entry:
    nova_id = facts.nova_id
    return Entry(
        NOVA_SAFE if status.is_safe else NOVA_UNSAFE,
        nova_id=nova_id,
        object_type="nova",
        object_id=nova_id,
        before={
            "is_safe": facts.verdict_is_safe,
            "safety_level": facts.verdict_level.value,
            "mechanism": facts.verdict_mechanism,
        },
        after={"is_safe": status.is_safe, "mechanism": status.mechanism, **_evidence(status)},
        reason=status.reason,
        stream=f"nova.safety.{nova_id}",
        message={
            "nova_id": nova_id,
            "is_safe": "true" if status.is_safe else "false",
            "safety_level": status.safety_level.value,
            "mechanism": status.mechanism,
            "reason": status.reason,
            "measured": message_text(status.measured),
            "limit": message_text(status.limit),
            "since": message_text(status.since),
            "expires_at": message_text(status.expires_at),
            "recommended_action": status.recommended_action or "",
            "timestamp": now.isoformat(),
        },
    )
