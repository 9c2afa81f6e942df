"""What people ask of tasks at the doors: request one, cancel, unblock, rank. TaskTracker does the changing.

Asking twice changes nothing the second time. Who may ask is the doors' business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError

from workflow.configuration import demand_reason
from workflow.core.inbound import DEFAULT_ATTEMPTS, DEPENDENCIES_LIMIT
from workflow.core.protocol import TITLE_LIMIT
from workflow.core.work import Outcome, Priority, TaskStatus
from workflow.errors import WorkflowError
from workflow.execution import registry
from workflow.models import Lease, Nova, Task, TaskDependency
from workflow.task_tracker import IllegalTaskMove, TaskNotFound, TaskTracker


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
            task_id = _create(tracker, request, sender=sender, cause=cause, key=key)
        return task_id, False
    except IntegrityError:
        # the same request came twice at once, and the other was first
        if key and (known := _replayed(key, request)):
            return known, True
        raise


@dataclass(frozen=True, slots=True)
class Requested:
    """What became of one request of many: the task's id, or the problem because of which there is none."""

    task_id: str = ""
    problem: RequestRefused | None = None


BULK_LIMIT = 1_000


def request_tasks(requests: Sequence[TaskRequest], *, sender: str, now: datetime, cause: str = "") -> list[Requested]:
    """Accept up to BULK_LIMIT tasks in one transaction, with one answer for each; one that is refused holds up no other.

    :raises RequestRefused: there are too many.
    """
    if len(requests) > BULK_LIMIT:
        text = f"{len(requests)} tasks are too many at once; {BULK_LIMIT} are allowed. Nothing was accepted."
        raise RequestRefused(text, field="tasks", code="too_many")
    named = {request.assignee for request in requests} - {""}
    novas = {nova.nova_id: nova for nova in Nova.objects.filter(nova_id__in=named, archived_at=None)}
    answers: list[Requested] = []
    with TaskTracker.open(now=now) as tracker:
        for request in requests:
            try:
                check_request(request, novas)
            except RequestRefused as refusal:
                answers.append(Requested(problem=refusal))
                continue
            answers.append(Requested(_create(tracker, request, sender=sender, cause=cause)))
    return answers


def _create(tracker: TaskTracker, request: TaskRequest, *, sender: str, cause: str, key: str | None = None) -> str:
    return tracker.create_task(
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


@dataclass(frozen=True, slots=True)
class TaskEdit:
    """What an operator changes of a task that nobody works on; None stays as it is, an empty `assignee` opens it."""

    title: str | None = None
    description: str | None = None
    priority: Priority | None = None
    estimated_duration: timedelta | None = None
    assignee: str | None = None


def edit_task(task_id: str, edit: TaskEdit, *, reason: str, now: datetime) -> bool:
    """Change what a pending or blocked task says, its place in the order, or whose it is; False if it says so already.

    :raises IllegalTaskMove: it is in progress or completed. :raises RequestRefused: the new assignee can't be had.
    """
    reason = demand_reason(reason)
    with TaskTracker.open(now=now) as tracker:
        task = _locked(task_id)
        if task.status not in (TaskStatus.PENDING, TaskStatus.BLOCKED):
            raise IllegalTaskMove(f"Task {task_id} is {task.status}; only while nobody works on it can it be changed.")
        wanted: dict[str, Any] = {"title": edit.title, "description": edit.description}
        if edit.estimated_duration is not None:
            wanted["estimated_duration"] = edit.estimated_duration.total_seconds()
        changes = {name: value for name, value in wanted.items() if value is not None and value != getattr(task, name)}
        _check_title(changes.get("title", task.title))
        changed = False
        if changes:
            tracker.edit_task(task_id, changes, reason)
            changed = True
        if edit.priority is not None and edit.priority != task.priority:
            tracker.set_priority(task_id, edit.priority, reason)
            changed = True
        if edit.assignee is not None and edit.assignee != (task.assignee_id or ""):
            if edit.assignee:
                check_request(TaskRequest(task.title, assignee=edit.assignee, executor=task.executor, action=task.action))
            tracker.assign_task(task_id, edit.assignee, reason)
            changed = True
    return changed


def retry_task(task_id: str, *, reason: str, now: datetime) -> bool:
    """Let a blocked task be tried again with fresh attempts, or one that failed without its wait; False if it is ready.

    :raises IllegalTaskMove: it is in progress or completed.
    """
    reason = demand_reason(reason)
    with TaskTracker.open(now=now) as tracker:
        task = _locked(task_id)
        if task.status == TaskStatus.BLOCKED:
            tracker.unblock_task(task_id, reason)
        elif task.status != TaskStatus.PENDING:
            raise IllegalTaskMove(f"Task {task_id} is {task.status}; only a blocked or failed task is tried again.")
        elif task.not_before is None or task.not_before <= now:
            return False
        else:
            tracker.hasten_task(task_id, reason)
        return True


def change_dependencies(
    task_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = (), reason: str, now: datetime
) -> bool:
    """Let a pending task wait for others, or not any more; False if nothing changes.

    :raises RequestRefused: tasks would wait in a circle, for something that was cancelled, or for too many.
    :raises IllegalTaskMove: it is not pending.
    """
    reason = demand_reason(reason)
    Lease.objects.get_or_create(name=_DEPENDENCIES)
    with TaskTracker.open(now=now) as tracker:
        # one at a time: two that are right by themselves could make a circle together
        Lease.objects.select_for_update().get(name=_DEPENDENCIES)
        list(Task.objects.select_for_update().filter(id__in=[task_id, *add]).order_by("id").values_list("id"))
        _locked(task_id)
        known = set(TaskDependency.objects.filter(task=task_id).values_list("depends_on", flat=True))
        wanted = (known | set(add)) - set(remove)
        if wanted == known:
            return False
        _check_dependencies(task_id, wanted, wanted - known)
        tracker.change_dependencies(task_id, add=add, remove=remove, reason=reason)
        return True


_DEPENDENCIES = "dependencies"  # the row that those who change them lock


def _check_dependencies(task_id: str, wanted: set[str], added: set[str]) -> None:
    if len(wanted) > DEPENDENCIES_LIMIT:
        text = f"{len(wanted)} dependencies are too many; {DEPENDENCIES_LIMIT} are allowed. Nothing was changed."
        raise RequestRefused(text, field="add", code="too_many")
    if cancelled := Task.objects.filter(id__in=added, outcome=Outcome.CANCELLED).values_list("id", flat=True).first():
        text = f"Task {cancelled} was cancelled, so whatever waits for it would wait for ever. Nothing was changed."
        raise RequestRefused(text, field="add", code="cancelled")
    seen: set[str] = set()
    ahead = set(added)
    while ahead:
        if task_id in ahead:
            text = f"Task {task_id} would wait for itself in a circle. Nothing was changed."
            raise RequestRefused(text, field="add", code="circle")
        seen |= ahead
        ahead = set(TaskDependency.objects.filter(task__in=ahead).values_list("depends_on", flat=True)) - seen


def _locked(task_id: str) -> Task:
    task = Task.objects.select_for_update().filter(id=task_id).defer("results", "metrics", "insights", "metadata").first()
    if task is None:
        raise TaskNotFound(f"There is no task {task_id}; nothing was changed.")
    return task


def check_request(request: TaskRequest, novas: Mapping[str, Nova] | None = None) -> None:
    """Refuse what no Nova could ever take up; `novas` are those that many requests name, loaded already.

    :raises RequestRefused: it names the field.
    """
    _check_title(request.title)
    if request.executor and not registry.is_known(request.executor):
        raise RequestRefused(f"There is no executor {request.executor}.", field="executor", code="unknown_executor")
    _check_action(request)
    if not request.assignee:
        return
    nova = (
        Nova.objects.filter(nova_id=request.assignee, archived_at=None).first()
        if novas is None
        else novas.get(request.assignee)
    )
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


def _check_title(title: str) -> None:
    if not 0 < len(title) <= TITLE_LIMIT:
        text = f"The title has {len(title)} characters; 1 to {TITLE_LIMIT} are allowed."
        raise RequestRefused(text, field="title", code="too_long" if title else "blank")


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
