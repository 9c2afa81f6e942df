"""Incidents: a violation opens one, lasts in it, and ends it; several processes may say so at once, and it stays one.

Everything is by whole batches, inside the caller's transaction. An incident without nova_id is the fleet's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from safety import bulk
from safety.models import SafetyIncident


@dataclass(frozen=True, slots=True)
class Violation:
    """What an incident tells."""

    nova_id: str
    mechanism: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


_ENDED = (
    "status = CASE WHEN t.status IN ('open', 'acknowledged', 'mitigated') THEN 'resolved' ELSE t.status END, "
    "ended_at = r.last_seen_at"
)


def open_incidents(violations: Sequence[Violation], *, now: datetime) -> None:
    """Open an incident for each violation; one that has an open incident joins it, with its newest reason and evidence."""
    bulk.insert(
        SafetyIncident,
        ("nova_id", "mechanism", "status", "reason", "evidence", "opened_at", "last_seen_at"),
        [(v.nova_id, v.mechanism, "open", v.reason, bulk.json_text(v.evidence), now, now) for v in violations],
        on_conflict=(
            "(nova_id, mechanism) WHERE ended_at IS NULL DO UPDATE SET last_seen_at = excluded.last_seen_at, "
            "reason = excluded.reason, evidence = excluded.evidence"
        ),
    )


def open_fleet_incident(violation: Violation, *, now: datetime) -> bool:
    """Open an incident of the fleet; False if it is open already, then nothing is changed."""
    rows = [(v.nova_id, v.mechanism, "open", v.reason, bulk.json_text(v.evidence), now, now) for v in (violation,)]
    columns = ("nova_id", "mechanism", "status", "reason", "evidence", "opened_at", "last_seen_at")
    conflict = "(nova_id, mechanism) WHERE ended_at IS NULL DO NOTHING"
    return bool(bulk.insert(SafetyIncident, columns, rows, on_conflict=conflict, returning="id"))


def end_incidents(over: Sequence[tuple[str, str]], *, now: datetime) -> list[tuple[str, str]]:
    """End the open incidents of the given (nova_id, mechanism) pairs; give the pairs that had one."""
    return [
        (nova_id, mechanism)
        for nova_id, mechanism in bulk.update(
            SafetyIncident,
            ("nova_id", "mechanism"),
            ("last_seen_at",),
            [(nova_id, mechanism, now) for nova_id, mechanism in over],
            where="t.ended_at IS NULL",
            extra_set=_ENDED,
            returning="t.nova_id, t.mechanism",
        )
    ]
