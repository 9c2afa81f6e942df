"""What Novas were seen doing, counted into buckets of time: the journal of the judges' windows, written by doors and hosts.

A bucket is a row; seeing the same again within it only raises its count. What happened in a bucket counts for a window that
holds its beginning. This room does not know the limits.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from django.db.models import Q

from safety import bulk
from safety.models import Observation, SafetyPolicy, SafetyState


class Kind(StrEnum):
    """What may be observed. `detail` is the digest of the call for tool uses, so that identical ones can be counted."""

    TOOL_USE = "tool_use"
    TOOL_FAILURE = "tool_failure"
    API_REQUEST = "api_request"
    HOOK_HEARTBEAT = "hook_heartbeat"  # the agent's hooks work: from now on their silence means something
    HOOK_FAILURE = "hook_failure"
    SESSION_EVENT = "session_event"
    OWN_WAKE = "own_wake"  # a wake that the Nova caused itself
    WORK_EVIDENCE = "work_evidence"
    EMPTY_CYCLE = "empty_cycle"  # a cycle that came before its time and found nothing to do
    API_REFUSAL = "api_refusal"  # a permit that was not granted; `detail` is the limit
    # written by observe_many() beside api_request, for the windows that would hold too many rows of a second each
    API_REQUEST_BY_MINUTE = "api_request_by_minute"
    API_REQUEST_BY_QUARTER = "api_request_by_quarter"


# Kind -> the rows it counts into, and the length of their buckets in seconds. Heartbeats and evidence are instants: no rows.
_BUCKETS: dict[Kind, tuple[tuple[Kind, int], ...]] = {
    Kind.TOOL_USE: ((Kind.TOOL_USE, 1),),
    Kind.TOOL_FAILURE: ((Kind.TOOL_FAILURE, 1),),
    Kind.API_REQUEST: (
        (Kind.API_REQUEST, 1),
        (Kind.API_REQUEST_BY_MINUTE, 60),
        (Kind.API_REQUEST_BY_QUARTER, 900),
    ),
    Kind.API_REFUSAL: ((Kind.API_REFUSAL, 60),),
    Kind.HOOK_FAILURE: ((Kind.HOOK_FAILURE, 1),),
    Kind.SESSION_EVENT: ((Kind.SESSION_EVENT, 1),),
    Kind.OWN_WAKE: ((Kind.OWN_WAKE, 60),),
    Kind.EMPTY_CYCLE: ((Kind.EMPTY_CYCLE, 1),),
}
_LONG_LIVED = (Kind.API_REQUEST_BY_MINUTE, Kind.API_REQUEST_BY_QUARTER, Kind.API_REFUSAL, Kind.OWN_WAKE)
_COUNT_ON = "(nova_id, kind, at, detail) DO UPDATE SET count = safety_observation.count + excluded.count"
_LONGEST_WINDOW = timedelta(hours=24)
_MARGIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing a Nova was seen doing, `count` times."""

    nova_id: str
    kind: Kind
    count: int = 1
    detail: str = ""


def observe(nova_id: str, kind: Kind, *, now: datetime, count: int = 1, detail: str = "") -> None:
    """Note one thing."""
    observe_many([Seen(nova_id, kind, count, detail)], now=now)


def observe_many(seen: Iterable[Seen], *, now: datetime) -> None:
    """Note many things in two statements at most: one for what is counted, one for heartbeats and evidence."""
    counted: Counter[tuple[str, Kind, datetime, str]] = Counter()
    heard: set[str] = set()
    worked: set[str] = set()
    for one in seen:
        if one.kind is Kind.HOOK_HEARTBEAT:
            heard.add(one.nova_id)
        elif one.kind is Kind.WORK_EVIDENCE:
            worked.add(one.nova_id)
        else:
            for kind, length in _BUCKETS[one.kind]:
                counted[one.nova_id, kind, _bucket(now, length), one.detail[:64] if kind is one.kind else ""] += one.count
    bulk.insert(
        Observation,
        ("nova_id", "kind", "at", "detail", "count"),
        [(nova_id, kind.value, at, detail, count) for (nova_id, kind, at, detail), count in sorted(counted.items())],
        on_conflict=_COUNT_ON,
    )
    _note_instants(heard, worked, now)


def count_up(nova_id: str, kind: Kind, *, now: datetime, detail: str = "") -> int:
    """Note one thing and give how often it has been seen in its bucket: 1 is news. Of kinds that have one bucket."""
    ((_, length),) = _BUCKETS[kind]
    (row,) = bulk.insert(
        Observation,
        ("nova_id", "kind", "at", "detail", "count"),
        [(nova_id, kind.value, _bucket(now, length), detail[:64], 1)],
        on_conflict=_COUNT_ON,
        returning="count",
    )
    return int(row[0])


def _bucket(now: datetime, length: int) -> datetime:
    return datetime.fromtimestamp(int(now.timestamp()) // length * length, UTC)


def _note_instants(heard: set[str], worked: set[str], now: datetime) -> None:
    bulk.insert(
        SafetyState,
        (*STATE_DEFAULTS, "nova_id", "hooks_expected", "last_hook_heartbeat", "last_work_evidence"),
        [
            (
                *STATE_DEFAULTS.values(),
                nova_id,
                nova_id in heard,
                now if nova_id in heard else None,
                now if nova_id in worked else None,
            )
            for nova_id in sorted(heard | worked)
        ],
        on_conflict=(
            "(nova_id) DO UPDATE SET hooks_expected = (safety_safetystate.hooks_expected OR excluded.hooks_expected), "
            "last_hook_heartbeat = COALESCE(excluded.last_hook_heartbeat, safety_safetystate.last_hook_heartbeat), "
            "last_work_evidence = COALESCE(excluded.last_work_evidence, safety_safetystate.last_work_evidence)"
        ),
    )


# What a SafetyState row must hold from its beginning, whoever begins it.
STATE_DEFAULTS = {
    "is_safe": True,
    "safety_level": "normal",
    "mechanism": "",
    "reason": "",
    "cooldown_reason": "",
    "cooldowns_in_a_row": 0,
    "quarantine_reason": "",
}


def hooks_ended(nova_id: str) -> None:
    """The agent's session ended as it should: the silence of its hooks means nothing until they are heard again."""
    SafetyState.objects.filter(nova_id=nova_id).update(hooks_expected=False)


def forget_before(instant: datetime) -> int:
    """Delete every observation older than `instant`; give how many rows went."""
    return Observation.objects.filter(at__lt=instant).delete()[0]


def forget_old(*, now: datetime) -> int:
    """Delete what no window reaches any more: rows of a second after the longest failure window, the rest after a day."""
    longest = max(SafetyPolicy.objects.values_list("failure_window", flat=True), default=0.0)
    fine = Observation.objects.filter(~Q(kind__in=_LONG_LIVED), at__lt=now - timedelta(seconds=longest) - _MARGIN)
    return fine.delete()[0] + forget_before(now - _LONGEST_WINDOW - _MARGIN)
