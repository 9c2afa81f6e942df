"""The operators' verbs on many tasks at once: one transaction, a constant number of queries, an answer for each task.

Which tasks somebody chose, and who may, is the doors' business.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow.configuration import demand_reason
from workflow.core.work import Outcome, Priority, TaskStatus
from workflow.models import Task
from workflow.task_rows import ROW_COLUMNS, TaskRow, task_row
from workflow.task_services import BULK_LIMIT, RequestRefused
from workflow.task_tracker import IllegalTaskMove, TaskError, TaskTracker


@dataclass(frozen=True, slots=True)
class Acted:
    """What became of one task of many: whether it changed, or the problem because of which it did not."""

    task_id: str
    changed: bool = False
    problem: str = ""


def act_on_many(
    verb: str, task_ids: Sequence[str], *, reason: str, now: datetime, priority: Priority = Priority.MEDIUM
) -> list[Acted]:
    """Do one of VERBS to up to BULK_LIMIT tasks; one that refuses holds up no other. `priority` is for that verb alone.

    :raises RequestRefused: there are too many.
    """
    reason = demand_reason(reason)
    if len(task_ids) > BULK_LIMIT:
        text = f"{len(task_ids)} tasks are too many at once; {BULK_LIMIT} are allowed. Nothing was changed."
        raise RequestRefused(text, field="tasks", code="too_many")
    answers: list[Acted] = []
    with TaskTracker.open(now=now) as tracker:
        found = Task.objects.select_for_update().filter(id__in=task_ids, personal=False).order_by("id")
        rows = {
            values[0]: (task_row(values[:-2]), values[-2], values[-1])
            for values in found.values_list(*ROW_COLUMNS, "outcome", "not_before")
        }
        tracker.add_rows(row for row, _, _ in rows.values())
        for task_id in dict.fromkeys(task_ids):
            if task_id not in rows:
                answers.append(Acted(task_id, problem=f"There is no task {task_id}; nothing was changed."))
                continue
            try:
                changed = VERBS[verb](tracker, *rows[task_id], {"reason": reason, "now": now, "priority": priority})
            except TaskError as refusal:
                answers.append(Acted(task_id, problem=str(refusal)))
                continue
            answers.append(Acted(task_id, changed))
    return answers


def _cancel(tracker: TaskTracker, row: TaskRow, outcome: str, not_before: datetime | None, said: Mapping[str, Any]) -> bool:
    if outcome == Outcome.CANCELLED:
        return False
    tracker.cancel_task(row, said["reason"])
    return True


def _retry(tracker: TaskTracker, row: TaskRow, outcome: str, not_before: datetime | None, said: Mapping[str, Any]) -> bool:
    if row.status == TaskStatus.BLOCKED:
        tracker.unblock_task(row, said["reason"])
    elif row.status != TaskStatus.PENDING:
        raise IllegalTaskMove(f"Task {row.id} is {row.status}; only a blocked or failed task is tried again.")
    elif not_before is None or not_before <= said["now"]:
        return False
    else:
        tracker.hasten_task(row, said["reason"])
    return True


def _rank(tracker: TaskTracker, row: TaskRow, outcome: str, not_before: datetime | None, said: Mapping[str, Any]) -> bool:
    if row.priority == said["priority"]:
        return False
    tracker.set_priority(row, said["priority"], said["reason"])
    return True


VERBS: Mapping[str, Callable[..., bool]] = {"cancel": _cancel, "retry": _retry, "priority": _rank}
