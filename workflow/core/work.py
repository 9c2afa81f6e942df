"""Work: what a Nova could do next, where it comes from and in which order (spec section 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class Priority(StrEnum):
    """The four priorities of the wire, most urgent first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for critical to 3 for low."""
        return _RANK[self]


_RANK = {Priority.CRITICAL: 0, Priority.HIGH: 1, Priority.MEDIUM: 2, Priority.LOW: 3}

# A task overtakes one of the next higher priority when it is older by this much: nothing starves.
AGEING: Mapping[Priority, timedelta] = {
    Priority.CRITICAL: timedelta(0),
    Priority.HIGH: timedelta(hours=1),
    Priority.MEDIUM: timedelta(hours=4),
    Priority.LOW: timedelta(hours=12),
}


def order_at(priority: Priority, created_at: datetime) -> datetime:
    """Give the instant by which work is ordered, earliest first: its age, set back by its rank."""
    return created_at + AGEING[priority]


class WorkType(StrEnum):
    """Where work came from."""

    REQUESTED = "requested"
    ALERT = "alert"
    SIGNAL = "signal"
    MOMENTUM = "momentum"
    STRATEGIC = "strategic"
    REFLECTION = "reflection"


class TaskStatus(StrEnum):
    """The four statuses of TASK_MESSAGE_SCHEMA."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    BLOCKED = "blocked"


class Outcome(StrEnum):
    """How a completed task ended; only succeeded is celebrated and counted."""

    NONE = ""
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class WorkItem:
    """Work proposed by discovery, not yet a task (spec "Core Data Structures"). `id` is its de-duplication key."""

    id: str
    title: str
    description: str
    priority: Priority
    work_type: WorkType
    estimated_duration: timedelta
    created_at: datetime
    assigned_to: str = ""
    dependencies: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    team: str = ""
    executor: str = ""  # empty: the Nova's default executor
    action: str = ""  # the executor's named action
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ExecutionFacts:
    """The latest execution of a task in progress."""

    id: int
    attempt: int
    status: str  # ExecutionStatus value
    results: str
    metrics: Mapping[str, Any]
    error: str
    retryable: bool
    needs: Mapping[str, str] = field(default_factory=dict)  # {owner, action} when only a person can go on
    progress: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """A task as the core sees it. Durations of zero mean unknown."""

    id: str
    title: str
    description: str
    priority: Priority
    work_type: WorkType
    created_at: datetime
    order_at: datetime
    status: TaskStatus = TaskStatus.PENDING
    executor: str = ""
    action: str = ""
    assignee: str = ""  # empty: open, reserved for this Nova in this cycle
    team: str = ""
    estimated_duration: timedelta = timedelta(0)
    started_at: datetime | None = None
    attempts: int = 0
    max_attempts: int = 3
    progress: int = 0
    not_before: datetime | None = None
    blocked_time: timedelta = timedelta(0)
    dependants: int = 0  # pending tasks that wait for this one
    personal: bool = False
    cause: str = ""
    execution: ExecutionFacts | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """An unhandled inbox row addressed to a Nova."""

    id: int
    kind: str  # signal, alert, work_item
    stream: str
    fields: Mapping[str, str]
    received_at: datetime
    entry_id: str = ""


@dataclass(frozen=True, slots=True)
class ObjectiveFacts:
    """An objective that is due and has no open item (spec section 5, StrategicWorkPlanner)."""

    id: int
    title: str
    description: str
    priority: Priority
    cadence: timedelta
    due_at: datetime
    until: datetime | None = None
    nova_id: str = ""  # empty: the team's
    team: str = ""


@dataclass(frozen=True, slots=True)
class SimilarTasks:
    """What is known of earlier tasks like one: how many succeeded and how long they took on average."""

    count: int = 0
    mean_duration: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class MomentumBudget:
    """Which momentum templates may run for a Nova now: the builtin actions not held back by an hour, a day or fruitlessness."""

    allowed: Sequence[str] = ()
