"""What the safety floor knows about a Nova, as plain data: facts in, a verdict out.

Nothing here does I/O or reads a clock (spec "Core Data Structures", design section 5).
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class SafetyLevel(StrEnum):
    """How bad it is, mildest first; the worst verdict wins by this order."""

    NORMAL = "normal"
    ELEVATED = "elevated"
    COOLDOWN = "cooldown"
    MEDITATION = "meditation"
    QUARANTINE = "quarantine"
    EMERGENCY_STOP = "emergency_stop"


@dataclass(frozen=True, slots=True)
class SafetyStatus:
    """The answer of one mechanism, or of the orchestrator for all of them (spec `SafetyStatus`).

    `measured` and `limit` are the numbers the reason speaks of, in the unit it names. `since` is when this verdict began,
    `expires_at` when it ends by itself (None: when the facts change).
    """

    is_safe: bool
    reason: str
    recommended_action: str | None = None
    safety_level: SafetyLevel = SafetyLevel.NORMAL
    expires_at: datetime | None = None
    mechanism: str = ""
    measured: float | None = None
    limit: float | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class SafetyRules:
    """One policy's limits, as values (design section 5). Defaults are the preset `standard`, the spec's numbers."""

    # API hammering: calls to model providers
    requests_per_minute: int = 30
    requests_per_hour: int = 500
    requests_per_day: int = 10_000
    concurrent_requests: int = 5
    burst_requests: int = 12
    burst_window: timedelta = timedelta(seconds=10)
    request_timeout: timedelta = timedelta(seconds=30)
    # Frosty: bursts of tool use, failures, completion drift
    tool_uses_per_minute: int = 60
    failures_in_window: int = 5
    failure_ratio: float = 0.5
    failure_window: timedelta = timedelta(minutes=5)
    cooldown: timedelta = timedelta(seconds=30)
    cooldown_limit: timedelta = timedelta(minutes=10)
    drift_without_task_change: timedelta = timedelta(minutes=30)
    own_wakes_per_hour: int = 10
    empty_cycles_per_minute: int = 1_200
    celebration_limit: timedelta = timedelta(minutes=3)
    # Really Chill Willy: stress of the machine and the fleet
    meditation_stress: float = 70.0
    emergency_stress: float = 90.0
    stress_sustained: timedelta = timedelta(seconds=60)
    meditation: timedelta = timedelta(minutes=30)
    process_memory_limit: int = 500  # MB that a worker process may use, with the programs it runs
    process_cpu_limit: float = 1.0  # share of the machine's processors that all worker processes may use
    # hooks
    hook_silence: timedelta = timedelta(minutes=5)
    hook_failures_in_window: int = 5
    session_events_per_minute: int = 10
    identical_calls_per_minute: int = 50
    quarantine: timedelta = timedelta(minutes=30)
    # streams
    stream_silence: timedelta = timedelta(seconds=2)
    round_trip_limit: timedelta = timedelta(seconds=1)
    intake_lag_limit: timedelta = timedelta(seconds=60)
    outbox_age_limit: timedelta = timedelta(seconds=60)
    stream_memory_ratio: float = 0.95


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What was observed of the machine and the stream server; the same for all Novas of a batch. None means: not readable."""

    stream_reachable: bool | None = True
    stream_unreachable_since: datetime | None = None
    round_trip: timedelta | None = timedelta(0)
    intake_lag: timedelta | None = timedelta(0)
    outbox_age: timedelta | None = timedelta(0)
    stream_memory_ratio: float | None = 0.0  # used / maximum, 0 to 1
    stream_gap: str = ""  # the stream in which entries vanished before they were read, if any
    cpu_load: float | None = 0.0  # load average of one minute / cores
    memory_ratio: float | None = 0.0  # used / total, 0 to 1
    process_memory: float | None = 0.0  # MB of the largest worker process and the programs it runs
    process_cpu: float | None = 0.0  # share of the machine's processors that the worker processes use, 0 to 1


@dataclass(frozen=True, slots=True)
class SafetyFacts:
    """What was observed of one Nova. None in a counter means it could not be read, which is unsafe."""

    nova_id: str
    fleet: FleetFacts = field(default_factory=FleetFacts)
    configuration_problem: str = ""  # why its limits are not known, if they are not: then nobody can call it safe
    # counts by window
    api_requests_minute: int | None = 0
    api_requests_hour: int | None = 0
    api_requests_day: int | None = 0
    api_requests_burst: int | None = 0
    api_breaker_open_until: datetime | None = None
    api_cooldown_until: datetime | None = None
    api_cooldown_reason: str = ""
    tool_uses_minute: int | None = 0
    calls_in_failure_window: int | None = 0
    failures_in_failure_window: int | None = 0
    identical_calls_minute: int | None = 0
    session_events_minute: int | None = 0
    own_wakes_hour: int | None = 0
    empty_cycles_minute: int | None = 0  # cycles that came before their time and found nothing to do
    hook_failures_in_window: int | None = 0
    # completion drift
    has_claimable_work: bool = False
    last_task_change: datetime | None = None
    active_since: datetime | None = None
    celebrating_since: datetime | None = None
    # hooks
    hooks_expected: bool = False
    last_hook_heartbeat: datetime | None = None
    last_work_evidence: datetime | None = None
    # memory of earlier verdicts (the SafetyState row)
    cooldown_since: datetime | None = None  # when the last cooldown began; what led to it is paid for with it
    cooldown_until: datetime | None = None
    cooldown_reason: str = ""
    cooldowns_in_a_row: int = 0
    last_cooldown_end: datetime | None = None
    meditation_until: datetime | None = None
    quarantine_until: datetime | None = None
    quarantine_reason: str = ""
    stressed_since: datetime | None = None
    error_ratio: float | None = 0.0
    queue_lag: timedelta | None = timedelta(0)
    # the verdict now in force
    verdict_is_safe: bool = True
    verdict_level: SafetyLevel = SafetyLevel.NORMAL
    verdict_mechanism: str = ""
    verdict_since: datetime | None = None
    verdict_until: datetime | None = None
