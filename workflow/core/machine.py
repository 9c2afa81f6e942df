"""One cycle of a Nova, decided purely: `execute_cycle(state, inputs, now)` (spec section 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from safety.core.status import SafetyStatus
from workflow.core.effects import Effect
from workflow.core.state import WorkflowStateData
from workflow.core.work import MomentumBudget, ObjectiveFacts, Signal, SimilarTasks, TaskFacts


@dataclass(frozen=True, slots=True)
class NovaConfig:
    """What an operator configured for a Nova, personality and policy resolved."""

    nova_id: str
    team: str
    base_cycle_time: timedelta
    reflection_frequency: float
    celebration_style: str
    work_style: str
    communication_pattern: str
    default_executor: str
    allowed_executors: frozenset[str]
    max_concurrent_tasks: int = 1
    tasks_per_phase: int = 5
    personal_phase_after: int = 0  # work phases between two personal ones; 0: never
    personal_phase_length: timedelta = timedelta(minutes=5)
    execution_timeout: timedelta = timedelta(minutes=5)
    draining: bool = False


@dataclass(frozen=True, slots=True)
class CycleInputs:
    """What the shell gathered for one Nova, before its step."""

    config: NovaConfig
    safety: SafetyStatus
    signals: Sequence[Signal] = ()
    held: Sequence[TaskFacts] = ()  # in progress with this Nova, each with its latest execution
    assigned: Sequence[TaskFacts] = ()  # pending, assigned to it and ready now, in order
    dealt: Sequence[TaskFacts] = ()  # open tasks reserved for it in this batch, in order
    available: int = 0  # ready tasks in its reach, `assigned` and the scope's open ones together
    momentum: MomentumBudget = field(default_factory=MomentumBudget)
    objectives: Sequence[ObjectiveFacts] = ()
    similar: Mapping[str, SimilarTasks] = field(default_factory=dict)  # by similarity key of `held`
    recent_insights: Sequence[str] = ()  # newest first, for reflecting cycles


@dataclass(slots=True)
class Step:
    """The outcome of a cycle: the new state, what must be done with it, and when to look again."""

    state: WorkflowStateData
    effects: list[Effect]
    due_at: datetime
