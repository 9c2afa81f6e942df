"""What goes into a cycle, what comes out, and the sheet of paper between: one Nova's step while it is being decided.

The sheet copies the state once and changes only the copy. It knows how to move, count and speak; what to do is the machine's.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from safety.core.status import SafetyStatus
from workflow.core.effects import Effect, ReportStatus, ReportViolation
from workflow.core.personality import phrase
from workflow.core.protocol import NOVAProtocolValidator
from workflow.core.state import Table, WorkflowState, WorkflowStateData, transition
from workflow.core.work import (
    AGENT,
    MomentumBudget,
    ObjectiveFacts,
    Signal,
    SimilarTasks,
    TaskFacts,
    WorkType,
)


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
    completed_by_agent: int = 0  # tasks that its agent has completed since the last cycle; they are celebrated already
    agent_level: str = ""  # the celebration level of the newest of them


@dataclass(slots=True)
class Step:
    """The outcome of a cycle: the new state, what must be done with it, and when to look again."""

    state: WorkflowStateData
    effects: list[Effect]
    due_at: datetime


PROTOCOL = "nova_protocol"  # the mechanism that a protocol violation names
PERSONAL_TITLE = "a personal task"  # a personal task's own title goes nowhere
_GRID = 250_000  # microseconds
_NO_TIME = timedelta(0)
_validator = NOVAProtocolValidator()


def on_grid(instant: datetime) -> datetime:
    """Round up to the next quarter of a second, so that Novas that are due at about the same time are stepped together."""
    over = instant.microsecond % _GRID
    return instant + timedelta(microseconds=_GRID - over) if over else instant


class Cycle:
    """One step in the making."""

    __slots__ = (
        "cause", "checked", "completed", "config", "created", "draining", "due_at", "dwelt", "effects", "held", "inputs",
        "look_again", "looked", "now", "path", "picked", "planned", "ready", "recovered", "refused", "said", "soon",
        "started", "state", "table", "tended",
    )  # fmt: skip

    def __init__(self, state: WorkflowStateData, inputs: CycleInputs, now: datetime, table: Table) -> None:
        self.state = copy(state)
        self.inputs = inputs
        self.config = inputs.config
        self.now = now
        self.table = table
        self.draining = inputs.config.draining
        self.effects: list[Effect] = []
        self.path: list[WorkflowState] = [state.current_state]
        self.said: list[str] = []  # what happened, in the Nova's voice
        self.cause = ""
        self.due_at: datetime | None = None  # set by the handler that comes to a rest
        self.look_again: list[datetime] = []  # the ends of backoffs made in this cycle
        self.soon: datetime | None = None  # work was created that this Nova can start then
        self.held: Sequence[TaskFacts] = inputs.held  # still in hand
        self.completed: list[str] = []  # celebration levels of the tasks completed in this cycle
        self.picked: list[TaskFacts] = []
        self.started = 0
        self.ready: list[TaskFacts] | None = None  # pending tasks this Nova may run, in order; see machine
        self.refused: set[str] = set()  # pending tasks assigned to it that it may not run, and that were blocked
        self.created = 0  # tasks that signals asked for
        self.tended = self.checked = self.looked = self.planned = self.recovered = self.dwelt = False
        self._begin()

    def _begin(self) -> None:
        """Keep the beat: a cycle begins one cycle time after the last began, or now if that is more than another one ago."""
        state, length = self.state, self.config.base_cycle_time
        elapsed = self.now - state.cycle_started_at
        if elapsed >= length:
            state.cycle_started_at = self.now if elapsed >= length + length else state.cycle_started_at + length
        elif elapsed < _NO_TIME:  # the clock went back
            state.cycle_started_at = self.now

    def move(self, target: WorkflowState) -> None:
        """Go to another state; the table decides whether that is legal."""
        transition(self.state, target, self.now, self.table)
        self.path.append(target)

    @property
    def busy(self) -> int:
        """How many tasks this Nova has in hand."""
        return len(self.held) + self.started

    @property
    def free(self) -> int:
        """How many more it may take."""
        return self.config.max_concurrent_tasks - len(self.held) - self.started

    @property
    def next_cycle_at(self) -> datetime:
        return on_grid(self.state.cycle_started_at + self.config.base_cycle_time)

    def must_check(self) -> bool:
        """Say whether the streams want looking at: a signal waits, or the last look is a cycle time old."""
        if self.checked or self.draining:
            return False
        last = self.state.last_stream_check
        return bool(self.inputs.signals) or last is None or self.now - last >= self.config.base_cycle_time

    def may_run(self, task: TaskFacts) -> bool:
        executor = task.executor or self.config.default_executor
        return executor != AGENT and executor in self.config.allowed_executors

    def real_work_ready(self) -> bool:
        """Say whether a ready task asks to be done that nobody made up."""
        return any(task.work_type != WorkType.MOMENTUM for task in self.ready_tasks())

    def ready_tasks(self) -> list[TaskFacts]:
        """Give the pending tasks that this Nova may run: assigned and dealt ones, not yet in order."""
        if self.ready is None:
            inputs = self.inputs
            self.ready = [task for tasks in (inputs.assigned, inputs.dealt) for task in tasks if self.may_run(task)]
        return self.ready

    def say(self, occasion: str, **facts: object) -> str:
        """Put down what happened for the status report, in the Nova's voice."""
        text = phrase(self.config.communication_pattern, occasion, **facts)
        self.said.append(text)
        return text

    def check_protocol(self, title: str, before: str, after: str) -> None:
        """Count a task message that this step causes, and report one that breaks the protocol."""
        self.state.protocol_checks += 1
        problem = _validator.check_task(title, before, after)
        if problem:
            self.effects.append(ReportViolation(PROTOCOL, problem))
        else:
            self.state.protocol_passes += 1

    def remember_look(self, instant: datetime) -> None:
        """Look again at `instant`, when a backoff ends, even if other cycles come between."""
        self.look_again.append(instant)

    def report(self) -> None:
        """Report what happened, if anything did."""
        if self.said:
            path = tuple(state.value for state in self.path)
            self.effects.append(ReportStatus(path, " ".join(self.said), self.cause))


def spoken_title(task: TaskFacts) -> str:
    """Give a task's title as it may be said aloud, cut short."""
    if task.personal:
        return PERSONAL_TITLE
    return task.title if len(task.title) <= 120 else f"{task.title[:117]}..."
