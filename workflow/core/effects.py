"""What a step wants done: plain data, carried out by the shell in one transaction with the new state.

An effect never says how. Ids in effects are the ORM's; an effect that loses its condition there (a task somebody else took)
makes the whole step void, so a loser changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from workflow.core.work import WorkItem


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Accept a work item as a task. `item.assigned_to` empty: open to every Nova of `team` (empty: of the fleet)."""

    item: WorkItem
    objective_id: int | None = None
    signal_id: int | None = None  # the inbox row that asked for it
    momentum_template: str = ""  # the builtin action, when MomentumTaskGenerator made it
    personal: bool = False


@dataclass(frozen=True, slots=True)
class StartTask:
    """Take a pending task (claiming it if it has no assignee) and dispatch one execution of it."""

    task_id: str
    executor: str
    action: str
    attempt: int  # 1 for the first
    timeout: timedelta
    update: str


@dataclass(frozen=True, slots=True)
class UpdateProgress:
    task_id: str
    update: str
    progress_percentage: int


@dataclass(frozen=True, slots=True)
class CompleteTask:
    task_id: str
    results: str
    metrics: Mapping[str, Any]
    note: str = ""  # what was unusual about it: that it came late


@dataclass(frozen=True, slots=True)
class RetryTask:
    """Put a failed task back to pending, with the same assignee, not before `not_before`."""

    task_id: str
    not_before: datetime
    reason: str
    uncounted: bool = False  # the attempt was put off before it began: the task gets another one


@dataclass(frozen=True, slots=True)
class BlockTask:
    """Stop work on a task until `owner` has done `action`; `results` keeps what was found so far (a brief)."""

    task_id: str
    owner: str
    action: str
    reason: str
    results: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Celebrate:
    """Post a TASK_COMPLETION_CELEBRATION (spec section 6)."""

    task_id: str
    task_title: str
    celebration_level: str
    achievement_impact: str
    message: str  # in the Nova's communication style


@dataclass(frozen=True, slots=True)
class RecordInsight:
    """Store a COMPLETION_REFLECTION with the task; the mapping has the spec's four keys, each a sentence."""

    task_id: str
    insights: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReviewInsights:
    """A reflecting cycle: note what recent insights add up to."""

    summary: str
    insight_count: int


@dataclass(frozen=True, slots=True)
class ReflectPrivately:
    """A personal phase's reflection; its text never leaves the ORM (design section 6)."""

    text: str


@dataclass(frozen=True, slots=True)
class HandleSignal:
    """Say what became of an inbox row: `outcome` in work, noted, wake."""

    signal_id: int
    outcome: str
    note: str


@dataclass(frozen=True, slots=True)
class AdvanceObjective:
    """An objective's item was planned: it is next due at `next_due_at` (None: it has ended)."""

    objective_id: int
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReportStatus:
    """Journal and publish the Nova's way through the states of this step, oldest first."""

    path: tuple[str, ...]
    message: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ReportViolation:
    """A safety mechanism or a protocol rule found something wrong (first cycle of it only)."""

    mechanism: str
    reason: str


@dataclass(frozen=True, slots=True)
class FinishDrain:
    """The Nova was draining and holds no task any more: it is paused now."""


Effect = (
    CreateTask
    | StartTask
    | UpdateProgress
    | CompleteTask
    | RetryTask
    | BlockTask
    | Celebrate
    | RecordInsight
    | ReviewInsights
    | ReflectPrivately
    | HandleSignal
    | AdvanceObjective
    | ReportStatus
    | ReportViolation
    | FinishDrain
)
