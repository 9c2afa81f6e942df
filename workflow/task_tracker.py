"""TaskTracker: every change of a task, for every caller, goes through here (spec section 3).

A tracker is a unit of work: its verbs check and collect, `flush()` writes tasks, journal entries and stream messages of the
whole batch in a constant number of statements. It must not decide what a Nova does next.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import connection, transaction

from safety import audit, bulk
from workflow import waking
from workflow.core.work import AGENT, Outcome, Priority, TaskStatus, WorkType, order_at
from workflow.errors import WorkflowError
from workflow.models import Execution, Objective, Task, TaskDependency
from workflow.task_journal import TaskJournal
from workflow.task_numbers import NUMBERS
from workflow.task_rows import ASSIGNEE, CREATED_COLUMNS, ROW_COLUMNS, TEAM, UNTOUCHED, WAITING_ON, TaskRow, task_row

TASK_CREATED = "workflow.task.created"
TASK_CLAIMED = "workflow.task.claimed"
TASK_STARTED = "workflow.task.started"
TASK_PROGRESSED = "workflow.task.progressed"
TASK_COMPLETED = "workflow.task.completed"
TASK_CANCELLED = "workflow.task.cancelled"
TASK_RETRIED = "workflow.task.retried"
TASK_BLOCKED = "workflow.task.blocked"
TASK_UNBLOCKED = "workflow.task.unblocked"
TASK_RANKED = "workflow.task.ranked"
TASK_LAPSED = "workflow.task.lapsed"
TASK_RELEASED = "workflow.task.released"
TASK_EDITED = "workflow.task.edited"
TASK_ASSIGNED = "workflow.task.assigned"
_MEASURED = frozenset({"finding_count", "exit_code"})  # metrics of builtin work and of commands: they prove themselves

FLEET = "FLEET"


class TaskError(WorkflowError):
    """A change of a task was refused; nothing was changed."""


class TaskNotFound(TaskError):
    """No such task."""


class IllegalTaskMove(TaskError):
    """The task's status does not allow that."""


@dataclass(frozen=True, slots=True)
class AgentLease:
    """How an agent holds a task: until when, and whether it was open work, which it becomes again without the agent."""

    until: datetime
    was_open: bool


class TaskTracker:
    """Changes of tasks, collected and written together. `now` is the instant of all of them; `by_novas`: the Novas act."""

    def __init__(self, *, now: datetime, by_novas: bool = False) -> None:
        self.now = now
        self.journal = TaskJournal(now=now, by_novas=by_novas)
        self._rows: dict[str, TaskRow] = {}
        self._created: list[list[Any]] = []
        self._dependencies: list[tuple[str, str]] = []
        self._succeeded: list[str] = []
        self._cancelled: list[str] = []
        self._objectives_closed: list[str] = []  # tasks of objectives that ended
        self._wake: set[str] = set()
        self._open_teams: list[str] = []  # the team of each open task that became ready

    @classmethod
    @contextmanager
    def open(cls, *, now: datetime) -> Iterator["TaskTracker"]:
        """Give a tracker inside a transaction; write everything at the end and wake who must know after the commit."""
        with transaction.atomic():
            tracker = cls(now=now)
            yield tracker
            tracker.flush()
            transaction.on_commit(partial(waking.knock, "loops"))

    # -- verbs

    def create_task(
        self,
        title: str,
        description: str = "",
        priority: Priority = Priority.MEDIUM,
        *,
        assignee: str = "",
        team: str = "",
        work_type: WorkType = WorkType.REQUESTED,
        executor: str = "",
        action: str = "",
        estimated_duration: timedelta = timedelta(0),
        dependencies: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        sender: str = "",
        cause: str = "",
        max_attempts: int = 3,
        personal: bool = False,
        objective_id: int | None = None,
    ) -> str:
        """Accept work as a task and give its id. The caller has checked that the assignee exists and the key is new.

        With an assignee the `todo` entry goes out now; without, when a Nova claims it.

        :raises ProtocolViolation: the fields break TASK_MESSAGE_SCHEMA.
        """
        now = self.now
        task_id = NUMBERS.next_task_id(assignee or FLEET, now)
        waits_for = list(dict.fromkeys(dependencies))
        order = order_at(priority, now)
        seconds = estimated_duration.total_seconds()
        self._created.append(
            [
                task_id,
                title,
                description,
                "pending",
                priority.value,
                work_type.value,
                assignee or None,
                team,
                executor,
                action,
                seconds,
                now,
                now,
                order,
                len(waits_for),
                max_attempts,
                idempotency_key,
                sender,
                cause,
                bulk.json_text(metadata) if metadata else "{}",
                personal,
                objective_id,
                *UNTOUCHED,
            ]
        )
        if waits_for:
            self._dependencies += [(task_id, other) for other in waits_for]
        elif assignee:
            self._wake.add(assignee)
        elif executor != AGENT:
            self._open_teams.append(team)
        row = TaskRow(
            task_id, title, description, "pending", priority.value, work_type.value, assignee, team, executor, action, seconds,
            now, None, 0, max_attempts, 0, None, 0.0, order, 0, personal, cause,
        )  # fmt: skip
        after = {"priority": row.priority, "work_type": row.work_type, "executor": executor, "action": action}
        if metadata and isinstance(again := metadata.get("rework_of"), str):
            after["rework_of"] = again[:96]
        if waits_for:
            after["dependencies"] = ",".join(waits_for)
        if personal:
            self.journal.note(row, TASK_CREATED, after)
        elif assignee:
            self.journal.publish(row, TASK_CREATED, "task_todo", after=after)
        else:
            self.journal.check(row)
            after["title"] = title
            self.journal.note(row, TASK_CREATED, after, counted=True)
        return task_id

    def start_task(self, row: TaskRow, *, nova_id: str, update: str, attempt: int, lease: AgentLease | None = None) -> None:
        """Take a pending task for a Nova, claiming it if it is open, and say that work on it begins.

        `lease`: an agent holds it.
        """
        self._expect(row, TaskStatus.PENDING)
        if not row.assignee:
            row.assignee = nova_id
            self.journal.publish(row, TASK_CLAIMED, "task_todo")
        row.status, row.attempts = "in_progress", attempt
        if row.started_at is None:
            row.started_at = self.now
        self._change(
            row,
            status="in_progress",
            assignee=nova_id,
            started_at=row.started_at,
            attempts=attempt,
            progress=0,
            not_before=None,
            reserved_by=AGENT if lease else "",
            reserved_until=lease.until if lease else None,
            claimed_open=lease.was_open if lease else None,
        )
        self.journal.publish(
            row, TASK_STARTED, "task_progress", after={"attempt": attempt}, update=update, progress_percentage="0"
        )

    def update_progress(self, task: TaskRow | str, update: str, progress_percentage: int | None = None) -> None:
        """Say how far work on a task in progress has come."""
        row = self._row(task)
        self._expect(row, TaskStatus.IN_PROGRESS)
        if progress_percentage is not None:
            row.progress = progress_percentage
        self._change(row, progress=row.progress)
        self.journal.publish(row, TASK_PROGRESSED, "task_progress", update=update, progress_percentage=str(row.progress))

    def complete_task(
        self, task: TaskRow | str, results: str, metrics: Mapping[str, Any] | None = None, *, note: str = ""
    ) -> None:
        """End a task that succeeded; what waited for it may go on. `note` says in the journal what was unusual about it."""
        row = self._row(task)
        self._expect(row, TaskStatus.IN_PROGRESS)
        self._finish(row, Outcome.SUCCEEDED, TASK_COMPLETED, results, metrics, reason=note)
        self._succeeded.append(row.id)
        self._close_objective(row)

    def cancel_task(self, task: TaskRow | str, reason: str) -> None:
        """End a task that nobody wants any more; what waited for it is blocked, and says so."""
        row = self._row(task)
        self._expect(row, TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED)
        self._finish(row, Outcome.CANCELLED, TASK_CANCELLED, f"Cancelled: {reason}", None, reason=reason)
        self._cancelled.append(row.id)
        if row.assignee:
            self._wake.add(row.assignee)
        self._close_objective(row)

    def retry_task(self, task: TaskRow | str, *, not_before: datetime, reason: str, uncounted: bool = False) -> None:
        """Put a failed task back to pending, for the same assignee. `uncounted`: it gets one attempt more."""
        row = self._row(task)
        self._expect(row, TaskStatus.IN_PROGRESS)
        row.status = "pending"
        self._change(row, status="pending", not_before=not_before, progress=0, reserved_by="", reserved_until=None)
        if uncounted:
            row.max_attempts += 1
            self._change(row, max_attempts=row.max_attempts)
        self.journal.publish(
            row,
            TASK_RETRIED,
            "task_progress",
            after={"attempts": row.attempts, "not_before": not_before.isoformat()},
            reason=reason,
            update=reason,
            progress_percentage="0",
        )

    def lapse_task(self, row: TaskRow, *, open_again: bool) -> None:
        """Take a task in progress from an agent that let its lease end, for the next one to begin; the caller starts it."""
        self._expect(row, TaskStatus.IN_PROGRESS)
        after = {"attempt": row.attempts, "open": open_again}
        self.journal.note(row, TASK_LAPSED, after, reason="The agent that held it let its lease end.")
        row.status = "pending"
        if open_again:
            row.assignee = ""

    def release_task(self, row: TaskRow, *, reason: str, open_again: bool) -> None:
        """Give a task back that an agent holds: to its assignee, or to all who may take it. The attempt doesn't count."""
        self._expect(row, TaskStatus.IN_PROGRESS)
        row.status, row.attempts = "pending", max(row.attempts - 1, 0)
        self.journal.publish(
            row,
            TASK_RELEASED,
            "task_progress",
            after={"open": open_again},
            reason=reason,
            update=reason or "Given back.",
            progress_percentage="0",
        )
        if open_again:
            row.assignee = ""
        self._change(
            row,
            status="pending",
            assignee=row.assignee or None,
            attempts=row.attempts,
            progress=0,
            reserved_by="",
            reserved_until=None,
        )
        self._announce_ready(row)

    def edit_task(self, task: TaskRow | str, changes: Mapping[str, Any], reason: str) -> None:
        """Change what a pending or blocked task says: title, description, estimated_duration (seconds), not_before."""
        row = self._row(task)
        self._expect(row, TaskStatus.PENDING, TaskStatus.BLOCKED)
        before = {name: getattr(row, name) for name in changes if hasattr(row, name)}
        for name in before:
            setattr(row, name, changes[name])
        self._change(row, **changes)
        stream = "task_todo" if row.assignee else ""
        self.journal.publish(row, TASK_EDITED, stream, before=before, after=dict(changes), reason=reason)

    def assign_task(self, task: TaskRow | str, assignee: str, reason: str) -> None:
        """Give a pending or blocked task to another Nova, or to all who may take it (empty)."""
        row = self._row(task)
        self._expect(row, TaskStatus.PENDING, TaskStatus.BLOCKED)
        before, row.assignee = {"assignee": row.assignee}, assignee
        self._change(row, assignee=assignee or None, reserved_by="", reserved_until=None)
        after = {"assignee": assignee, "was": row.status}
        self.journal.publish(row, TASK_ASSIGNED, "task_todo", before=before, after=after, reason=reason)
        if row.status == TaskStatus.PENDING:
            self._announce_ready(row)

    def change_dependencies(self, task: TaskRow | str, *, add: Iterable[str], remove: Iterable[str], reason: str) -> None:
        """Let a pending task wait for others, or not any more. The caller has seen to it that nothing waits in a circle."""
        row = self._row(task)
        self._expect(row, TaskStatus.PENDING)
        before = sorted(TaskDependency.objects.filter(task=row.id).values_list("depends_on", flat=True))
        after = sorted((set(before) | set(add)) - set(remove))
        TaskDependency.objects.filter(task=row.id).exclude(depends_on__in=after).delete()
        bulk.insert(TaskDependency, ("task", "depends_on"), [(row.id, other) for other in after if other not in before])
        done = Task.objects.filter(id__in=after, outcome=Outcome.SUCCEEDED).count()
        self._change(row, waiting_on=len(after) - done)
        change = {"dependencies": before}, {"dependencies": after}
        self.journal.note(row, TASK_EDITED, change[1], before=change[0], reason=reason)
        if done == len(after):
            self._announce_ready(row)

    def block_task(
        self,
        task: TaskRow | str,
        *,
        owner: str,
        action: str,
        reason: str,
        results: str = "",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Stop work on a task until `owner` has done `action`: the dead-letter list is made of these."""
        row = self._row(task)
        self._expect(row, TaskStatus.PENDING, TaskStatus.IN_PROGRESS)
        after = {"owner": owner, "action": action, "work_type": row.work_type, "was": row.status}
        row.status, row.blocked_at = "blocked", self.now
        changes: dict[str, Any] = {"status": "blocked", "blocked_at": self.now, "block_owner": owner[:64]}
        changes |= {"block_action": action[:200], "block_reason": reason, "reserved_by": "", "reserved_until": None}
        if results:
            changes |= {"results": results, "metrics": bulk.json_text(metrics or {})}
        self._change(row, **changes)
        extra: Any = {"update": reason, "progress_percentage": str(row.progress), "block_owner": owner, "block_action": action}
        if results:
            extra["results"] = results
        self.journal.publish(row, TASK_BLOCKED, "task_progress", after=after, reason=reason, **extra)

    def unblock_task(self, task: TaskRow | str, reason: str) -> None:
        """Put a blocked task back to pending with fresh attempts."""
        row = self._row(task)
        self._expect(row, TaskStatus.BLOCKED)
        if row.blocked_at:
            row.blocked_seconds += (self.now - row.blocked_at).total_seconds()
        row.status = "pending"
        self._change(
            row,
            status="pending",
            blocked_at=None,
            blocked_seconds=row.blocked_seconds,
            block_owner="",
            block_action="",
            block_reason="",
            attempts=row.attempts,
            max_attempts=row.attempts + 3,
            not_before=None,
        )
        if row.assignee:
            self.journal.publish(row, TASK_UNBLOCKED, "task_todo", reason=reason)
            self._wake.add(row.assignee)
        else:
            self.journal.note(row, TASK_UNBLOCKED, None, reason=reason)
            self._open_teams.append(row.team)

    def hasten_task(self, task: TaskRow | str, reason: str) -> None:
        """Let a task that failed be tried again without its wait."""
        row = self._row(task)
        self._expect(row, TaskStatus.PENDING)
        self._change(row, not_before=None)
        self.journal.note(row, TASK_RETRIED, {"not_before": None}, reason=reason)
        self._announce_ready(row)

    def set_priority(self, task: TaskRow | str, priority: Priority, reason: str) -> None:
        """Give a pending or blocked task another place in the order."""
        row = self._row(task)
        self._expect(row, TaskStatus.PENDING, TaskStatus.BLOCKED)
        before = {"priority": row.priority}
        row.priority = priority.value
        self._change(row, priority=priority.value, order_at=order_at(priority, row.created_at))
        stream = "task_todo" if row.assignee else ""
        self.journal.publish(row, TASK_RANKED, stream, before=before, after={"priority": row.priority}, reason=reason)

    def record_insights(self, row: TaskRow, insights: Mapping[str, str]) -> None:
        """Keep a completed task's reflection with it."""
        row.changes["insights"] = bulk.json_text(insights)

    def add_rows(self, rows: Iterable[TaskRow]) -> None:
        """Let the verbs work on tasks that the caller has loaded (under a lease of its own)."""
        self._rows |= {row.id: row for row in rows}

    # -- writing

    def flush(self) -> None:
        """Write what was collected: tasks, dependencies, wakes, journal with outbox.

        :raises IllegalTaskMove: a task was changed by somebody else meanwhile; the transaction must be rolled back.
        """
        self.write_changes()
        self._settle_dependencies()
        bulk.insert(Task, CREATED_COLUMNS, self._created)
        bulk.insert(TaskDependency, ("task", "depends_on"), self._dependencies)
        self._release_dependants()
        self._close_objectives()
        self._stop_executions()
        self._block_orphans()
        waking.mark_due(self._wake, now=self.now)
        waking.mark_idle_due(self._open_teams, now=self.now)
        audit.record(self.journal.entries, now=self.now)

    def write_changes(self) -> None:
        """Write the changed tasks, each under its fence, one statement for each kind of change."""
        kinds: dict[tuple[bool, tuple[str, ...]], list[list[Any]]] = {}
        changed = 0
        for row in self._rows.values():
            if row.changes:
                kind = row.keeps_fence, tuple(row.changes)
                kinds.setdefault(kind, []).append([row.id, row.fence, self.now, *row.changes.values()])
                row.fence += not row.keeps_fence
                row.changes = {}
                changed += 1
        written = 0
        for (keeps_fence, columns), values in kinds.items():
            fence = "" if keeps_fence else "fence = t.fence + 1"
            written += bulk.update_counted(Task, ("id", "fence"), ("updated_at", *columns), values, extra_set=fence)
        if written != changed:
            raise IllegalTaskMove("A task was changed by somebody else meanwhile; nothing was changed. Look again.")

    def _settle_dependencies(self) -> None:
        """Don't let new tasks wait for what has already succeeded."""
        if not self._dependencies:
            return
        wanted = {other for _, other in self._dependencies}
        # the lock makes a dependency that ends just now either visible here, or see our rows when it ends
        found = Task.objects.select_for_update().filter(id__in=wanted).order_by("id").values_list("id", "outcome")
        done = {task_id for task_id, outcome in found if outcome == Outcome.SUCCEEDED}
        if not done:
            return
        settled = Counter(task_id for task_id, other in self._dependencies if other in done)
        for values in self._created:
            if count := settled[values[0]]:
                values[WAITING_ON] -= count
                if not values[WAITING_ON]:
                    self._became_ready(values[ASSIGNEE], values[TEAM])

    def _release_dependants(self) -> None:
        """Count down what waited for the tasks that succeeded; wake who may work on what became ready."""
        if not self._succeeded:
            return
        finished = bulk.members(self._succeeded)
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE workflow_task SET fence = fence + 1, updated_at = %s, waiting_on = waiting_on - (SELECT count(*) "  # noqa: S608
                "FROM workflow_taskdependency d WHERE d.task_id = workflow_task.id "
                f"AND {bulk.membership('d.depends_on')}) WHERE id IN (SELECT d.task_id FROM workflow_taskdependency d "
                f"WHERE {bulk.membership('d.depends_on')}) RETURNING assignee_id, team, waiting_on",
                [self.now, finished, finished],
            )
            for assignee, team, waiting_on in cursor.fetchall():
                if not waiting_on:
                    self._became_ready(assignee, team)

    def _announce_ready(self, row: TaskRow) -> None:
        """Wake who may work on a pending task; agents look by themselves."""
        if row.executor != AGENT:
            self._became_ready(row.assignee, row.team)

    def _became_ready(self, assignee: str | None, team: str) -> None:
        if assignee:
            self._wake.add(assignee)
        else:
            self._open_teams.append(team)

    def _close_objective(self, row: TaskRow) -> None:
        if row.work_type == WorkType.STRATEGIC:
            self._objectives_closed.append(row.id)

    def _close_objectives(self) -> None:
        """Let the planner make an objective's next item."""
        if self._objectives_closed:
            Objective.objects.filter(open_task_id__in=self._objectives_closed).update(open_task_id="")

    def _stop_executions(self) -> None:
        """Let the hosts stop what runs for cancelled tasks."""
        if self._cancelled:
            running = Execution.objects.filter(task_id__in=self._cancelled, finished_at=None)
            running.update(status=Execution.Status.CANCELLED, finished_at=self.now)

    def _block_orphans(self) -> None:
        """Block what waits for a cancelled task: it would wait for ever."""
        if not self._cancelled:
            return
        waiting = Task.objects.filter(dependencies__depends_on__in=self._cancelled, status=TaskStatus.PENDING)
        for values in waiting.values_list(*ROW_COLUMNS).distinct():
            row = task_row(values)
            self._rows[row.id] = row
            self.block_task(
                row,
                owner="operator",
                action="cancel this task, or create it anew without the cancelled dependency",
                reason="A task it depends on was cancelled.",
            )
        self._cancelled.clear()
        self.write_changes()

    # -- details

    def _row(self, task: TaskRow | str) -> TaskRow:
        if isinstance(task, TaskRow):
            self._rows[task.id] = task
            return task
        if task not in self._rows:
            values = Task.objects.filter(id=task).values_list(*ROW_COLUMNS).first()
            if values is None:
                raise TaskNotFound(f"There is no task {task}; nothing was changed.")
            self._rows[task] = task_row(values)
        return self._rows[task]

    @staticmethod
    def _expect(row: TaskRow, *statuses: TaskStatus) -> None:
        if row.status not in statuses:
            allowed = " or ".join(statuses)
            raise IllegalTaskMove(f"Task {row.id} is {row.status}; that needs {allowed}. Nothing was changed.")

    def _change(self, row: TaskRow, **columns: Any) -> None:
        self._rows[row.id] = row
        row.changes |= columns

    def _finish(
        self,
        row: TaskRow,
        outcome: Outcome,
        action: str,
        results: str,
        metrics: Mapping[str, Any] | None,
        reason: str = "",
    ) -> None:
        text = bulk.json_text(metrics or {})
        after = self._sums_of(row, outcome, metrics or {})
        row.status = "completed"
        progress = 100 if outcome is Outcome.SUCCEEDED else row.progress
        self._change(
            row,
            status="completed",
            outcome=outcome.value,
            completed_at=self.now,
            progress=progress,
            results=results,
            metrics=text,
            reserved_by="",
            reserved_until=None,
        )
        extra: Any = {"completed_at": self.journal.stamp, "results": results, "metrics": text, "outcome": outcome.value}
        stream = "task_completed" if row.assignee else ""
        self.journal.publish(row, action, stream, after=after, reason=reason, **extra)

    def _sums_of(self, row: TaskRow, outcome: Outcome, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Give what the journal says of a task's end beside its message: what figures are summed from, no text."""
        came_late = row.status == TaskStatus.IN_PROGRESS and row.blocked_at and "blocked_at" in row.changes
        was = TaskStatus.BLOCKED.value if came_late else row.status
        after: dict[str, Any] = {"outcome": outcome.value, "work_type": row.work_type, "was": was}
        if outcome is Outcome.SUCCEEDED:
            after["evidence"] = bool(metrics.get("evidence")) or not _MEASURED.isdisjoint(metrics)
            after["lead_ms"] = _milliseconds(row.created_at, self.now)
            if row.started_at:
                after["work_ms"] = _milliseconds(row.started_at, self.now)
        return after


def _milliseconds(begin: datetime, end: datetime) -> int:
    return max(0, round((end - begin).total_seconds() * 1000))
