"""Between NovaState rows and WorkflowStateData: which columns carry what, fast in both directions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from safety.bulk import instant, json_text
from safety.core.status import SafetyLevel, SafetyStatus
from workflow.core.state import CompletionStage, WorkflowPhase, WorkflowState, WorkflowStateData

# What an idle cycle changes, and what the other cycles change besides.
IDLE_COLUMNS = (
    "last_stream_check",
    "total_cycles_completed",
    "cycle_started_at",
    "state_entered_at",
)
OTHER_COLUMNS = (
    "current_state",
    "current_phase",
    "tasks_completed_in_phase",
    "tool_use_count",
    "last_completion_celebration",
    "session_start_time",
    "safety_status",
    "phase_started_at",
    "resume_state",
    "work_phases_completed",
    "completion_stage",
    "completion_stage_until",
    "completion_until",
    "consecutive_errors",
    "last_error",
    "tasks_in_flight",
    "protocol_checks",
    "protocol_passes",
    "personal_reflections",
    "error_ratio",
    "context",
)
LOADED = (
    "nova_id",
    "fence",
    "crashes",
    "wakes",
    "mode",
    "due_at",
    "mode_since",
    "last_task_change",
    "agent_completed",
    "agent_level",
    *IDLE_COLUMNS,
    *OTHER_COLUMNS,
)

_SAFE = SafetyStatus(is_safe=True, reason="No mechanism objects.")
_SAFE_TEXTS = frozenset({"{}", json_text(_SAFE)})
_STATES = {state.value: state for state in WorkflowState}
_PHASES = {phase.value: phase for phase in WorkflowPhase}
_STAGES = {stage.value: stage for stage in CompletionStage}


def _safety(text: Any) -> SafetyStatus:
    if text in _SAFE_TEXTS:
        return _SAFE
    values = orjson.loads(text) if isinstance(text, str) else text
    if not values:
        return _SAFE
    for name in ("expires_at", "since"):
        if values.get(name):
            values[name] = datetime.fromisoformat(values[name])
    values["safety_level"] = SafetyLevel(values.get("safety_level", "normal"))
    return SafetyStatus(**values)


def state_data(row: Sequence[Any]) -> WorkflowStateData:
    """Make the core's state of a raw row in the order of LOADED."""
    (nova_id, _fence, _crashes, _wakes, _mode, _due_at, _mode_since, _last_task_change,
     _agent_completed, _agent_level,
     last_stream_check, total_cycles, cycle_started_at, state_entered_at,
     current_state, current_phase, tasks_completed, tool_uses, last_celebration, session_start, safety_status,
     phase_started_at, resume_state, work_phases, stage, stage_until, completion_until, errors, last_error, in_flight,
     checks, passes, reflections, error_ratio, context) = row  # fmt: skip
    return WorkflowStateData(
        nova_id=nova_id,
        current_state=_STATES[current_state],
        current_phase=_PHASES[current_phase],
        tasks_completed_in_phase=tasks_completed,
        tool_use_count=tool_uses,
        last_stream_check=instant(last_stream_check),
        last_completion_celebration=instant(last_celebration),
        session_start_time=instant(session_start),
        total_cycles_completed=total_cycles,
        safety_status=_safety(safety_status),
        state_entered_at=instant(state_entered_at),
        cycle_started_at=instant(cycle_started_at),
        phase_started_at=instant(phase_started_at),
        resume_state=_STATES[resume_state] if resume_state else None,
        work_phases_completed=work_phases,
        completion_stage=_STAGES[stage],
        completion_stage_until=instant(stage_until),
        completion_until=instant(completion_until),
        consecutive_errors=errors,
        last_error=last_error,
        tasks_in_flight=in_flight,
        protocol_checks=checks,
        protocol_passes=passes,
        personal_reflections=reflections,
        error_ratio=error_ratio,
        context=(orjson.loads(context) if isinstance(context, str) else context) if context != "{}" else {},
    )


def idle_values(state: WorkflowStateData) -> list[Any]:
    """Give the values of IDLE_COLUMNS."""
    return [state.last_stream_check, state.total_cycles_completed, state.cycle_started_at, state.state_entered_at]


def other_values(state: WorkflowStateData) -> list[Any]:
    """Give the values of OTHER_COLUMNS."""
    return [
        state.current_state.value,
        state.current_phase.value,
        state.tasks_completed_in_phase,
        state.tool_use_count,
        state.last_completion_celebration,
        state.session_start_time,
        state.safety_status,
        state.phase_started_at,
        state.resume_state.value if state.resume_state else "",
        state.work_phases_completed,
        state.completion_stage.value,
        state.completion_stage_until,
        state.completion_until,
        state.consecutive_errors,
        state.last_error,
        state.tasks_in_flight,
        state.protocol_checks,
        state.protocol_passes,
        state.personal_reflections,
        state.error_ratio,
        state.context,
    ]


def stored(values: list[Any]) -> list[Any]:
    """Turn the values of OTHER_COLUMNS into what the columns hold: verdict and context as JSON text."""
    return [json_text(value) if isinstance(value, SafetyStatus | dict) else value for value in values]
