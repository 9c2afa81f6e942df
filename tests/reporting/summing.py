"""Work done through the services, and summed up by hand."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from reporting.roll_ups import RollUpKeeper
from reporting.settled import Settled
from tests.factories import NOW
from workflow.core.work import Priority, WorkType
from workflow.task_rows import TaskRow
from workflow.task_tracker import TaskTracker


def patient() -> Settled:
    """Give what tells how far the journal is settled, and waits: the other workers' transactions stand on the same server."""
    return Settled(lambda seconds: threading.Event().wait(seconds), looks=500)


def sum_up(*, now: datetime = NOW, most: int = 5_000) -> int:
    """Let the roll-ups catch up with the journal; give by how many ids."""
    keeper, read = RollUpKeeper(patient()), 0
    while step := keeper.turn(now=now, most=most):
        read += step
    return read


def create(nova_id: str, *, at: datetime, work_type: WorkType = WorkType.REQUESTED, **fields: object) -> str:
    """Create a task of a Nova."""
    with TaskTracker.open(now=at) as tracker:
        return tracker.create_task(
            str(fields.pop("title", "Count the beans")),
            priority=Priority.MEDIUM,
            assignee=nova_id,
            work_type=work_type,
            **fields,
        )


def start(task_id: str, nova_id: str, *, at: datetime) -> None:
    _change(at, task_id, lambda tracker, row: tracker.start_task(row, nova_id=nova_id, update="It begins.", attempt=1))


def complete(task_id: str, *, at: datetime, evidence: bool = True) -> None:
    metrics = {"evidence": ["sha256:0a1b"]} if evidence else {}
    _change(at, task_id, lambda tracker, row: tracker.complete_task(row, "There are 12.", metrics))


def _change(at: datetime, task_id: str, change: Callable[[TaskTracker, TaskRow], None]) -> None:
    with TaskTracker.open(now=at) as tracker:
        change(tracker, tracker._row(task_id))


def do_task(nova_id: str, *, at: datetime, seconds: float = 60.0, evidence: bool = True, **fields: object) -> str:
    """Create, start and complete a task; `at` is its end."""
    begun = at - timedelta(seconds=seconds)
    task_id = create(nova_id, at=begun, **fields)
    start(task_id, nova_id, at=begun)
    complete(task_id, at=at, evidence=evidence)
    return task_id
