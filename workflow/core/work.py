"""Work: what a Nova could do next, where it comes from and in which order (spec section 5)."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from zlib import crc32

from workflow.core.momentum import MOMENTUM_INTERVAL as MOMENTUM_INTERVAL
from workflow.core.momentum import MOMENTUM_TEMPLATES as MOMENTUM_TEMPLATES
from workflow.core.momentum import MomentumFacts as MomentumFacts
from workflow.core.momentum import after_momentum_run as after_momentum_run
from workflow.core.momentum import allowed_templates as allowed_templates


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
    not_before: datetime | None = None  # put off, not tried


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


AGENT = "agent"  # the executor that is never dispatched: such a task waits until an agent claims it


def similarity_key(work_type: str, executor: str, action: str) -> str:
    """Give the key under which tasks like one are counted and averaged: at most 100 characters."""
    key = f"{work_type}:{executor}:{action}"
    return key if len(key) <= 100 else f"{key[:91]}:{crc32(key.encode()):08x}"


def task_id(nova_id: str, unix_seconds: int, counter: int) -> str:
    """Give a task's id in the spec's form, `{NOVA_ID}-{unix seconds}-{6 hex}`; `nova_id` is FLEET for open work.

    The hex is a bijection of the counter's low 24 bits: it looks random, and never repeats within 16,777,216 tasks.
    """
    mixed = counter & 0xFFFFFF
    for odd in (0x9E3779, 0xC2B2AF):  # an odd factor and a shifted exclusive-or are each reversible on 24 bits
        mixed = (mixed * odd) & 0xFFFFFF
        mixed ^= mixed >> 11
    return f"{nova_id.upper()}-{unix_seconds}-{mixed:06x}"


@dataclass(frozen=True, slots=True)
class Wanting:
    """A Nova with free slots, as dealing sees it."""

    nova_id: str
    team: str
    free_slots: int
    default_executor: str
    allowed_executors: frozenset[str]

    def may_take(self, team: str, executor: str) -> bool:
        """Say whether an open task of this team and executor (either may be empty) is for this Nova to run."""
        resolved = executor or self.default_executor
        return team in ("", self.team) and resolved != AGENT and resolved in self.allowed_executors


def deal(open_tasks: Sequence[TaskFacts], wanting: Sequence[Wanting]) -> dict[str, list[TaskFacts]]:
    """Hand open tasks, in their order, to Novas with free slots: each task to the Nova that was dealt the fewest so far.

    A task that nobody may take is left out. Tasks of one team and executor share a rotation; a Nova moves once through each
    place of it, so the cost grows with tasks plus Novas, not with their product.
    """
    hands: dict[str, list[TaskFacts]] = {}
    slots = {nova.nova_id: nova.free_slots for nova in wanting}
    rotations: dict[tuple[str, str], list[deque[str]]] = {}
    for task in open_tasks:
        kind = task.team, task.executor
        rotation = rotations.get(kind)
        if rotation is None:
            rotation = rotations[kind] = [deque(nova.nova_id for nova in wanting if nova.may_take(*kind))]
        nova_id = _next_in(rotation, hands, slots)
        if nova_id:
            hands.setdefault(nova_id, []).append(task)
    return hands


def _next_in(rotation: list[deque[str]], hands: Mapping[str, Sequence[TaskFacts]], slots: Mapping[str, int]) -> str:
    """Take the Nova with the fewest tasks out of a rotation and put it back one place on; empty: none has a slot.

    `rotation[n]` holds Novas believed to have n tasks. Another rotation may have dealt to them meanwhile: then they move on.
    """
    for believed, queue in enumerate(rotation):
        while queue:
            nova_id = queue.popleft()
            dealt = len(hands.get(nova_id, ()))
            if dealt >= slots[nova_id]:
                continue
            place = dealt + 1 if dealt == believed else dealt
            while len(rotation) <= place:
                rotation.append(deque())
            rotation[place].append(nova_id)
            if dealt == believed:
                return nova_id
    return ""
