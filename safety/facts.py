"""Fetches the facts that the judges judge: of a batch of Novas, and of the machine and the stream server they share.

A batch costs the same few queries however large it is. What only upper floors know of a Nova's work is passed in. This room
decides nothing: what could not be read goes on as None.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psutil
from django.db import connection, transaction

from safety import audit, bulk, incidents
from safety.audit import Entry
from safety.core.mechanisms import STREAM_MONITOR
from safety.core.status import FleetFacts, SafetyFacts, SafetyLevel, SafetyRules
from safety.models import FleetFact
from safety.stream_client import StreamClient, StreamRefused, StreamUnavailable
from safety.windows import load_counts

STREAM_LOST = "safety.stream.lost"
STREAM_RETURNED = "safety.stream.returned"
STREAM_GAP_FOUND = "safety.stream.gap_found"

# Names of FleetFact rows; the others are called as the readings are.
STREAM_REACHABLE = "stream_reachable"
STREAM_GAP = "stream_gap"
_PROCESS = "process:"  # and the slot that the process drives

_FRESH = timedelta(seconds=10)  # an older reading of the fleet counts as none
_OBSERVE_EVERY = timedelta(seconds=1)
_ASK_MEMORY_EVERY = timedelta(seconds=30)  # the answer is long
_MEMORY_FRESH = timedelta(seconds=60)
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
    api_breaker_open_until: datetime | None = None  # of the Nova's provider account
    configuration_problem: str = ""  # why its limits are not known, if they are not


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
    "api_cooldown_until",
    "api_cooldown_reason",
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
                configuration_problem=work.configuration_problem,
                has_claimable_work=work.has_claimable_work,
                last_task_change=work.last_task_change,
                active_since=work.active_since,
                celebrating_since=work.celebrating_since,
                last_work_evidence=work.last_work_evidence,
                api_breaker_open_until=work.api_breaker_open_until,
                error_ratio=work.error_ratio,
                queue_lag=work.queue_lag,
            )
        else:
            facts[nova_id] = _remembered(nova_id, row, fleet, work)
        if observed:
            seen[nova_id] = facts[nova_id].cooldown_since
    if seen:
        for nova_id, counts in load_counts(seen, rules_by_nova, now).items():
            facts[nova_id] = replace(facts[nova_id], **counts)  # type: ignore[arg-type]
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


def _remembered(nova_id: str, row: Sequence[Any], fleet: FleetFacts, work: WorkflowSideFacts) -> SafetyFacts:
    worked = [instant for instant in (bulk.instant(row[16]), work.last_work_evidence) if instant is not None]
    return SafetyFacts(
        nova_id=nova_id,
        fleet=fleet,
        configuration_problem=work.configuration_problem,
        verdict_is_safe=bool(row[0]),
        verdict_level=_LEVELS.get(row[1], SafetyLevel.QUARANTINE),
        verdict_mechanism=row[2],
        verdict_since=bulk.instant(row[3]),
        verdict_until=bulk.instant(row[4]),
        cooldown_since=bulk.instant(row[5]),
        cooldown_until=bulk.instant(row[6]),
        cooldown_reason=row[7],
        cooldowns_in_a_row=row[8],
        last_cooldown_end=bulk.instant(row[9]),
        meditation_until=bulk.instant(row[10]),
        quarantine_until=bulk.instant(row[11]),
        quarantine_reason=row[12],
        stressed_since=bulk.instant(row[13]),
        hooks_expected=bool(row[14]),
        last_hook_heartbeat=bulk.instant(row[15]),
        last_work_evidence=max(worked, default=None),
        api_breaker_open_until=work.api_breaker_open_until,
        api_cooldown_until=bulk.instant(row[17]),
        api_cooldown_reason=row[18],
        has_claimable_work=work.has_claimable_work,
        last_task_change=work.last_task_change,
        active_since=work.active_since,
        celebrating_since=work.celebrating_since,
        error_ratio=work.error_ratio,
        queue_lag=work.queue_lag,
    )


def load_fleet(now: datetime) -> FleetFacts:
    """Give what was last observed of machine and stream server; a reading older than ten seconds counts as none. One query."""
    return _fleet_facts({fact.name: fact for fact in FleetFact.objects.all()}, now)


def _fleet_facts(rows: Mapping[str, FleetFact], now: datetime) -> FleetFacts:
    def fresh(name: str, within: timedelta = _FRESH) -> Any:
        row = rows.get(name)
        return None if row is None or now - row.observed_at > within else row.value

    def duration(name: str) -> timedelta | None:
        seconds = fresh(name)
        return None if seconds is None else timedelta(seconds=seconds)

    reachable, gap = fresh(STREAM_REACHABLE), rows.get(STREAM_GAP)
    processes = [value for name in rows if name.startswith(_PROCESS) and (value := fresh(name))]
    return FleetFacts(
        stream_reachable=reachable,
        stream_unreachable_since=rows[STREAM_REACHABLE].since if reachable is False else None,
        round_trip=duration("round_trip"),
        intake_lag=duration("intake_lag"),
        outbox_age=duration("outbox_age"),
        stream_memory_ratio=fresh("stream_memory_ratio", _MEMORY_FRESH),
        stream_gap=str(gap.value) if gap is not None and now - gap.observed_at < _SHOW_GAP else "",
        cpu_load=fresh("cpu_load"),
        memory_ratio=fresh("memory_ratio"),
        process_memory=max((process["memory"] for process in processes), default=None),
        process_cpu=max(_by_host(processes).values(), default=None),
    )


def observe_fleet(now: datetime, client: StreamClient) -> FleetFacts:
    """Measure machine and stream server, unless somebody did within the last second, and give what is known now.

    `client` needs a short timeout: a server that hangs must not hang whoever asks.
    """
    rows = {fact.name: fact for fact in FleetFact.objects.all()}
    last = rows.get("cpu_load")
    if last is not None and timedelta(0) <= now - last.observed_at < _OBSERVE_EVERY:
        return _fleet_facts(rows, now)
    readings: dict[str, float | None] = {
        "cpu_load": psutil.getloadavg()[0] / (psutil.cpu_count() or 1),
        "memory_ratio": psutil.virtual_memory().percent / 100,
        "round_trip": None,
    }
    memory = rows.get("stream_memory_ratio")
    ask_memory = memory is None or memory.value is None or now - memory.observed_at >= _ASK_MEMORY_EVERY
    if ask_memory:
        readings["stream_memory_ratio"] = None
    try:
        began = time.perf_counter()
        client.call("PING")
        readings["round_trip"] = time.perf_counter() - began
        if ask_memory:
            readings["stream_memory_ratio"] = _memory_ratio(client.call("INFO", "memory"))
    except StreamUnavailable:
        note_stream_lost(now)
    except StreamRefused:  # it answers, so it is there; what it refuses to tell stays unread
        note_stream_back(now)
    else:
        note_stream_back(now)
    _note(list(readings.items()), now)
    return load_fleet(now)


def _memory_ratio(info: Any) -> float | None:
    """Read used / maximum from INFO's answer, as redis-py parsed it or raw; None where it says neither."""
    if isinstance(info, bytes):
        info = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    limit = float(info.get("maxmemory") or 0) or float(info.get("total_system_memory") or 0)
    return float(info["used_memory"]) / limit if limit and "used_memory" in info else None


def note_fleet(name: str, seconds: float, now: datetime) -> None:
    """Note a duration that only its observer knows: `intake_lag` or `outbox_age`, at least every five seconds."""
    _note([(name, seconds)], now)


def note_process(slot: str, host: str, *, memory: float, cpu: float, now: datetime) -> None:
    """Note what the process that drives a slot uses: memory in MB, and its share of its host's processors, every 5 s."""
    _note([(_PROCESS + slot, {"host": host, "memory": round(memory, 1), "cpu": round(cpu, 4)})], now)


def _by_host(processes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Add up the processors that each host's processes use."""
    used: dict[str, float] = {}
    for process in processes:
        used[process["host"]] = used.get(process["host"], 0.0) + process["cpu"]
    return used


def _note(readings: Sequence[tuple[str, float | dict[str, Any] | None]], now: datetime) -> None:
    bulk.insert(
        FleetFact,
        ("name", "value", "observed_at"),
        [(name, bulk.json_text(value), now) for name, value in sorted(readings)],
        on_conflict=(
            "(name) DO UPDATE SET value = excluded.value, observed_at = excluded.observed_at "
            "WHERE safety_fleetfact.observed_at <= excluded.observed_at"
        ),
    )


def note_stream_lost(now: datetime) -> bool:
    """Note that the stream server can't be reached; journalled once, by whoever notes it first. True if that was this call."""
    with transaction.atomic():
        if not _note_reachable(False, now):
            return False
        reason = "The stream server can't be reached; every Nova waits for it, and nothing accepted is lost."
        lost = Entry(STREAM_LOST, object_type="fleet", after={STREAM_REACHABLE: False}, reason=reason)
        told = incidents.open_fleet_incident(incidents.Violation("", STREAM_MONITOR, reason), now=now)
        audit.record([lost, *([told] if told else [])], now=now)
    return True


def note_stream_back(now: datetime) -> bool:
    """Note that the stream server can be reached; its return is journalled once. True if this call noted a return."""
    with transaction.atomic():
        if not _note_reachable(True, now):
            return False
        reason = "The stream server can be reached again."
        back = Entry(STREAM_RETURNED, object_type="fleet", after={STREAM_REACHABLE: True}, reason=reason)
        audit.record([back, *incidents.end_incidents([("", STREAM_MONITOR)], now=now).values()], now=now)
    return True


def _note_reachable(reachable: bool, now: datetime) -> bool:
    """Write what is true now; say whether something else was known before (that it is reachable is no news at first)."""
    row = FleetFact.objects.select_for_update().filter(name=STREAM_REACHABLE).first()
    if row is None:
        FleetFact.objects.get_or_create(name=STREAM_REACHABLE, defaults={"value": reachable, "since": now, "observed_at": now})
        return not reachable
    changed: bool = row.value != reachable
    if changed or now > row.observed_at:
        row.value, row.observed_at = reachable, now
        row.since = now if changed else row.since
        row.save(update_fields=["value", "observed_at", "since"])
    return changed


def note_stream_gap(stream: str, reason: str, now: datetime) -> None:
    """Note that entries of a stream vanished before they were read: journalled each time, one incident of the fleet."""
    with transaction.atomic():
        FleetFact.objects.update_or_create(name=STREAM_GAP, defaults={"value": stream, "since": now, "observed_at": now})
        violation = incidents.Violation("", STREAM_GAP, f"{stream}: {reason}", {"stream": stream})
        entry = Entry(STREAM_GAP_FOUND, object_type="stream", object_id=stream, reason=reason)
        audit.record([entry, *incidents.open_incidents([violation], now=now)], now=now)
