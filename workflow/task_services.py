"""What people ask of tasks at the doors: request one, cancel, unblock, rank. TaskTracker does the changing.

Asking twice changes nothing the second time. Who may ask is the doors' business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError

from workflow.configuration import demand_reason
from workflow.core.inbound import DEFAULT_ATTEMPTS
from workflow.core.work import Outcome, Priority, TaskStatus
from workflow.errors import WorkflowError
from workflow.execution import registry
from workflow.models import Nova, Task
from workflow.task_tracker import TaskNotFound, TaskTracker


class RequestRefused(WorkflowError):
    """A field of the request can't be accepted; `field` says which, `code` why in one word."""

    def __init__(self, text: str, *, field: str, code: str) -> None:
        super().__init__(text)
        self.field = field
        self.code = code


class IdempotencyKeyReused(WorkflowError):
    """The key was used before, for another task."""


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A task that somebody asks for. Empty `assignee`: any Nova of `team`, or of the fleet, may take it."""

    title: str
    description: str = ""
    priority: Priority = Priority.MEDIUM
    assignee: str = ""
    team: str = ""
    executor: str = ""
    action: str = ""
    estimated_duration: timedelta = timedelta(0)
    dependencies: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int = DEFAULT_ATTEMPTS


def request_task(
    request: TaskRequest, *, sender: str, now: datetime, cause: str = "", idempotency_key: str | None = None
) -> tuple[str, bool]:
    """Accept a task; give its id, and whether the key showed that it had been accepted before.

    :raises RequestRefused: the assignee or the executor can't be had.
    :raises IdempotencyKeyReused: the key belongs to another task.
    """
    key = f"{sender}:{idempotency_key}" if idempotency_key else None
    if key and (known := _replayed(key, request)):
        return known, True
    check_request(request)
    try:
        with TaskTracker.open(now=now) as tracker:
            task_id = tracker.create_task(
                request.title,
                request.description,
                request.priority,
                assignee=request.assignee,
                team=request.team,
                executor=request.executor,
                action=request.action,
                estimated_duration=request.estimated_duration,
                dependencies=request.dependencies,
                metadata=request.metadata,
                max_attempts=request.max_attempts,
                idempotency_key=key,
                sender=sender,
                cause=cause,
            )
        return task_id, False
    except IntegrityError:
        # the same request came twice at once, and the other was first
        if key and (known := _replayed(key, request)):
            return known, True
        raise


def cancel_task(task_id: str, *, reason: str, now: datetime) -> bool:
    """End a task that nobody wants any more; False if it was cancelled already.

    :raises IllegalTaskMove: it has succeeded.
    """
    reason = demand_reason(reason)
    with TaskTracker.open(now=now) as tracker:
        if _locked(task_id).outcome == Outcome.CANCELLED:
            return False
        tracker.cancel_task(task_id, reason)
        return True


def unblock_task(task_id: str, *, reason: str, now: datetime) -> bool:
    """Put a blocked task back to pending with fresh attempts; False if it is pending or in progress already.

    :raises IllegalTaskMove: it is completed.
    """
    reason = demand_reason(reason)
    with TaskTracker.open(now=now) as tracker:
        if _locked(task_id).status in (TaskStatus.PENDING, TaskStatus.IN_PROGRESS):
            return False
        tracker.unblock_task(task_id, reason)
        return True


def set_priority(task_id: str, priority: Priority, *, reason: str, now: datetime) -> bool:
    """Give a pending or blocked task another priority; False if it has that one.

    :raises IllegalTaskMove: it is in progress or completed.
    """
    reason = demand_reason(reason)
    with TaskTracker.open(now=now) as tracker:
        if _locked(task_id).priority == priority:
            return False
        tracker.set_priority(task_id, priority, reason)
        return True


def _locked(task_id: str) -> Task:
    task = Task.objects.select_for_update().only("id", "status", "outcome", "priority").filter(id=task_id).first()
    if task is None:
        raise TaskNotFound(f"There is no task {task_id}; nothing was changed.")
    return task


def check_request(request: TaskRequest) -> None:
    """Refuse what no Nova could ever take up.

    :raises RequestRefused: it names the field.
    """
    if request.executor and not registry.is_known(request.executor):
        raise RequestRefused(f"There is no executor {request.executor}.", field="executor", code="unknown_executor")
    _check_action(request)
    if not request.assignee:
        return
    nova = Nova.objects.filter(nova_id=request.assignee, archived_at=None).first()
    if nova is None:
        text = f"There is no Nova {request.assignee} in service."
        raise RequestRefused(text, field="assignee", code="unknown_assignee")
    if request.executor and request.executor not in nova.allowed_executors:
        allowed = ", ".join(nova.allowed_executors) or "none"
        text = f"Nova {nova.nova_id} may not use the executor {request.executor}; it may use: {allowed}."
        raise RequestRefused(text, field="executor", code="executor_not_allowed")
    if request.team and nova.team != request.team:
        text = f"Nova {nova.nova_id} is not in team {request.team}; name the one or the other."
        raise RequestRefused(text, field="team", code="not_in_team")


def _check_action(request: TaskRequest) -> None:
    executor = registry.executors().get(request.executor)
    if request.action and executor and executor.actions and request.action not in executor.actions:
        known = ", ".join(sorted(executor.actions))
        text = f"The executor {request.executor} has no action {request.action}; it has: {known}."
        raise RequestRefused(text, field="action", code="unknown_action")


def _replayed(key: str, request: TaskRequest) -> str:
    """Give the id of the task that the key brought about; empty if there is none.

    :raises IdempotencyKeyReused: that task is not what is asked for now.
    """
    task = Task.objects.filter(idempotency_key=key).first()
    if task is None:
        return ""
    # what nobody changes after the request; priority and assignee may have moved on since
    same = (
        task.title == request.title
        and task.description == request.description
        and task.executor == request.executor
        and task.action == request.action
        and task.metadata == dict(request.metadata)
        and task.estimated_duration == request.estimated_duration.total_seconds()
    )
    if not same:
        raise IdempotencyKeyReused("This Idempotency-Key belongs to another task; nothing was changed. Use a new key.")
    return task.id
