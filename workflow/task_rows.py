"""Task rows as the tracker, the engine and the doors handle them: which columns are read, and which a new task begins with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(slots=True)
class TaskRow:
    """The columns of a task that the verbs read; `changes` is what flush() writes, under `fence`."""

    id: str
    title: str
    description: str
    status: str
    priority: str
    work_type: str
    assignee: str
    team: str
    executor: str
    action: str
    estimated_duration: float
    created_at: datetime
    started_at: datetime | None
    attempts: int
    max_attempts: int
    progress: int
    blocked_at: datetime | None
    blocked_seconds: float
    order_at: datetime
    fence: int
    personal: bool
    cause: str
    changes: dict[str, Any] = field(default_factory=dict)
    keeps_fence: bool = False  # the change is its holder's own: the number under which it holds the task stays good


ROW_COLUMNS = (
    "id",
    "title",
    "description",
    "status",
    "priority",
    "work_type",
    "assignee_id",
    "team",
    "executor",
    "action",
    "estimated_duration",
    "created_at",
    "started_at",
    "attempts",
    "max_attempts",
    "progress",
    "blocked_at",
    "blocked_seconds",
    "order_at",
    "fence",
    "personal",
    "cause",
)


def task_row(values: Sequence[Any]) -> TaskRow:
    """Make a row of what `values_list(*ROW_COLUMNS)` gave."""
    row = TaskRow(*values)
    row.assignee = row.assignee or ""
    return row


CREATED_COLUMNS = (
    "id",
    "title",
    "description",
    "status",
    "priority",
    "work_type",
    "assignee",
    "team",
    "executor",
    "action",
    "estimated_duration",
    "created_at",
    "updated_at",
    "order_at",
    "waiting_on",
    "max_attempts",
    "idempotency_key",
    "sender",
    "cause",
    "metadata",
    "personal",
    "objective",
    "attempts",
    "progress",
    "outcome",
    "results",
    "metrics",
    "blocked_seconds",
    "block_owner",
    "block_action",
    "block_reason",
    "reserved_by",
    "fence",
)
WAITING_ON, ASSIGNEE, TEAM = (CREATED_COLUMNS.index(name) for name in ("waiting_on", "assignee", "team"))
UNTOUCHED = (0, 0, "", "", "{}", 0.0, "", "", "", "", 0)  # the columns of a task that nobody has touched yet
