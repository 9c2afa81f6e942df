"""Fetches the facts that the judges judge: of a batch of Novas, and of the machine and the stream server they share.

A batch costs the same few queries however large it is. What only upper floors know of a Nova's work is passed in. This room
decides nothing: what could not be read goes on as None.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
from django.db import connection, transaction

from safety import audit, bulk, incidents
from safety.audit import Entry
from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules
from safety.models import FleetFact
from safety.observations import Kind
from safety.stream_client import StreamClient, StreamError

STREAM_LOST = "safety.stream.lost"
STREAM_RETURNED = "safety.stream.returned"
STREAM_GAP = "safety.stream.gap"

_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(hours=24)
_FRESH = timedelta(seconds=10)  # an older reading of the fleet counts as none
_OBSERVE_EVERY = timedelta(seconds=1)
_SHOW_GAP = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class WorkflowSideFacts:
    """What the first floor knows of a Nova's work. None means: not readable, which is unsafe."""

    has_claimable_work: bool = False
    last_task_change: datetime | None = None
    active_since: datetime | None = None  # since when it has run without a pause
    celebrating_since: datetime | None = None
    error_ratio: float | None = 0.0  # share of its recent executions that failed, 0 to 1
    queue_lag: timedelta | None = timedelta(0)
    last_work_evidence: datetime | None = None


_UNKNOWN = WorkflowSideFacts(error_ratio=None, queue_lag=None)

_COLUMNS = (
    "is_safe",
    "safety_level",
    "mechanism",
    "since",
    "until",
    "cooldown_since",
    "cooldown_until",
    "cooldown_reason",
    "cooldowns_in_a_row",
    "last_cooldown_end",
    "meditation_until",
    "quarantine_until",
    "quarantine_reason",
    "stressed_since",
    "hooks_expected",
    "last_hook_heartbeat",
    "last_work_evidence",
    "api_breaker_open_until",
)
_LEVELS = {level.value: level for level in SafetyLevel}


def load_facts(
    nova_ids: Collection[str],
    rules_by_nova: Mapping[str, SafetyRules],
    workflow_facts: Mapping[str, WorkflowSideFacts],
    now: datetime,
    *,
    fleet: FleetFacts | None = None,
) -> dict[str, SafetyFacts]:
    """Load the facts of a batch: one query for verdicts and memory, one for what was observed, if anything was.

    A Nova that `workflow_facts` doesn't know counts as not readable. Without `fleet` its rows are loaded too.
    """
    fleet = load_fleet(now) if fleet is None else fleet
    facts: dict[str, SafetyFacts] = {}
    seen: dict[str, datetime | None] = {}
    for nova_id, observed, *row in _load_states(nova_ids):
        work = workflow_facts.get(nova_id, _UNKNOWN)
        if row[0] is None:  # no row yet: nothing was ever said of it
            facts[nova_id] = SafetyFacts(
                nova_id=nova_id,
                fleet=fleet,
                has_claimable_work=work.has_claimable_work,
                last_task_change=work.last_task_change,
                active_since=work.active_since,
                celebrating_since=work.celebrating_since,
                last_work_evidence=work.last_work_evidence,
                error_ratio=work.error_ratio,
                queue_lag=work.queue_lag,
            )
        else:
            facts[nova_id] = _remembered(nova_id, row, fleet, work)
        if observed:
            seen[nova_id] = facts[nova_id].cooldown_since
    if seen:
        for nova_id, counts in _load_counts(seen, rules_by_nova, now).items():
            facts[nova_id] = replace(facts[nova_id], **counts)
    return facts


def _load_states(nova_ids: Collection[str]) -> Sequence[Sequence[Any]]:
    """Give a row for each Nova: its id, whether anything was observed of it, and its SafetyState's columns or NULLs."""
    ids = "jsonb_array_elements_text(%s::jsonb) AS ids(value)" if connection.vendor == "postgresql" else "json_each(%s) AS ids"
    columns = ", ".join(f"s.{name}" for name in _COLUMNS)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ids.value, EXISTS (SELECT 1 FROM safety_observation AS o WHERE o.nova_id = ids.value), "  # noqa: S608
            f"{columns} FROM {ids} LEFT JOIN safety_safetystate AS s ON s.nova_id = ids.value",
            [bulk.json_text(list(nova_ids))],
        )
        rows: Sequence[Sequence[Any]] = cursor.fetchall()
        return rows


def _instant(value: Any) -> Any:
    """Read an instant from a raw row: SQLite gives Django's own text, in UTC without saying so."""
    return datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value


def _remembered(nova_id: str, row: Sequence[Any], fleet: FleetFacts, work: WorkflowSideFacts) -> SafetyFacts:
    worked = [instant for instant in (_instant(row[16]), work.last_work_evidence) if instant is not None]
    return SafetyFacts(
        nova_id=nova_id,
        fleet=fleet,
        verdict_is_safe=bool(row[0]),
        verdict_level=_LEVELS.get(row[1], SafetyLevel.QUARANTINE),
        verdict_mechanism=row[2],
        verdict_since=_instant(row[3]),
        verdict_until=_instant(row[4]),
        cooldown_since=_instant(row[5]),
        cooldown_until=_instant(row[6]),
        cooldown_reason=row[7],
        cooldowns_in_a_row=row[8],
        last_cooldown_end=_instant(row[9]),
        meditation_until=_instant(row[10]),
        quarantine_until=_instant(row[11]),
        quarantine_reason=row[12],
        stressed_since=_instant(row[13]),
        hooks_expected=bool(row[14]),
        last_hook_heartbeat=_instant(row[15]),
        last_work_evidence=max(worked, default=None),
        api_breaker_open_until=_instant(row[17]),
        has_claimable_work=work.has_claimable_work,
        last_task_change=work.last_task_change,
        active_since=work.active_since,
        celebrating_since=work.celebrating_since,
        error_ratio=work.error_ratio,
        queue_lag=work.queue_lag,
    )


# kind -> the facts that its two sums are, and the one that is the most of any single detail
_SUMS: Mapping[str, tuple[str, str, str]] = {
    Kind.TOOL_USE.value: ("tool_uses_minute", "calls_in_failure_window", "identical_calls_minute"),
    Kind.TOOL_FAILURE.value: ("failures_in_failure_window", "", ""),
    Kind.API_REQUEST.value: ("api_requests_minute", "api_requests_burst", ""),
    Kind.API_REQUEST_BY_MINUTE.value: ("api_requests_hour", "", ""),
    Kind.API_REQUEST_BY_QUARTER.value: ("api_requests_day", "", ""),
    Kind.HOOK_FAILURE.value: ("hook_failures_in_window", "", ""),
    Kind.SESSION_EVENT.value: ("session_events_minute", "", ""),
    Kind.OWN_WAKE.value: ("own_wakes_hour", "", ""),
}


def _begins(rules: SafetyRules, cooled: datetime | None, now: datetime) -> dict[str, tuple[datetime, datetime]]:
    """Say for each kind where its two windows begin. What led to a cooldown is paid for: Frosty's windows begin after it."""
    minute, failing, hour = now - _MINUTE, now - rules.failure_window, now - _HOUR
    since = cooled or now - _DAY
    paid_minute, paid_failing, paid_hour = max(minute, since), max(failing, since), max(hour, since)
    return {
        Kind.TOOL_USE.value: (paid_minute, paid_failing),
        Kind.TOOL_FAILURE.value: (paid_failing, now),
        Kind.API_REQUEST.value: (minute, now - rules.burst_window),
        Kind.API_REQUEST_BY_MINUTE.value: (hour, now),
        Kind.API_REQUEST_BY_QUARTER.value: (now - _DAY, now),
        Kind.HOOK_FAILURE.value: (failing, now),
        Kind.SESSION_EVENT.value: (minute, now),
        Kind.OWN_WAKE.value: (paid_hour, now),
    }


def _load_counts(
    cooled_since: Mapping[str, datetime | None], rules_by_nova: Mapping[str, SafetyRules], now: datetime
) -> dict[str, dict[str, int]]:
    """Sum the windows of all given Novas in one query: each row of the parameter is a Nova, a kind and where to begin."""
    standard = SafetyRules()
    windows = []
    for nova_id, since in cooled_since.items():
        for kind, (first, second) in _begins(rules_by_nova.get(nova_id, standard), since, now).items():
            windows.append([nova_id, kind, *(_stored(begin) for begin in (min(first, second), first, second))])
    counts: dict[str, dict[str, int]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_COUNTS[connection.vendor], [bulk.json_text(windows)])
        for nova_id, kind, first_sum, second_sum, most in cursor.fetchall():
            names = _SUMS[kind]
            row = counts.setdefault(nova_id, {})
            for name, value in zip(names, (first_sum, second_sum, most), strict=True):
                if name:
                    row[name] = int(value)
    return counts


def _stored(instant: datetime) -> str:
    """Write an instant as this database keeps it."""
    if connection.vendor == "sqlite":
        return str(instant.astimezone(UTC).replace(tzinfo=None))
    return instant.isoformat()


_ROW_SUMS = (
    "SELECT nova_id, kind, SUM(a), SUM(b), MAX(CASE WHEN detail = '' THEN 0 ELSE a END) FROM ("
    "SELECT o.nova_id, o.kind, o.detail, SUM(CASE WHEN o.at > w.a THEN o.count ELSE 0 END) AS a, "
    "SUM(CASE WHEN o.at > w.b THEN o.count ELSE 0 END) AS b "
)
_GROUPED = "GROUP BY o.nova_id, o.kind, o.detail) AS q GROUP BY nova_id, kind"
# CROSS JOIN keeps SQLite to the order written: a window first, then its rows by the index `observation_once`.
_COUNTS = {
    "sqlite": (
        "WITH w AS (SELECT json_extract(value, '$[0]') AS nova_id, json_extract(value, '$[1]') AS kind, "
        "json_extract(value, '$[2]') AS begins, json_extract(value, '$[3]') AS a, json_extract(value, '$[4]') AS b "
        f"FROM json_each(%s)) {_ROW_SUMS} FROM w CROSS JOIN safety_observation AS o "  # noqa: S608 - constants only
        f"WHERE o.nova_id = w.nova_id AND o.kind = w.kind AND o.at > w.begins {_GROUPED}"
    ),
    "postgresql": (
        "WITH w AS (SELECT value->>0 AS nova_id, value->>1 AS kind, (value->>2)::timestamptz AS begins, "
        "(value->>3)::timestamptz AS a, (value->>4)::timestamptz AS b "
        f"FROM jsonb_array_elements(%s::jsonb)) {_ROW_SUMS} FROM w JOIN safety_observation AS o "  # noqa: S608
        f"ON o.nova_id = w.nova_id AND o.kind = w.kind AND o.at > w.begins {_GROUPED}"
    ),
}
