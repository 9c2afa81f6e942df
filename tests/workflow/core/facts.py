"""Facts for the core's tests, by plain keyword functions. Pure: everything happens at NOW unless told so."""

from datetime import UTC, datetime, timedelta
from typing import Any

from safety.core.status import SafetyLevel, SafetyStatus
from workflow.core.cycle import CycleInputs, NovaConfig
from workflow.core.effects import Effect
from workflow.core.machine import Step
from workflow.core.state import WorkflowState, WorkflowStateData, new_state
from workflow.core.work import (
    ExecutionFacts,
    ObjectiveFacts,
    Priority,
    Signal,
    TaskFacts,
    TaskStatus,
    WorkType,
    order_at,
)

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
SAFE = SafetyStatus(is_safe=True, reason="No mechanism objects.")
UNSAFE = SafetyStatus(
    is_safe=False,
    reason="61 tool uses in a minute; 60 are allowed.",
    safety_level=SafetyLevel.COOLDOWN,
    mechanism="frosty",
    measured=61,
    limit=60,
)


def make_config(**fields: Any) -> NovaConfig:
    """Give a Nova's configuration: torch's, unless told otherwise."""
    values: dict[str, Any] = {
        "nova_id": "torch",
        "team": "",
        "base_cycle_time": timedelta(seconds=25),
        "reflection_frequency": 0.0,
        "celebration_style": "sustained_energy",
        "work_style": "builder_focused",
        "communication_pattern": "direct_collaborative",
        "default_executor": "builtin",
        "allowed_executors": frozenset(("builtin", "agent")),
    }
    return NovaConfig(**(values | fields))


def make_state(current_state: WorkflowState = WorkflowState.STREAM_CHECK, **fields: Any) -> WorkflowStateData:
    """Give the state of a Nova that has been running for a while."""
    state = new_state(fields.pop("nova_id", "torch"), NOW - HOUR)
    state.current_state = current_state
    state.cycle_started_at = state.last_stream_check = state.state_entered_at = NOW - 10 * SECOND
    for name, value in fields.items():
        setattr(state, name, value)
    return state


def make_inputs(config: NovaConfig | None = None, **fields: Any) -> CycleInputs:
    """Give what the shell gathered; there is enough work about, so no momentum work is wanted."""
    return CycleInputs(config or make_config(), **({"safety": SAFE, "available": 3} | fields))


_numbers = iter(range(1, 1_000_000_000))


def make_task(title: str = "Write the report", *, priority: Priority = Priority.MEDIUM, **fields: Any) -> TaskFacts:
    """Give a pending task, a minute old."""
    created_at = fields.setdefault("created_at", NOW - MINUTE)
    fields.setdefault("id", f"FLEET-{int(created_at.timestamp())}-{next(_numbers):06x}")
    fields.setdefault("description", "")
    fields.setdefault("work_type", WorkType.REQUESTED)
    fields.setdefault("order_at", order_at(priority, created_at))
    return TaskFacts(title=title, priority=priority, **fields)


def make_execution(status: str = "succeeded", **fields: Any) -> ExecutionFacts:
    """Give an execution that began thirty seconds ago and, if its status says so, has just ended."""
    running = status in ("dispatched", "running")
    values: dict[str, Any] = {
        "id": next(_numbers),
        "attempt": 1,
        "status": status,
        "results": "" if running else "the results",
        "metrics": {},
        "error": "" if running or status == "succeeded" else "it broke",
        "retryable": True,
        "started_at": None if status == "dispatched" else NOW - 30 * SECOND,
        "finished_at": None if running else NOW,
    }
    return ExecutionFacts(**(values | fields))


def make_held(title: str = "Write the report", status: str = "running", **fields: Any) -> TaskFacts:
    """Give a task in progress with torch, whose execution has this status."""
    execution = fields.pop("execution", None) or make_execution(status, **fields.pop("execution_fields", {}))
    held: dict[str, Any] = {
        "status": TaskStatus.IN_PROGRESS,
        "assignee": "torch",
        "started_at": NOW - 30 * SECOND,
        "attempts": execution.attempt,
        "execution": execution,
    }
    return make_task(title, **(held | fields))


def make_signal(kind: str = "signal", *, stream: str = "nova.coordination.torch", **fields: Any) -> Signal:
    """Give an inbox row that waits for torch; keywords are the message's fields."""
    number = next(_numbers)
    received_at = fields.pop("received_at", NOW)
    return Signal(number, kind, stream, fields, received_at, f"1763640000000-{number}")


def make_objective(title: str = "Keep the docs true", **fields: Any) -> ObjectiveFacts:
    """Give an objective that has been due for a minute."""
    values: dict[str, Any] = {
        "id": next(_numbers),
        "description": "",
        "priority": Priority.MEDIUM,
        "cadence": timedelta(days=1),
        "due_at": NOW - MINUTE,
    }
    return ObjectiveFacts(title=title, **(values | fields))


def of_kind(step: Step, *kinds: type[Effect]) -> list[Any]:
    """Give the effects of these kinds, in order."""
    return [effect for effect in step.effects if isinstance(effect, kinds)]


def only(step: Step, kind: type[Effect]) -> Any:
    """Give the one effect of this kind."""
    (effect,) = of_kind(step, kind)
    return effect
