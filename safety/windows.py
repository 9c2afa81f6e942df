"""Sums what was observed of a batch of Novas over the judges' windows: one query, however many Novas and windows."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from django.db import connection

from safety import bulk
from safety.core.status import SafetyRules
from safety.observations import Kind

_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(hours=24)
_LONG = frozenset({Kind.API_REQUEST_BY_MINUTE.value, Kind.API_REQUEST_BY_QUARTER.value})  # the hour and the day

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
    Kind.EMPTY_CYCLE.value: ("empty_cycles_minute", "", ""),
}


NO_STOPS: Mapping[str, datetime | None] = MappingProxyType({})
# The facts that load_counts gives, of a Nova that did nothing.
NO_COUNTS: Mapping[str, int] = MappingProxyType({name: 0 for names in _SUMS.values() for name in names if name})


def _begins(
    rules: SafetyRules, cooled: datetime | None, stopped: datetime | None, now: datetime
) -> dict[str, tuple[datetime, datetime]]:
    """Say for each kind where its two windows begin. What led to a cooldown is paid for: Frosty's windows begin after it."""
    minute, failing, hour = now - _MINUTE, now - rules.failure_window, now - _HOUR
    since = cooled or now - _DAY
    paid_minute, paid_failing, paid_hour = max(minute, since), max(failing, since), max(hour, since)
    begins = {
        Kind.TOOL_USE.value: (paid_minute, paid_failing),
        Kind.TOOL_FAILURE.value: (paid_failing, now),
        Kind.API_REQUEST.value: (minute, now - rules.burst_window),
        Kind.API_REQUEST_BY_MINUTE.value: (hour, now),
        Kind.API_REQUEST_BY_QUARTER.value: (now - _DAY, now),
        Kind.HOOK_FAILURE.value: (failing, now),
        Kind.SESSION_EVENT.value: (minute, now),
        Kind.OWN_WAKE.value: (paid_hour, now),
        Kind.EMPTY_CYCLE.value: (paid_minute, now),
    }
    if stopped is None:
        return begins
    return {kind: at if kind in _LONG else (max(at[0], stopped), max(at[1], stopped)) for kind, at in begins.items()}


def load_counts(
    cooled_since: Mapping[str, datetime | None],
    rules_by_nova: Mapping[str, SafetyRules],
    now: datetime,
    *,
    stopped_until: Mapping[str, datetime | None] = NO_STOPS,
) -> dict[str, dict[str, int]]:
    """Sum the windows of all given Novas in one query: each row of the parameter is a Nova, a kind and where to begin.

    What a Nova did before its `stopped_until` counts for no window but the hour's and the day's.
    """
    standard = SafetyRules()
    windows = []
    for nova_id, since in cooled_since.items():
        begins = _begins(rules_by_nova.get(nova_id, standard), since, stopped_until.get(nova_id), now)
        for kind, (first, second) in begins.items():
            windows.append([nova_id, kind, min(first, second), first, second])
    counts: dict[str, dict[str, int]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_COUNTS[connection.vendor], [bulk.parameter(windows)])
        for nova_id, kind, first_sum, second_sum, most in cursor.fetchall():
            names = _SUMS[kind]
            row = counts.setdefault(nova_id, {})
            for name, value in zip(names, (first_sum, second_sum, most), strict=True):
                if name:
                    row[name] = int(value)
    return counts


_ROW_SUMS = (
    "SELECT nova_id, kind, SUM(a), SUM(b), MAX(CASE WHEN detail = '' THEN 0 ELSE a END) FROM ("
    "SELECT o.nova_id, o.kind, o.detail, SUM(CASE WHEN o.at > w.a THEN o.count ELSE 0 END) AS a, "
    "SUM(CASE WHEN o.at > w.b THEN o.count ELSE 0 END) AS b "
)
_GROUPED = "GROUP BY o.nova_id, o.kind, o.detail) AS q GROUP BY nova_id, kind"
# CROSS JOIN keeps SQLite to the order written: a window first, then its rows by the index `observation_once`.
_COUNTS = {
    "sqlite": (
        "WITH w AS (SELECT json_extract(value, '$[0]') AS nova_id, json_extract(value, '$[1]') AS kind, "  # noqa: S608
        "json_extract(value, '$[2]') AS begins, json_extract(value, '$[3]') AS a, json_extract(value, '$[4]') AS b "
        f"FROM json_each(%s)) {_ROW_SUMS} FROM w CROSS JOIN safety_observation AS o "
        f"WHERE o.nova_id = w.nova_id AND o.kind = w.kind AND o.at > w.begins {_GROUPED}"
    ),
    "postgresql": (
        "WITH w AS (SELECT value->>0 AS nova_id, value->>1 AS kind, (value->>2)::timestamptz AS begins, "  # noqa: S608
        "(value->>3)::timestamptz AS a, (value->>4)::timestamptz AS b "
        f"FROM jsonb_array_elements(%s::jsonb)) {_ROW_SUMS} FROM w JOIN safety_observation AS o "
        f"ON o.nova_id = w.nova_id AND o.kind = w.kind AND o.at > w.begins {_GROUPED}"
    ),
}
