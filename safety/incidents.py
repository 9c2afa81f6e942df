"""Incidents: a violation opens one, lasts in it, and ends it; several processes may say so at once, and it stays one.

Everything is by whole batches, inside the caller's transaction. An incident without nova_id is the fleet's. Its story is the
journal's: every step of it is an entry of the object `incident`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from safety import bulk
from safety.audit import Entry
from safety.models import SafetyIncident

INCIDENT_OPENED = "safety.incident.opened"
INCIDENT_JOINED = "safety.incident.joined"
INCIDENT_ENDED = "safety.incident.ended"


@dataclass(frozen=True, slots=True)
class Violation:
    """What an incident tells. `kind`: as it was reported; empty where a judge found it.

    `alert`: if it opens an incident, the Nova's safety stream must hear of it from here, since no change of verdict tells it.
    """

    nova_id: str
    mechanism: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    level: str = ""
    alert: bool = False


_COLUMNS = (
    "nova_id", "mechanism", "status", "violation", "safety_level", "reason", "evidence", "opened_at", "last_seen_at",
    "acknowledged_by", "conclusion", "joined",
)  # fmt: skip
_CONFLICT = "(nova_id, mechanism) WHERE ended_at IS NULL DO"
_TABLE = SafetyIncident._meta.db_table
_ENDED = (
    "status = CASE WHEN t.status IN ('open', 'acknowledged', 'mitigated') THEN 'resolved' ELSE t.status END, "
    "ended_at = {last_seen_at}"
)


def _row(violation: Violation, now: datetime) -> tuple[Any, ...]:
    evidence = bulk.json_text(violation.evidence)
    about = violation.nova_id, violation.mechanism, "open", violation.kind, violation.level, violation.reason
    return (*about, evidence, now, now, "", "", 0)


def _merged() -> str:
    """Give the expression that adds new evidence to what is there."""
    if connection.vendor == "sqlite":
        return f"json_patch({_TABLE}.evidence, excluded.evidence)"
    return f"{_TABLE}.evidence || excluded.evidence"


def open_incidents(violations: Sequence[Violation], *, now: datetime) -> list[Entry]:
    """Open an incident for each violation; one that has an open incident joins it, with its newest reason and more evidence.

    Gives what the journal must be told, one entry for each.
    """
    known = {(violation.nova_id, violation.mechanism): violation for violation in violations}
    rows = bulk.insert(
        SafetyIncident,
        _COLUMNS,
        [_row(violation, now) for violation in known.values()],
        on_conflict=(
            f"{_CONFLICT} UPDATE SET last_seen_at = excluded.last_seen_at, reason = excluded.reason, "
            f"evidence = {_merged()}, joined = {_TABLE}.joined + 1, "
            f"violation = CASE WHEN excluded.violation <> '' THEN excluded.violation ELSE {_TABLE}.violation END, "
            f"safety_level = CASE WHEN excluded.safety_level <> '' THEN excluded.safety_level ELSE {_TABLE}.safety_level END"
        ),
        returning="id, nova_id, mechanism, joined",
    )
    return [_told(incident_id, known[nova_id, mechanism], joined, now) for incident_id, nova_id, mechanism, joined in rows]


def _told(incident_id: int, violation: Violation, joined: int, now: datetime) -> Entry:
    after = {"mechanism": violation.mechanism, "safety_level": violation.level, **violation.evidence}
    if violation.kind:
        after["violation"] = violation.kind
    alert = violation.alert and not joined and violation.nova_id
    return Entry(
        INCIDENT_JOINED if joined else INCIDENT_OPENED,
        violation.nova_id,
        "incident",
        str(incident_id),
        after=after,
        reason=violation.reason,
        counted=not joined,  # enterprise monitoring hears of each incident once
        stream=f"nova.safety.{violation.nova_id}" if alert else "",
        message=_alert(violation, now) if alert else None,
    )


def _alert(violation: Violation, now: datetime) -> dict[str, str]:
    """Give the fields of a safety alert. What a stranger reports as evidence is no measurement of ours."""
    seen = {} if violation.kind else violation.evidence
    return {
        "nova_id": violation.nova_id,
        "is_safe": "false",
        "safety_level": violation.level,
        "mechanism": violation.mechanism,
        "reason": violation.reason,
        **{name: message_text(seen.get(name)) for name in ("measured", "limit", "since", "expires_at")},
        "recommended_action": violation.evidence.get("recommended_action") or "",
        "timestamp": now.isoformat(),
    }


def message_text(value: float | datetime | None) -> str:
    """Write a number or an instant as the safety stream does; empty for none."""
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else f"{value:g}"


def open_fleet_incident(violation: Violation, *, now: datetime) -> Entry | None:
    """Open an incident of the fleet and give its entry; None if it is open already, then nothing is changed."""
    rows = bulk.insert(SafetyIncident, _COLUMNS, [_row(violation, now)], on_conflict=f"{_CONFLICT} NOTHING", returning="id")
    return _told(rows[0][0], violation, 0, now) if rows else None


def end_incidents(over: Sequence[tuple[str, str]], *, now: datetime) -> dict[tuple[str, str], Entry]:
    """End the open incidents of the given (nova_id, mechanism) pairs; give an entry for each that had one."""
    rows = bulk.update(
        SafetyIncident,
        ("nova_id", "mechanism"),
        ("last_seen_at",),
        [(nova_id, mechanism, now) for nova_id, mechanism in over],
        where="t.ended_at IS NULL",
        extra_set=_ENDED,
        returning="t.id, t.nova_id, t.mechanism, t.status",
    )
    reason = "Its cause is over."
    return {
        (nova_id, mechanism): Entry(
            INCIDENT_ENDED, nova_id, "incident", str(incident_id), after={"status": status}, reason=reason
        )
        for incident_id, nova_id, mechanism, status in rows
    }
