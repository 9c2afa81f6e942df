"""The engine's eyes: claims due Novas and loads what their steps need, in as many queries for one Nova as for a batch.

Reads and reserves only; nothing is decided here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from safety.bulk import instant, json_text, members, membership, update_counted
from workflow.core.state import WorkflowStateData
from workflow.core.work import (
    ExecutionFacts,
    ObjectiveFacts,
    Priority,
    Signal,
    SimilarTasks,
    TaskFacts,
    TaskStatus,
    WorkType,
    similarity_key,
)
from workflow.models import NovaState, Objective, TaskStatistics
from workflow.state_rows import LOADED, state_data
from workflow.task_rows import ROW_COLUMNS, TaskRow
from workflow.waking import lock_states

_ASSIGNED_LOOKAHEAD = 3  # ready tasks loaded for each Nova beyond its free slots
SIGNALS = 64  # inbox rows loaded for each Nova
_PRIORITIES = {priority.value: priority for priority in Priority}
_WORK_TYPES = {kind.value: kind for kind in WorkType}
_STATUSES = {status.value: status for status in TaskStatus}
_UNFINISHED = "status IN ('pending', 'in_progress')"  # word for word as in the index task_mine, or SQLite does not use it
_LOADED_TASK = (*ROW_COLUMNS, "not_before", "updated_at")
_KIND = "team || ' ' || executor"  # as kind_of() writes it
_RETURNED = ", ".join(_LOADED_TASK)
_TASK_COLUMNS = ", ".join(f"t.{name}" for name in _LOADED_TASK)


@dataclass(slots=True)
class Claimed:
    """A Nova in hand: its state and the fence under which it may be written."""

    nova_id: str
    fence: int
    crashes: int
    wakes: int
    draining: bool
    due_at: datetime
    mode_since: datetime | None
    last_task_change: datetime | None
    agent_completed: int  # tasks its agent has completed so far, and the celebration level of the newest
    agent_level: int
    state: WorkflowStateData


@dataclass(slots=True)
class Gathered:
    """What was loaded for a batch, by Nova."""

    held: dict[str, list[TaskFacts]] = field(default_factory=dict)
    assigned: dict[str, list[TaskFacts]] = field(default_factory=dict)
    signals: dict[str, list[Signal]] = field(default_factory=dict)
    rows: dict[str, TaskRow] = field(default_factory=dict)  # by task id, for the tracker
    ready_since: dict[str, datetime] = field(default_factory=dict)  # by task id: nobody could take it earlier
    similar: dict[str, SimilarTasks] = field(default_factory=dict)
    objectives: list[ObjectiveFacts] = field(default_factory=list)
    reserved: list[TaskFacts] = field(default_factory=list)
    open_left: list[str] = field(default_factory=list)  # the teams of up to three open tasks beyond the reserved ones


def claim(holder: str, limit: int, *, now: datetime, suspects: bool) -> list[Claimed]:
    """Lease up to `limit` due Novas, the longest due first, and load their states.

    A Nova whose last claim ended without a commit is suspected of killing its worker: suspects are claimed by themselves.
    """
    skip = " FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    trust = "crashes > 0" if suspects else "crashes = 0"
    chosen = (
        "SELECT nova_id FROM workflow_novastate WHERE mode IN ('running', 'draining') AND due_at <= %s "  # noqa: S608
        f"AND (lease_until IS NULL OR lease_until < %s) AND {trust} ORDER BY due_at LIMIT %s{skip}"
    )
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE workflow_novastate SET lease_holder = %s, lease_until = %s, fence = fence + 1, crashes = crashes + 1 "  # noqa: S608
            f"WHERE {_one_of('nova_id', chosen)} RETURNING {', '.join(LOADED)}",
            [holder, now + timedelta(seconds=settings.LEASE_SECONDS), now, now, limit],
        )
        rows = cursor.fetchall()
    return [
        Claimed(
            row[0],
            row[1],
            row[2],
            row[3],
            row[4] == "draining",
            instant(row[5]),
            instant(row[6]),
            instant(row[7]),
            row[8],
            row[9],
            state_data(row),
        )
        for row in rows
    ]


def give_back(claimed: Sequence[Claimed]) -> None:
    """Let go of Novas that could not be stepped, as if they had not been claimed."""
    rows = [(nova.nova_id, nova.fence, max(nova.crashes - 1, 0), None, "") for nova in claimed]
    with transaction.atomic():
        lock_states([nova.nova_id for nova in claimed])
        update_counted(NovaState, ("nova", "fence"), ("crashes", "lease_until", "lease_holder"), rows)


def next_due(*, now: datetime) -> datetime | None:
    """Give the instant at which the next Nova that nobody holds is due; None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT due_at FROM workflow_novastate WHERE mode IN ('running', 'draining') "
            "AND (lease_until IS NULL OR lease_until < %s) ORDER BY due_at LIMIT 1",
            [now],
        )
        row = cursor.fetchone()
    return instant(row[0]) if row else None


def reserve(holder: str, limit: int, kinds: Collection[str], gathered: Gathered, *, now: datetime) -> int:
    """Reserve open tasks of these kinds for this engine until its lease would end, the most urgent first; give how many."""
    skip = " FOR UPDATE SKIP LOCKED" if connection.vendor == "postgresql" else ""
    ready, values = open_tasks(kinds, now)
    chosen = f"SELECT id FROM {ready} ORDER BY order_at, id LIMIT %s{skip}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE workflow_task SET reserved_by = %s, reserved_until = %s, fence = fence + 1 "  # noqa: S608
            f"WHERE {_one_of('id', chosen)} RETURNING {_RETURNED}",
            [holder, now + timedelta(seconds=settings.LEASE_SECONDS), *values, limit],
        )
        rows = cursor.fetchall()
    gathered.reserved += [_task(row, gathered, None, 0) for row in rows]
    gathered.reserved.sort(key=lambda task: (task.order_at, task.id))
    return len(rows)


def look_left(kinds: Collection[str], gathered: Gathered, *, now: datetime) -> None:
    """Look how many open tasks of these kinds are left, up to three."""
    ready, values = open_tasks(kinds, now)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT team FROM {ready} ORDER BY order_at, id LIMIT 3",  # noqa: S608
            values,
        )
        gathered.open_left = [row[0] for row in cursor.fetchall()]


def kind_of(team: str, executor: str) -> str:
    """Name what decides which Novas may take an open task: its team and its executor; either may be empty."""
    return f"{team} {executor}"


def open_tasks(kinds: Collection[str], now: datetime) -> tuple[str, list[Any]]:
    """Give what stands after FROM to find the open tasks of these kinds that are ready, with its parameters.

    SQLite must be told the index: it would read all that is pending and sort it.
    """
    table = "workflow_task INDEXED BY task_open" if connection.vendor == "sqlite" else "workflow_task"
    ready = (
        f"{table} WHERE status = 'pending' AND assignee_id IS NULL AND waiting_on = 0 "
        "AND (not_before IS NULL OR not_before <= %s) "
        f"AND (reserved_until IS NULL OR reserved_until < %s) AND {membership(_KIND)}"
    )
    return ready, [now, now, members(sorted(kinds))]


def _one_of(column: str, select: str) -> str:
    """Give the condition that a column is among what `select` gives.

    An array on PostgreSQL, which may run a plain subquery more than once and lock other rows each time.
    """
    return f"{column} = ANY(ARRAY({select}))" if connection.vendor == "postgresql" else f"{column} IN ({select})"


def gather(nova_ids: Sequence[str], teams: Collection[str], *, now: datetime) -> Gathered:
    """Load held and assigned tasks with their executions, signals, statistics and objectives of a batch."""
    gathered = Gathered()
    _load_tasks(nova_ids, gathered, now)
    _load_signals(nova_ids, gathered)
    _load_similar(gathered)
    _load_objectives(nova_ids, teams, gathered, now)
    return gathered


def _load_tasks(nova_ids: Sequence[str], gathered: Gathered, now: datetime) -> None:
    ready = (  # what each Nova may start now
        f"SELECT id FROM workflow_task WHERE assignee_id = n.value AND {_UNFINISHED} AND status = 'pending' AND waiting_on = 0 "  # noqa: S608
        "AND executor <> 'agent' AND (not_before IS NULL OR not_before <= %s) "
        "AND (reserved_until IS NULL OR reserved_until < %s) ORDER BY order_at, id LIMIT %s"
    )
    if connection.vendor == "sqlite":
        source = f"json_each(%s) n JOIN workflow_task t ON t.id IN ({ready})"
    else:
        source = f"jsonb_array_elements_text(%s::jsonb) n CROSS JOIN LATERAL ({ready}) r JOIN workflow_task t ON t.id = r.id"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_TASK_COLUMNS} FROM {source}", [json_text(nova_ids), now, now, 64 + _ASSIGNED_LOOKAHEAD])  # noqa: S608
        for row in cursor.fetchall():
            gathered.assigned.setdefault(row[6], []).append(_task(row, gathered, None, 0))
        cursor.execute(
            f"SELECT {_TASK_COLUMNS}, e.id, e.attempt, e.status, e.results, e.metrics, e.error, e.retryable, e.needs, "  # noqa: S608
            "e.progress, e.started_at, e.finished_at, e.not_before, "
            "(SELECT count(*) FROM workflow_taskdependency d WHERE d.depends_on = t.id) "
            "FROM workflow_task t LEFT JOIN workflow_execution e ON e.task_id = t.id AND e.attempt = t.attempts "
            f"WHERE t.{_UNFINISHED} AND t.status = 'in_progress' AND {membership('t.assignee_id')}",
            [members(nova_ids)],
        )
        for row in cursor.fetchall():
            execution = _execution(row[-13:-1]) if row[-13] is not None else None
            gathered.held.setdefault(row[6], []).append(_task(row, gathered, execution, row[-1]))
    for tasks in gathered.assigned.values():
        tasks.sort(key=lambda task: (task.order_at, task.id))


def _task(row: Sequence[Any], gathered: Gathered, execution: ExecutionFacts | None, dependants: int) -> TaskFacts:
    (task_id, title, description, status, priority, work_type, assignee, team, executor, action, estimated, created_at,
     started_at, attempts, max_attempts, progress, blocked_at, blocked_seconds, order_at, fence, personal, cause,
     not_before, updated_at) = row[:24]  # fmt: skip
    created, started, order = instant(created_at), instant(started_at), instant(order_at)
    allowed = instant(not_before)
    gathered.ready_since[task_id] = max(filter(None, (created, allowed, instant(updated_at))))
    gathered.rows[task_id] = TaskRow(
        task_id, title, description, status, priority, work_type, assignee or "", team, executor, action, estimated, created,
        started, attempts, max_attempts, progress, instant(blocked_at), blocked_seconds, order, fence, bool(personal), cause,
    )  # fmt: skip
    return TaskFacts(
        task_id, title, description, _PRIORITIES[priority], _WORK_TYPES[work_type], created, order, _STATUSES[status], executor,
        action, assignee or "", team, timedelta(seconds=estimated), started, attempts, max_attempts, progress,
        allowed, timedelta(seconds=blocked_seconds), dependants, bool(personal), cause, execution,
    )  # fmt: skip


def _execution(row: Sequence[Any]) -> ExecutionFacts:
    execution_id, attempt, status, results, metrics, error, retryable, needs, progress, started_at, finished_at, not_before = (
        row
    )
    return ExecutionFacts(
        execution_id,
        attempt,
        status,
        results,
        _json(metrics) or {},
        error,
        bool(retryable),
        _json(needs) or {},
        progress,
        instant(started_at),
        instant(finished_at),
        instant(not_before),
    )


def _json(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value


def _load_signals(nova_ids: Sequence[str], gathered: Gathered) -> None:
    """Load the oldest waiting inbox rows of each Nova: one that is flooded does not hide the others'."""
    waiting = "SELECT id FROM workflow_inboxmessage WHERE nova_id = n.value AND status = 'waiting' ORDER BY id LIMIT %s"
    if connection.vendor == "sqlite":
        source = f"json_each(%s) n JOIN workflow_inboxmessage m ON m.id IN ({waiting})"
    else:
        source = (
            f"jsonb_array_elements_text(%s::jsonb) n CROSS JOIN LATERAL ({waiting}) w "
            "JOIN workflow_inboxmessage m ON m.id = w.id"
        )
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT m.nova_id, m.id, m.kind, m.stream, m.fields, m.received_at, m.entry_id FROM {source} ORDER BY m.id",  # noqa: S608
            [json_text(nova_ids), SIGNALS],
        )
        for nova_id, signal_id, kind, stream, fields, received_at, entry_id in cursor.fetchall():
            signal = Signal(signal_id, kind, stream, _json(fields), instant(received_at), entry_id)
            gathered.signals.setdefault(nova_id, []).append(signal)


def _load_similar(gathered: Gathered) -> None:
    keys = {
        similarity_key(task.work_type, task.executor, task.action)
        for tasks in gathered.held.values()
        for task in tasks
        if task.execution and task.execution.finished_at
    }
    found = TaskStatistics.objects.filter(key__in=keys).values_list("key", "count", "seconds") if keys else ()
    for key, count, seconds in found:
        gathered.similar[key] = SimilarTasks(count, timedelta(seconds=seconds / count) if count else timedelta(0))


def _load_objectives(nova_ids: Sequence[str], teams: Collection[str], gathered: Gathered, now: datetime) -> None:
    whose = Q(nova_id__in=nova_ids) | Q(nova=None, team__in={"", *teams})
    due = Objective.objects.filter(whose, due_at__lte=now, archived_at=None, open_task_id="").order_by("due_at")[:100]
    gathered.objectives = [
        ObjectiveFacts(
            row.pk,
            row.title,
            row.description,
            _PRIORITIES[row.priority],
            timedelta(seconds=row.cadence),
            row.due_at,
            row.until,
            row.nova_id or "",
            row.team,
        )
        for row in due
    ]
