"""Rows for tests, by plain keyword functions: each fills in what the test does not care about.

Policies and personalities are made when first named, so a test needs no seeding. Everything happens at NOW unless told so.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from safety.models import (
    FleetFact,
    Installation,
    Observation,
    ProviderAccount,
    SafetyIncident,
    SafetyPolicy,
    SafetyState,
)
from workflow.core.work import Outcome, Priority, TaskStatus, WorkType, order_at
from workflow.models import Execution, InboxMessage, Nova, NovaState, NovaUsage, Objective, Personality, Task

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

# spec section 8
PERSONALITIES: dict[str, dict[str, Any]] = {
    "torch": {
        "base_cycle_time": 25.0,
        "reflection_frequency": 0.3,
        "celebration_style": "sustained_energy",
        "work_style": "builder_focused",
        "communication_pattern": "direct_collaborative",
    },
    "echo": {
        "base_cycle_time": 15.0,
        "reflection_frequency": 0.5,
        "celebration_style": "burst_energy",
        "work_style": "coordinator_focused",
        "communication_pattern": "collaborative_facilitating",
    },
    "helix": {
        "base_cycle_time": 45.0,
        "reflection_frequency": 0.7,
        "celebration_style": "measured_energy",
        "work_style": "strategist_focused",
        "communication_pattern": "analytical_thoughtful",
    },
    "vaeris": {
        "base_cycle_time": 60.0,
        "reflection_frequency": 0.4,
        "celebration_style": "constant_energy",
        "work_style": "guardian_focused",
        "communication_pattern": "protective_supportive",
    },
    "synergy": {
        "base_cycle_time": 20.0,
        "reflection_frequency": 0.6,
        "celebration_style": "adaptive_energy",
        "work_style": "harmonizer_focused",
        "communication_pattern": "empathetic_adaptive",
    },
}
# design section 5
POLICIES: dict[str, dict[str, Any]] = {
    "standard": {},
    "strict": {
        "requests_per_minute": 25,
        "requests_per_hour": 400,
        "requests_per_day": 8_000,
        "concurrent_requests": 3,
        "burst_requests": 10,
        "burst_window": 30.0,
    },
}


def make_personality(slug: str = "torch", **fields: Any) -> Personality:
    """Give the personality; an unknown slug is made like torch."""
    defaults = PERSONALITIES.get(slug, PERSONALITIES["torch"]) | fields
    return Personality.objects.get_or_create(slug=slug, defaults=defaults)[0]


def make_policy(slug: str = "standard", **fields: Any) -> SafetyPolicy:
    """Give the policy; an unknown slug is made like standard."""
    defaults = POLICIES.get(slug, {}) | fields
    return SafetyPolicy.objects.get_or_create(slug=slug, defaults=defaults)[0]


def make_nova(
    nova_id: str = "torch",
    *,
    personality: str = "torch",
    policy: str = "standard",
    now: datetime = NOW,
    state: dict[str, Any] | None = None,
    **fields: Any,
) -> Nova:
    """Make a Nova and its state row, due now. `state` holds fields of NovaState."""
    nova = Nova.objects.create(
        nova_id=nova_id,
        name=fields.pop("name", nova_id.title()),
        personality=make_personality(personality),
        policy=make_policy(policy),
        **fields,
    )
    row: dict[str, Any] = {
        "session_start_time": now,
        "state_entered_at": now,
        "cycle_started_at": now,
        "phase_started_at": now,
        "due_at": now,
    }
    NovaState.objects.create(nova=nova, **(row | (state or {})))
    return nova


def make_novas(count: int, *, now: datetime = NOW, prefix: str = "nova", **fields: Any) -> list[str]:
    """Make many Novas in two statements and give their nova_ids."""
    personality, policy = make_personality(), make_policy()
    nova_ids = [f"{prefix}-{number:05d}" for number in range(count)]
    Nova.objects.bulk_create(
        Nova(nova_id=nova_id, name=nova_id, personality=personality, policy=policy, **fields) for nova_id in nova_ids
    )
    NovaState.objects.bulk_create(
        NovaState(
            nova_id=nova_id,
            session_start_time=now,
            state_entered_at=now,
            cycle_started_at=now,
            phase_started_at=now,
            due_at=now,
        )
        for nova_id in nova_ids
    )
    return nova_ids


_numbers = iter(range(1, 1_000_000_000))


def make_task(
    title: str = "Write the report",
    *,
    assignee: str = "",
    priority: Priority | str = Priority.MEDIUM,
    status: TaskStatus | str = TaskStatus.PENDING,
    now: datetime = NOW,
    **fields: Any,
) -> Task:
    """Make a task row as it stands, past the TaskTracker; open to all without `assignee`."""
    created_at = fields.setdefault("created_at", now)
    fields.setdefault("id", f"{(assignee or 'fleet').upper()}-{int(created_at.timestamp())}-{next(_numbers):06x}")
    fields.setdefault("updated_at", now)
    fields.setdefault("order_at", order_at(Priority(priority), created_at))
    fields.setdefault("work_type", WorkType.REQUESTED)
    if status in (TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED):
        fields.setdefault("started_at", now)
        fields.setdefault("attempts", 1)
    if status == TaskStatus.COMPLETED:
        fields.setdefault("completed_at", now)
        fields.setdefault("outcome", Outcome.SUCCEEDED)
        fields.setdefault("progress", 100)
    if status == TaskStatus.BLOCKED:
        fields.setdefault("blocked_at", now)
        fields.setdefault("block_owner", "operator")
        fields.setdefault("block_action", "look at it")
    return Task.objects.create(title=title, assignee_id=assignee or None, priority=priority, status=status, **fields)


def make_execution(task: Task, *, now: datetime = NOW, **fields: Any) -> Execution:
    """Make an execution of a task that has an assignee."""
    fields.setdefault("nova_id", task.assignee_id)
    fields.setdefault("executor", task.executor or "builtin")
    fields.setdefault("action", task.action)
    fields.setdefault("attempt", max(1, task.attempts))
    fields.setdefault("created_at", now)
    fields.setdefault("timeout", 300.0)
    if fields.get("status", "dispatched") not in ("dispatched", "running"):
        fields.setdefault("finished_at", now)
    return Execution.objects.create(task=task, **fields)


def make_inbox_message(
    *, nova_id: str = "", kind: str = "signal", stream: str = "", now: datetime = NOW, **fields: Any
) -> InboxMessage:
    """Make an inbox row that waits for a Nova."""
    fields.setdefault("entry_id", f"{int(now.timestamp() * 1000)}-{next(_numbers)}")
    fields.setdefault("status", InboxMessage.Status.WAITING)
    fields.setdefault("received_at", now)
    return InboxMessage.objects.create(nova_id=nova_id, kind=kind, stream=stream or f"nova.coordination.{nova_id}", **fields)


def make_objective(title: str = "Keep the docs true", *, nova: str = "", now: datetime = NOW, **fields: Any) -> Objective:
    """Make an objective that is due now."""
    fields.setdefault("due_at", now)
    return Objective.objects.create(title=title, nova_id=nova or None, **fields)


def make_safety_state(nova_id: str = "torch", **fields: Any) -> SafetyState:
    """Make the row with the verdict in force and the judges' memory."""
    return SafetyState.objects.create(nova_id=nova_id, **fields)


def make_observation(
    nova_id: str = "torch", kind: str = "tool_use", *, at: datetime = NOW, ago: float = 0.0, **fields: Any
) -> Observation:
    """Make one observation, `ago` seconds before `at`."""
    return Observation.objects.create(nova_id=nova_id, kind=kind, at=at - timedelta(seconds=ago), **fields)


def make_installation(name: str = "testhouse") -> Installation:
    """Make the row that names this installation to the stream server."""
    return Installation.objects.get_or_create(id=1, defaults={"name": name, "epoch": "test-epoch"})[0]


def make_healthy_fleet(*, now: datetime = NOW, **readings: Any) -> None:
    """Make fresh readings of machine and stream server, all well but for those given (None: could not be read)."""
    values: dict[str, Any] = {
        "stream_reachable": True,
        "round_trip": 0.001,
        "stream_memory_ratio": 0.1,
        "intake_lag": 0.0,
        "outbox_age": 0.0,
        "cpu_load": 0.5,
        "memory_ratio": 0.5,
        "process:slot:loops:test:0": {"host": "test", "memory": 120.0, "cpu": 0.1},
    }
    FleetFact.objects.bulk_create(
        [FleetFact(name=name, value=value, since=now, observed_at=now) for name, value in (values | readings).items()],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["value", "since", "observed_at"],
    )


def make_incident(nova_id: str = "torch", *, now: datetime = NOW, **fields: Any) -> SafetyIncident:
    """Make an incident that lasts."""
    fields = {"mechanism": "frosty_cooldown", "reason": "x"} | fields
    return SafetyIncident.objects.create(nova_id=nova_id, opened_at=now, last_seen_at=now, **fields)


def make_provider(slug: str = "main", **fields: Any) -> ProviderAccount:
    """Make a provider account whose agents have their own key."""
    return ProviderAccount.objects.create(slug=slug, **fields)


def make_usage(nova_id: str = "torch", *, now: datetime = NOW, **fields: Any) -> NovaUsage:
    """Make what a Nova has used on the day of `now`."""
    return NovaUsage.objects.create(nova_id=nova_id, day=now.astimezone(UTC).date(), **fields)
