"""The law of a Nova's cycle: its states, its phases and the table of moves between them (spec section 1).

Rule 1: everything that decides which move is legal stands in this file. Rule 2: this file knows no database, stream or clock.
Rule 3: unsafe means SAFETY_PAUSE, from every state, before any handler runs; it leads back to the state it interrupted.
Rule 4: an error means ERROR_RECOVERY, from every state; it leads to STREAM_CHECK, never back into what failed.
Rule 5: only TASK_EXECUTION starts work, and only WORK_DISCOVERY leads to it with something to start.
The README's diagram is generated from TRANSITIONS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from operator import attrgetter

from safety.core.status import SafetyStatus


class WorkflowState(StrEnum):
    """Where a Nova stands in its cycle (spec "State Model")."""

    INITIALIZING = "initializing"
    STREAM_CHECK = "stream_check"
    WORK_DISCOVERY = "work_discovery"
    TASK_EXECUTION = "task_execution"
    PROGRESS_UPDATE = "progress_update"
    COMPLETION_ROUTINE = "completion_routine"
    PHASE_TRANSITION = "phase_transition"
    ERROR_RECOVERY = "error_recovery"
    SAFETY_PAUSE = "safety_pause"


class WorkflowPhase(StrEnum):
    """What a Nova's time is for: the two work phases alternate, the personal one is optional."""

    WORK_PHASE_1 = "work_phase_1"
    WORK_PHASE_2 = "work_phase_2"
    PERSONAL_PHASE = "personal_phase"


class CompletionStage(StrEnum):
    """The four steps of the completion routine (spec section 6)."""

    NONE = ""
    CELEBRATION = "celebration"
    REFLECTION = "reflection"
    TRANSITION_PLANNING = "transition_planning"
    BRIDGE = "bridge"


@dataclass(slots=True)
class WorkflowStateData:
    """Everything a Nova remembers between two cycles (spec "State Persistence", plus what resuming needs).

    All instants are aware UTC datetimes. `due_at` is not here: it is the wish that a Step returns.
    """

    nova_id: str
    current_state: WorkflowState
    current_phase: WorkflowPhase
    tasks_completed_in_phase: int
    tool_use_count: int
    last_stream_check: datetime | None
    last_completion_celebration: datetime | None
    session_start_time: datetime
    total_cycles_completed: int
    safety_status: SafetyStatus
    state_entered_at: datetime
    cycle_started_at: datetime
    phase_started_at: datetime
    resume_state: WorkflowState | None = None  # where SAFETY_PAUSE or ERROR_RECOVERY returns to
    work_phases_completed: int = 0
    completion_stage: CompletionStage = CompletionStage.NONE
    completion_stage_until: datetime | None = None  # when the present stage of the completion routine ends
    completion_until: datetime | None = None  # when the whole routine must be over: three minutes at most
    consecutive_errors: int = 0
    last_error: str = ""
    tasks_in_flight: int = 0  # tasks in progress with this Nova
    protocol_checks: int = 0  # compliance figure = protocol_passes / protocol_checks
    protocol_passes: int = 0
    personal_reflections: int = 0
    error_ratio: float = 0.0  # share of its recent executions that failed, 0 to 1; the newest weighs a fifth
    context: dict[str, str] = field(default_factory=dict)

    def __copy__(self) -> "WorkflowStateData":
        """Copy all fields; a step copies once and changes only the copy. `context` is shared: replace it, never change it."""
        return WorkflowStateData(*_ALL_FIELDS(self))


RESUMED_AT = "resumed_at"  # key in the context: when its newest safety pause ended


def working_since(mode_since: datetime | None, session_start: datetime, context: Mapping[str, str]) -> datetime:
    """Say since when a Nova could work: after its newest pause, whether people or safety mechanisms imposed it."""
    begun, resumed = mode_since or session_start, context.get(RESUMED_AT)
    return max(begun, datetime.fromisoformat(resumed)) if resumed else begun


_ALL_FIELDS = attrgetter(*(entry.name for entry in fields(WorkflowStateData)))


def new_state(nova_id: str, now: datetime) -> WorkflowStateData:
    """Give the state of a Nova that has not begun yet."""
    return WorkflowStateData(
        nova_id=nova_id,
        current_state=WorkflowState.INITIALIZING,
        current_phase=WorkflowPhase.WORK_PHASE_1,
        tasks_completed_in_phase=0,
        tool_use_count=0,
        last_stream_check=None,
        last_completion_celebration=None,
        session_start_time=now,
        total_cycles_completed=0,
        safety_status=SafetyStatus(is_safe=True, reason="Not judged yet."),
        state_entered_at=now,
        cycle_started_at=now,
        phase_started_at=now,
    )


class IllegalTransition(Exception):
    """A move that the table does not know: a mistake of ours. The state is unchanged."""


def _moves(*targets: WorkflowState) -> frozenset[WorkflowState]:
    return frozenset((*targets, WorkflowState.ERROR_RECOVERY, WorkflowState.SAFETY_PAUSE))


_S = WorkflowState

# State -> the states it may be left for. ERROR_RECOVERY and SAFETY_PAUSE can be reached from everywhere (rules 3 and 4).
TRANSITIONS: Mapping[WorkflowState, frozenset[WorkflowState]] = {
    _S.INITIALIZING: _moves(_S.STREAM_CHECK),
    _S.STREAM_CHECK: _moves(_S.WORK_DISCOVERY),
    _S.WORK_DISCOVERY: _moves(_S.STREAM_CHECK, _S.TASK_EXECUTION, _S.COMPLETION_ROUTINE, _S.PHASE_TRANSITION),
    _S.TASK_EXECUTION: _moves(_S.PROGRESS_UPDATE, _S.STREAM_CHECK, _S.WORK_DISCOVERY),
    _S.PROGRESS_UPDATE: _moves(_S.TASK_EXECUTION, _S.COMPLETION_ROUTINE, _S.STREAM_CHECK, _S.WORK_DISCOVERY),
    _S.COMPLETION_ROUTINE: _moves(_S.STREAM_CHECK, _S.WORK_DISCOVERY, _S.PHASE_TRANSITION),
    _S.PHASE_TRANSITION: _moves(_S.STREAM_CHECK, _S.WORK_DISCOVERY),
    _S.ERROR_RECOVERY: _moves(_S.STREAM_CHECK) - {_S.ERROR_RECOVERY},
    _S.SAFETY_PAUSE: frozenset(_S) - {_S.SAFETY_PAUSE},
}

Table = Mapping[WorkflowState, frozenset[WorkflowState]]


def transition(state: WorkflowStateData, target: WorkflowState, now: datetime, table: Table = TRANSITIONS) -> None:
    """Move `state` to `target`, if the table knows that move.

    :raises IllegalTransition: it does not; the state is unchanged.
    """
    if target not in table.get(state.current_state, ()):
        raise IllegalTransition(f"{state.nova_id} can't go from {state.current_state} to {target}.")
    state.current_state = target
    state.state_entered_at = now


def state_diagram(table: Table = TRANSITIONS) -> str:
    """Draw the table as a mermaid stateDiagram-v2; the moves of rules 3 and 4 are notes, so that the rest can be read."""
    everywhere = (WorkflowState.ERROR_RECOVERY, WorkflowState.SAFETY_PAUSE)
    lines = ["stateDiagram-v2", f"    [*] --> {WorkflowState.INITIALIZING}"]
    for source in WorkflowState:
        if source is WorkflowState.SAFETY_PAUSE:
            continue
        targets = table.get(source, frozenset())
        lines += [f"    {source} --> {target}" for target in WorkflowState if target in targets and target not in everywhere]
    errors, pauses = ([source for source in WorkflowState if target in table.get(source, ())] for target in everywhere)
    lines += [
        f"    {everywhere[1]}",
        f"    note right of {everywhere[0]}",
        f"        An error leads here from {_all_or_named(errors, everywhere[0])}.",
        "    end note",
        f"    note right of {everywhere[1]}",
        f"        Unsafe leads here from {_all_or_named(pauses, everywhere[1])};",
        "        safe again leads back to the state it interrupted.",
        "    end note",
    ]
    return "\n".join(lines) + "\n"


def _all_or_named(sources: list[WorkflowState], target: WorkflowState) -> str:
    if set(sources) == set(WorkflowState) - {target}:
        return "every other state"
    return ", ".join(sources) or "nowhere"
