"""All that is known around one task: attempts, what waits for what, approvals, message, journal. Every list is bounded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reporting.core.statuses import Look
from reporting.core.task_looks import ATTEMPTS
from reporting.core.words import lasting, plain
from safety.models import AuditEntry
from workflow.models import Approval, Execution, InboxMessage, Task, TaskDependency

SHOWN = 50  # of each list
NEIGHBOURS = 20
CLIPPED = 200  # characters of a value in the timeline


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution."""

    execution: Execution
    look: Look
    lasted: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A task that this one waits for, or that waits for it; None: there is none of that id (yet)."""

    task_id: str
    task: Task | None


@dataclass(frozen=True, slots=True)
class Step:
    """An entry of the journal; who, why and what changed are empty for whoever may not read them."""

    at: datetime
    word: str
    actor: str
    reason: str
    changes: Sequence[tuple[str, str, str]]


def attempts(task: Task) -> list[Attempt]:
    """Give the newest attempts, the last first."""
    rows = Execution.objects.filter(task=task.pk).order_by("-attempt")[:SHOWN]
    return [Attempt(row, ATTEMPTS[row.status], _lasted(row)) for row in rows]


def waits_for(task: Task) -> list[Neighbour]:
    """Give what it waits for."""
    keys = list(TaskDependency.objects.filter(task=task.pk).order_by("id").values_list("depends_on", flat=True)[:NEIGHBOURS])
    return _neighbours(keys)


def waiting_for(task: Task) -> list[Neighbour]:
    """Give what waits for it."""
    keys = list(TaskDependency.objects.filter(depends_on=task.pk).order_by("id").values_list("task", flat=True)[:NEIGHBOURS])
    return _neighbours(keys)


def _neighbours(keys: Sequence[str]) -> list[Neighbour]:
    found = Task.objects.filter(pk__in=keys, personal=False).only("id", "title", "status", "outcome") if keys else ()
    tasks = {row.pk: row for row in found}
    return [Neighbour(key, tasks.get(key)) for key in keys]


def approvals_of(task: Task) -> list[Approval]:
    """Give the newest approvals that were asked for its sake."""
    if task.assignee_id is None:
        return []
    return list(Approval.objects.filter(nova=task.assignee_id, task_id=task.pk).order_by("-id")[:NEIGHBOURS])


def message_of(task: Task) -> InboxMessage | None:
    """Give the message that asked for it; None where it was not a message."""
    stream, _, entry_id = task.cause.rpartition("/")
    return InboxMessage.objects.filter(stream=stream, entry_id=entry_id).first() if stream else None


def timeline(task: Task, *, whole: bool) -> list[Step]:
    """Give the journal's newest entries about it, the last first; not `whole`: without persons and texts."""
    entries = AuditEntry.objects.filter(object_id=task.pk, object_type="task", personal=False).order_by("-id")[:SHOWN]
    return [
        Step(
            entry.created_at,
            plain(entry.action.rpartition(".")[2]),
            entry.actor if whole else "",
            entry.reason if whole else "",
            list(_changes(entry)) if whole else (),
        )
        for entry in entries
    ]


def _changes(entry: AuditEntry) -> Iterator[tuple[str, str, str]]:
    before, after = entry.before or {}, entry.after or {}
    for name in dict.fromkeys([*before, *after]):
        yield plain(name), _text(before.get(name, "")), _text(after.get(name, ""))


def _text(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= CLIPPED else f"{text[:CLIPPED]}…"


def _lasted(row: Execution) -> str:
    if row.started_at is None or row.finished_at is None:
        return ""
    seconds = (row.finished_at - row.started_at).total_seconds()
    return f"{seconds:.2f} s" if seconds < 10 else lasting(seconds)
