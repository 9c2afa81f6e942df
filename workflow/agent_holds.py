"""What agents hold: the rows of their tasks, who holds which under what fence, and what their Novas may do.

The ground under claims and reports; it finds, locks and judges, and must not decide what becomes of a task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db import connection

from safety.bulk import instant, members, membership
from safety.models import AuditEntry
from workflow import halts
from workflow.core.completion import LEVELS
from workflow.core.cycle import on_grid
from workflow.core.work import AGENT, Outcome, TaskStatus
from workflow.errors import WorkflowError
from workflow.models import NovaState
from workflow.services import STOPPED, NovaNotFound
from workflow.task_rows import ROW_COLUMNS, TaskRow, task_row
from workflow.task_tracker import TASK_STARTED, TaskNotFound

LEASE_LEAST, LEASE_MOST = 5.0, 900.0  # seconds
LAPSED = "lapsed"  # in reserved_by of a task blocked because its agents fell silent: its last agent may still complete it
_MORE = ("metadata", "reserved_until", "reserved_by", "claimed_open", "outcome")
COLUMNS = ", ".join(f"t.{name}" for name in (*ROW_COLUMNS, *_MORE))

_SOON = timedelta(microseconds=1)


class TaskLeaseLost(WorkflowError):
    """The task is not held under that fence (any more); nothing was changed."""


class ClaimRefused(WorkflowError):
    """The Nova's agent may claim nothing, as the Nova is configured."""


@dataclass(slots=True)
class Held:
    """A task's row with what tells who holds it."""

    row: TaskRow
    metadata: Any
    until: datetime | None
    held_by: str
    was_open: bool | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Standing:
    """The Nova whose agent calls: what it may do, and what is needed to speak for it."""

    nova_id: str
    mode: str
    mode_reason: str
    mode_since: datetime | None
    engine_holds: bool  # a step of it is under way
    team: str
    default_executor: str
    allowed_executors: frozenset[str]
    pattern: str  # how it speaks
    room: int  # tasks that it may have in hand
    is_safe: bool
    unsafe_since: datetime | None
    mechanism: str
    objection: str
    unsafe_until: datetime | None

    @property
    def executors(self) -> list[str]:
        """The executors of the tasks that its agent takes."""
        return [AGENT, ""] if self.default_executor == AGENT else [AGENT]

    @property
    def clock_stands_since(self) -> datetime | None:
        """Since when leases don't run out; None while they do."""
        if self.mode in STOPPED:
            return self.mode_since
        return None if self.is_safe else self.unsafe_since

    def demand_may_claim(self) -> None:
        """Refuse where the agent may begin nothing, in the words of `halts.demand_may_act`.

        :raises NovaStopped: it is stopped or unsafe. :raises ClaimRefused: it may not use the executor `agent`.
        """
        if self.mode != NovaState.Mode.RUNNING:
            reason = self.mode_reason or "no reason was given"
            raise halts.NovaStopped(f"Nova {self.nova_id} is {self.mode}: {reason}.", mechanism=self.mode)
        if not self.is_safe:
            raise halts.NovaStopped(self.objection, mechanism=self.mechanism, until=self.unsafe_until)
        if AGENT not in self.allowed_executors:
            raise ClaimRefused(
                f"Nova {self.nova_id} may not use the executor agent, so its agent can claim nothing. An operator can allow it."
            )


def standing_of(nova_id: str, *, lock: bool = False) -> Standing:
    """Load the Nova, and lock its state row.

    :raises NovaNotFound: there is none.
    """
    skip = " FOR NO KEY UPDATE OF s" if lock and connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT s.mode, s.mode_reason, s.mode_since, s.lease_holder, n.team, n.default_executor, n.allowed_executors, "  # noqa: S608
            "p.communication_pattern, q.max_concurrent_tasks, v.is_safe, v.since, v.mechanism, v.reason, v.until "
            "FROM workflow_novastate s JOIN workflow_nova n ON n.nova_id = s.nova_id "
            "JOIN workflow_personality p ON p.slug = n.personality_id JOIN safety_safetypolicy q ON q.slug = n.policy_id "
            f"LEFT JOIN safety_safetystate v ON v.nova_id = s.nova_id WHERE s.nova_id = %s{skip}",
            [nova_id],
        )
        row = cursor.fetchone()
    if row is None:
        raise NovaNotFound(f"There is no Nova {nova_id}.")
    mode, why, mode_since, holder, team, default, allowed, pattern, room, is_safe, since, mechanism, reason, until = row
    return Standing(
        nova_id, mode, why, instant(mode_since), bool(holder), team, default,
        frozenset(orjson.loads(allowed) if isinstance(allowed, str) else allowed), pattern, room,
        is_safe is None or bool(is_safe), instant(since), mechanism or "", reason or "", instant(until),
    )  # fmt: skip


def lapsed(reach: str, values: Sequence[Any], now: datetime) -> tuple[str, list[Any]]:
    """Give FROM and WHERE for what agents hold under leases that have ended, with the parameters.

    While a Nova is stopped or unsafe its leases' clock stands; after a safety pause its agent has a whole lease to come back.
    """
    stopped = ", ".join(f"'{mode}'" for mode in sorted(STOPPED))
    select = (
        "FROM workflow_task t JOIN workflow_novastate s ON s.nova_id = t.assignee_id "  # noqa: S608
        "LEFT JOIN safety_safetystate v ON v.nova_id = t.assignee_id "
        "WHERE t.status = 'in_progress' AND t.claimed_open IS NOT NULL AND t.reserved_until < %s "
        f"AND s.mode NOT IN ({stopped}) AND (v.nova_id IS NULL OR (v.is_safe = %s AND (v.since IS NULL OR v.since < %s))) "
        f"AND {reach}"
    )
    return select, [now, True, now - timedelta(seconds=settings.AGENT_LEASE_SECONDS), *values]


def held_row(values: Sequence[Any]) -> Held:
    count = len(ROW_COLUMNS)
    row = task_row(values[:count])
    for name in ("created_at", "started_at", "blocked_at", "order_at"):
        setattr(row, name, instant(getattr(row, name)))
    row.personal = bool(row.personal)
    metadata, until, held_by, was_open, outcome = values[count:]
    return Held(row, metadata, instant(until), held_by, None if was_open is None else bool(was_open), outcome)


def lease_for(seconds: float | None) -> timedelta:
    given = settings.AGENT_LEASE_SECONDS if seconds is None else seconds
    return timedelta(seconds=min(max(given, LEASE_LEAST), LEASE_MOST))


def lock_tasks(task_ids: Sequence[str]) -> dict[str, Held]:
    """Load and lock tasks, and on PostgreSQL what waits for them, in the order that all writers keep."""
    found, values = membership("t.id"), [members(task_ids)]
    if connection.vendor == "postgresql":
        found = (
            "t.id = ANY(ARRAY(SELECT unnest(%s::text[]) UNION SELECT task_id "  # noqa: S608
            f"FROM workflow_taskdependency WHERE {membership('depends_on')})) ORDER BY t.id FOR UPDATE OF t"
        )
        values.append(members(task_ids))
    wanted = set(task_ids)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {COLUMNS} FROM workflow_task t WHERE {found}", values)  # noqa: S608
        return {row[0]: held_row(row) for row in cursor.fetchall() if row[0] in wanted}


def lock_one(nova_id: str, task_id: str, fence: int) -> Held:
    """Give a task that a Nova's agent holds under a fence.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    held = judge(nova_id, lock_tasks([task_id]).get(task_id), task_id, fence)
    if isinstance(held, WorkflowError):
        raise held
    return held


def judge(nova_id: str, held: Held | None, task_id: str, fence: int, *, ending: bool = False) -> "Held | WorkflowError":
    """Say whether a Nova's agent holds a task under a fence; `ending`: an end is accepted in two more cases."""
    if held is None or (held.row.assignee != nova_id and not _was_held(nova_id, task_id)) or held.row.personal:
        return TaskNotFound(f"There is no task {task_id} of Nova {nova_id}; nothing was changed.")
    row = held.row
    if row.assignee == nova_id:
        if row.status == TaskStatus.IN_PROGRESS and held.was_open is not None and row.fence == fence:
            return held
        if ending and row.fence == fence + 1:
            given_up = row.status == TaskStatus.BLOCKED and held.held_by == LAPSED
            if given_up or is_repeated(held):
                return held
    stands = f"with {row.assignee or 'nobody'}, {row.status}"
    return TaskLeaseLost(
        f"Task {task_id} is not held under the fence {fence} any more: it is {stands}. Nothing was changed. Stop working on it "
        "and claim again."
    )


def is_repeated(held: Held) -> bool:
    return held.row.status == TaskStatus.COMPLETED and held.outcome == Outcome.SUCCEEDED and held.was_open is not None


def _was_held(nova_id: str, task_id: str) -> bool:
    """Whether this Nova once worked on a task that is another's now: then it may know what became of it."""
    return AuditEntry.objects.filter(object_id=task_id, nova_id=nova_id, action=TASK_STARTED).exists()


def is_late(held: Held, stands_since: datetime | None, now: datetime) -> bool:
    return held.until is not None and held.until < (stands_since or now)


def short_title(title: str) -> str:
    return title if len(title) <= 120 else f"{title[:117]}..."


def note_moves(nova_id: str, now: datetime, *, completed: int = 0, level: str = "quiet", engine_off: bool = False) -> None:
    """Let the Nova know what its agent did: it is due within a quarter of a second, together with others.

    `engine_off`: a step under way is fenced off, since it could take a task into a slot that is the agent's now.
    """
    soon = on_grid(now + _SOON)
    more = ", agent_level = %s" if completed else ""
    values: list[Any] = [completed, now, soon, soon, *([LEVELS.index(level)] if completed else []), nova_id]
    if engine_off:
        more += ", fence = fence + 1, lease_holder = '', lease_until = NULL, crashes = 0"
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE workflow_novastate SET agent_completed = agent_completed + %s, last_task_change = %s, "  # noqa: S608
            f"due_at = CASE WHEN due_at > %s THEN %s ELSE due_at END, wakes = wakes + 1{more} WHERE nova_id = %s",
            values,
        )
