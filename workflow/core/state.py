"""The law of a Nova's cycle: its states, its phases and the table of moves between them.

Rule 1: everything that decides which move is legal stands in this file. Rule 2: this file knows no database, stream or clock.
`docs/state-machine` in the README is generated from TRANSITIONS. Source: spec section 1.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

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
    context: dict[str, str] = field(default_factory=dict)
