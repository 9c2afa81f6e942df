"""The life of a task in an agent's hands: claimed under a lease, renewed, reported on, ended, or taken over.

The one service behind every door for agents. An agent is known by its Nova's id; whoever knows a task's fence holds it. What a
success is worth is judged by the workflow's core, just as for an execution; the Nova's next cycle counts it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import orjson
from django.db import connection, transaction

from safety.audit import Entry
from safety.bulk import instant, members, membership
from safety.models import SafetyState
from workflow import halts, waking
from workflow.agent_claims import CLAIM_LIMIT as CLAIM_LIMIT
from workflow.agent_claims import ClaimedTask as ClaimedTask
from workflow.agent_claims import block_hopeless as block_hopeless
from workflow.agent_claims import claim_tasks as claim_tasks
from workflow.agent_claims import whom_work_waits_for as whom_work_waits_for
from workflow.agent_holds import LEASE_LEAST as LEASE_LEAST
from workflow.agent_holds import LEASE_MOST as LEASE_MOST
from workflow.agent_holds import ClaimRefused as ClaimRefused
from workflow.agent_holds import (
    Held,
    is_late,
    is_repeated,
    judge,
    lease_for,
    lock_one,
    lock_tasks,
    note_moves,
    short_title,
    standing_of,
)
from workflow.agent_holds import TaskLeaseLost as TaskLeaseLost
from workflow.carrying import EffectCarrier
from workflow.committing import write_statistics
from workflow.core.completion import LEVELS
from workflow.core.personality import phrase
from workflow.core.tending import OPERATOR, recognise, retry_delay
from workflow.core.work import Outcome, Priority, SimilarTasks, TaskFacts, TaskStatus, WorkType, similarity_key
from workflow.errors import WorkflowError
from workflow.models import InboxMessage, NovaState
from workflow.task_rows import TaskRow
from workflow.task_tracker import TaskTracker

COMPLETION_REFUSED = "workflow.task.completion_refused"

_TEXT_LIMIT = 65_536  # characters of results: they travel in one stream field
_LATE = "It came after its lease had ended; nobody had taken the task over."


@dataclass(frozen=True, slots=True)
class Completion:
    """What an agent says of a task that it has done. `evidence`: where the proof is (addresses, digests, commits)."""

    task_id: str
    fence: int
    results: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    evidence: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a completion: the task as it stands now, or the problem because of which nothing was changed."""

    task_id: str
    status: str = ""
    outcome: str = ""
    late: bool = False  # it came after its lease had ended
    repeated: bool = False  # it was completed before, under the same fence
    celebration_level: str = ""
    insights: Mapping[str, str] = field(default_factory=dict)
    problem: WorkflowError | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a task is held."""

    task_id: str
    fence: int
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What an agent is told at a sign of life: what it holds, which order stands, whether its Nova may act, what waits."""

    leases: Sequence[Lease]
    order: halts.StandingOrder | None
    mode: str
    verdict: SafetyState | None
    unread: int


# -- while it is held


def renew_lease(nova_id: str, task_id: str, fence: int, *, now: datetime, lease_seconds: float | None = None) -> Lease:
    """Hold a task for another lease.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with transaction.atomic():
        held = lock_one(nova_id, task_id, fence)
        until = max(now + lease_for(lease_seconds), held.until or now)
        _renew(nova_id, until, "AND id = %s", [task_id])
    return Lease(task_id, fence, until)


def update_progress(
    nova_id: str,
    task_id: str,
    fence: int,
    *,
    now: datetime,
    percent: int | None = None,
    update: str = "",
    lease_seconds: float | None = None,
) -> Lease:
    """Say how far a task has come; the lease is renewed by it, the fence stays good.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with _reporting(now) as tracker:
        held = lock_one(nova_id, task_id, fence)
        row = held.row
        until = max(now + lease_for(lease_seconds), held.until or now)
        row.keeps_fence = True
        reached = row.progress if percent is None else percent
        said = update or phrase(standing_of(nova_id).pattern, "progress", title=short_title(row.title), percent=reached)
        tracker.update_progress(row, said, percent)
        row.changes["reserved_until"] = until
        note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return Lease(task_id, fence, until)


def heartbeat(nova_id: str, *, now: datetime, lease_seconds: float | None = None) -> Heartbeat:
    """Renew all that a Nova's agent holds, and tell it what stands: orders, verdict, messages. Always accepted."""
    with transaction.atomic():
        leases = _renew(nova_id, now + lease_for(lease_seconds), "AND reserved_until < %s", [now + lease_for(lease_seconds)])
        held = [*leases, *_longer(nova_id, {lease.task_id for lease in leases})]
        order = halts.standing_order(nova_id)
        if order is not None:
            halts.note_delivered(nova_id, now=now)
    mode = NovaState.objects.filter(nova=nova_id).values_list("mode", flat=True).first() or ""
    verdict = SafetyState.objects.filter(nova_id=nova_id).first()
    unread = InboxMessage.objects.filter(nova_id=nova_id, kind="signal", acked_at=None).exclude(status="rejected").count()
    return Heartbeat(sorted(held, key=lambda lease: lease.task_id), order, mode, verdict, unread)


_AGENTS_OWN = (
    "assignee_id = %s AND status IN ('pending', 'in_progress') AND status = 'in_progress' AND claimed_open IS NOT NULL"
)


def _renew(nova_id: str, until: datetime, which: str, values: Sequence[Any]) -> list[Lease]:
    found = f"SELECT id FROM workflow_task WHERE {_AGENTS_OWN} {which}"  # noqa: S608
    # in the order that all writers keep
    ours = f"id = ANY(ARRAY({found} ORDER BY id FOR UPDATE))" if connection.vendor == "postgresql" else f"id IN ({found})"
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE workflow_task SET reserved_until = %s WHERE {ours} RETURNING id, fence",  # noqa: S608
            [until, nova_id, *values],
        )
        return [Lease(task_id, fence, until) for task_id, fence in cursor.fetchall()]


def _longer(nova_id: str, others: set[str]) -> list[Lease]:
    """Give what is held under leases that end later than a renewal would let them."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id, fence, reserved_until FROM workflow_task WHERE {_AGENTS_OWN}", [nova_id])  # noqa: S608
        return [Lease(row[0], row[1], instant(row[2])) for row in cursor.fetchall() if row[0] not in others]


# -- its end


def complete_task(
    nova_id: str,
    task_id: str,
    fence: int,
    *,
    results: str,
    now: datetime,
    metrics: Mapping[str, Any] | None = None,
    evidence: Sequence[Any] = (),
) -> Ended:
    """Complete one task, as `complete_tasks` does.

    :raises TaskNotFound: there is none of this Nova's.
    :raises TaskLeaseLost: it is not held under this fence; what was sent is kept in the journal.
    """
    ended = complete_tasks(nova_id, [Completion(task_id, fence, results, metrics or {}, evidence)], now=now)[0]
    if ended.problem is not None:
        raise ended.problem
    return ended


def complete_tasks(nova_id: str, completions: Sequence[Completion], *, now: datetime) -> list[Ended]:
    """Complete tasks, in one transaction, with one answer for each; one that is refused doesn't hold up the others.

    1. Each is recognised as the workflow does it: celebrated, its insights kept, counted with its kind. 2. One that comes after
    its lease, before somebody else's claim, is accepted and called late. 3. One that comes after that is refused, and kept as
    evidence. 4. One that was completed before under the same fence changes nothing and is answered the same.
    """
    with _reporting(now) as tracker:
        found = lock_tasks([completion.task_id for completion in completions])
        carrier = EffectCarrier(tracker, {held.row.id: held.row for held in found.values()}, set(), set())
        judged = [judge(nova_id, found.get(c.task_id), c.task_id, c.fence, ending=True) for c in completions]
        accepted = [held for held in judged if isinstance(held, Held) and not is_repeated(held)]
        similar = _similar([held.row for held in accepted])
        standing = standing_of(nova_id)
        dependants = _dependants([held.row.id for held in accepted])
        answers: list[Ended] = []
        done = dict[str, Ended]()
        for completion, held in zip(completions, judged, strict=True):
            if isinstance(held, WorkflowError):
                if isinstance(held, TaskLeaseLost):
                    tracker.journal.entries.append(_refused(nova_id, completion, held))
                answers.append(Ended(completion.task_id, problem=held))
            elif completion.task_id in done:
                answers.append(replace(done[completion.task_id], repeated=True))
            elif is_repeated(held):
                answers.append(Ended(completion.task_id, "completed", held.outcome, repeated=True))
            else:
                late = held.row.status == TaskStatus.BLOCKED or is_late(held, standing.clock_stands_since, now)
                answer = _complete(carrier, held, completion, similar, standing.pattern, dependants, late=late)
                done[completion.task_id] = answer
                answers.append(answer)
        if done:
            newest = max((answer.celebration_level for answer in done.values()), key=LEVELS.index)
            note_moves(nova_id, now, completed=len(done), level=newest)
        tracker.flush()
        write_statistics(carrier)
    return answers


def _complete(
    carrier: EffectCarrier,
    held: Held,
    completion: Completion,
    similar: Mapping[str, SimilarTasks],
    pattern: str,
    dependants: Mapping[str, int],
    *,
    late: bool,
) -> Ended:
    row = held.row
    if row.status == TaskStatus.BLOCKED:  # because its agent seemed to be dead
        row.status = "in_progress"
        row.changes |= {"blocked_at": None, "block_owner": "", "block_action": "", "block_reason": ""}
    metrics = dict(completion.metrics)
    if completion.evidence:
        metrics["evidence"] = list(completion.evidence)
    if late:
        metrics["late"] = True
    known = similar.get(similarity_key(WorkType(row.work_type), row.executor, row.action))
    facts = _facts(row, dependants.get(row.id, 0))
    said = completion.results or phrase(pattern, "complete", title=short_title(row.title))
    effects, level = recognise(facts, known, pattern, carrier.now, said[:_TEXT_LIMIT], metrics, _LATE if late else "")
    carrier.carry_reported(row.assignee, effects)
    insights = orjson.loads(row.changes["insights"]) if "insights" in row.changes else {}
    return Ended(row.id, "completed", Outcome.SUCCEEDED.value, late, False, level, insights)


def fail_task(nova_id: str, task_id: str, fence: int, *, error: str, now: datetime, retryable: bool = True) -> str:
    """Say that an attempt failed: it is tried again after a backoff, or blocked when it is out of attempts. Give the status.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with _reporting(now) as tracker:
        row = lock_one(nova_id, task_id, fence).row
        reason = f"The agent reports a failure: {error}"
        if not retryable:
            action = f"correct what the error names, then unblock or cancel {row.id}"
            tracker.block_task(row, owner=OPERATOR, action=action, reason=reason)
        elif row.attempts < row.max_attempts:
            tracker.retry_task(row, not_before=now + retry_delay(row.id, row.attempts), reason=reason)
        else:
            action = f"remove the cause of the last error, then unblock or cancel {row.id}"
            tracker.block_task(row, owner=OPERATOR, action=action, reason=reason)
        note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return row.status


def block_task(
    nova_id: str, task_id: str, fence: int, *, owner: str, action: str, reason: str, now: datetime, results: str = ""
) -> str:
    """Say that only `owner` can go on, by doing `action`. Give the status.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with _reporting(now) as tracker:
        row = lock_one(nova_id, task_id, fence).row
        said = reason or f"{owner} must go on: {action}"
        tracker.block_task(row, owner=owner, action=action, reason=said, results=results[:_TEXT_LIMIT])
        note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return row.status


def release_task(nova_id: str, task_id: str, fence: int, *, now: datetime, reason: str = "") -> str:
    """Give a task back, to its assignee, or to all who may take it if it was open; the attempt doesn't count.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with _reporting(now) as tracker:
        held = lock_one(nova_id, task_id, fence)
        tracker.release_task(held.row, reason=reason, open_again=bool(held.was_open))
        note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return held.row.status


# -- details


@contextmanager
def _reporting(now: datetime) -> Iterator[TaskTracker]:
    """Give a tracker inside a transaction in which a Nova's agent acts; the loops hear of it after the commit."""
    with transaction.atomic():
        transaction.on_commit(partial(waking.knock, "loops"))
        yield TaskTracker(now=now, by_novas=True)


def _refused(nova_id: str, completion: Completion, problem: TaskLeaseLost) -> Entry:
    """Keep the result of a completion that came too late."""
    after = {
        "fence": completion.fence,
        "results": completion.results[:_TEXT_LIMIT],
        "metrics": dict(completion.metrics),
        "evidence": list(completion.evidence),
    }
    actor = f"nova:{nova_id}"
    return Entry(COMPLETION_REFUSED, nova_id, "task", completion.task_id, after=after, reason=str(problem), actor=actor)


def _similar(rows: Sequence[TaskRow]) -> dict[str, SimilarTasks]:
    keys = {similarity_key(WorkType(row.work_type), row.executor, row.action) for row in rows}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT key, count, seconds FROM workflow_taskstatistics WHERE {membership('key')}",  # noqa: S608
            [members(sorted(keys))],
        )
        return {key: SimilarTasks(count, timedelta(seconds=seconds / max(count, 1))) for key, count, seconds in cursor}


def _dependants(task_ids: Sequence[str]) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT depends_on, count(*) FROM workflow_taskdependency WHERE {membership('depends_on')} GROUP BY depends_on",  # noqa: S608
            [members(task_ids)],
        )
        return dict(cursor.fetchall())


def _facts(row: TaskRow, dependants: int) -> TaskFacts:
    return TaskFacts(
        row.id, row.title, row.description, Priority(row.priority), WorkType(row.work_type), row.created_at, row.order_at,
        TaskStatus(row.status), row.executor, row.action, row.assignee, row.team, timedelta(seconds=row.estimated_duration),
        row.started_at, row.attempts, row.max_attempts, row.progress, None, timedelta(seconds=row.blocked_seconds), dependants,
        row.personal, row.cause,
    )  # fmt: skip
