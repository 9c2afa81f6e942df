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
from django.conf import settings
from django.db import connection, transaction

from safety.audit import Entry
from safety.bulk import instant, members, membership
from safety.models import AuditEntry, SafetyState
from workflow import halts, waking
from workflow.carrying import EffectCarrier
from workflow.committing import write_statistics
from workflow.core.completion import LEVELS
from workflow.core.cycle import on_grid
from workflow.core.personality import phrase
from workflow.core.tending import OPERATOR, recognise, retry_delay
from workflow.core.work import AGENT, Priority, SimilarTasks, TaskFacts, TaskStatus, WorkType, similarity_key
from workflow.errors import WorkflowError
from workflow.gathering import kind_of, open_tasks
from workflow.models import InboxMessage, Nova, NovaState
from workflow.services import STOPPED, NovaNotFound
from workflow.task_rows import ROW_COLUMNS, TaskRow, task_row
from workflow.task_tracker import TASK_STARTED, AgentLease, TaskNotFound, TaskTracker

COMPLETION_REFUSED = "workflow.task.completion_refused"

CLAIM_LIMIT = 100  # tasks in one claim, and in one batch of completions
LEASE_LEAST, LEASE_MOST = 5.0, 900.0  # seconds
LAPSED = "lapsed"  # in reserved_by of a task blocked because its agents fell silent: its last agent may still complete it

_SOON = timedelta(microseconds=1)
_TEXT_LIMIT = 65_536  # characters of results: they travel in one stream field
_MORE = ("metadata", "reserved_until", "reserved_by", "claimed_open", "outcome")
_COLUMNS = ", ".join(f"t.{name}" for name in (*ROW_COLUMNS, *_MORE))
_LATE = "It came after its lease had ended; nobody had taken the task over."


class TaskLeaseLost(WorkflowError):
    """The task is not held under that fence (any more); nothing was changed."""


class ClaimRefused(WorkflowError):
    """The Nova's agent may claim nothing, as the Nova is configured."""


@dataclass(frozen=True, slots=True)
class ClaimedTask:
    """A task in an agent's hands. `fence` is what shows that it holds it, until `lease_until`."""

    task_id: str
    title: str
    description: str
    priority: str
    work_type: str
    executor: str
    action: str
    team: str
    estimated_duration: float
    metadata: Mapping[str, Any]
    attempt: int
    max_attempts: int
    created_at: datetime
    cause: str
    fence: int
    lease_until: datetime


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


@dataclass(slots=True)
class _Held:
    """A task's row with what tells who holds it."""

    row: TaskRow
    metadata: Any
    until: datetime | None
    held_by: str
    was_open: bool | None
    outcome: str


@dataclass(frozen=True, slots=True)
class _Standing:
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


# -- claiming


def claim_tasks(nova_id: str, *, limit: int, now: datetime, lease_seconds: float | None = None) -> list[ClaimedTask]:
    """Take up to `limit` tasks for a Nova's agent, each under a lease; as many as its policy leaves room for.

    1. Its own tasks, those first whose agent let the lease end. 2. Open work of its team or the fleet, and what other agents
    that fell silent took of that. No two claims ever get the same task; what is out of attempts is blocked instead.

    :raises NovaStopped: it is stopped or unsafe. :raises ClaimRefused: it may not use the executor `agent`.
    """
    with transaction.atomic():
        claimant = _standing(nova_id, lock=True)  # so that its claims come one after another
        claimant.demand_may_claim()
        room = min(limit, CLAIM_LIMIT, claimant.room - _count_held(nova_id, now))
        if room <= 0:
            return []
        found = _choose(claimant, room, now)
        if not found:
            return []
        tracker = TaskTracker(now=now, by_novas=True)
        tracker.add_rows(held.row for held in found)
        hopeless = [held for held in found if _is_hopeless(held)]
        for held in hopeless:
            _block_hopeless(tracker, held)
        chosen = [held for held in found if held not in hopeless][:room]
        until = now + _lease(lease_seconds)
        for held in chosen:
            _start(tracker, claimant, held, until)
        if chosen:
            _note_moves(nova_id, now, engine_off=claimant.engine_holds and claimant.default_executor != AGENT)
        tracker.flush()
        transaction.on_commit(partial(waking.knock, "loops"))
    return [_claimed(held, until) for held in chosen]


def whom_work_waits_for(nova_ids: Sequence[str], *, now: datetime) -> list[str]:
    """Give those of these Novas for whose agents something may be there, in order; by four queries, however many they are.

    For whoever waits on behalf of many agents. Open work is promised to as many as there are tasks of it, no more.
    """
    novas = {
        row[0]: row for row in Nova.objects.filter(nova_id__in=nova_ids).values_list("nova_id", "team", "default_executor")
    }
    mine = _own_ready(novas, now)
    kinds = {
        nova_id: [kind_of(t, e) for t in {"", team} for e in ([AGENT, ""] if default == AGENT else [AGENT])]
        for nova_id, team, default in novas.values()
    }
    every = {kind for found in kinds.values() for kind in found}
    ready, values = open_tasks(every, now)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT team, executor FROM {ready} ORDER BY order_at, id LIMIT %s", [*values, len(nova_ids)])  # noqa: S608
        waiting = [kind_of(*row) for row in cursor.fetchall()]
    waiting += _lapsed_kinds(now)
    called = []
    for nova_id in nova_ids:
        if nova_id not in novas:
            continue
        kind = next((kind for kind in waiting if kind in kinds[nova_id]), None)
        if nova_id in mine:
            called.append(nova_id)
        elif kind is not None:
            waiting.remove(kind)
            called.append(nova_id)
    return called


def _own_ready(novas: Mapping[str, Any], now: datetime) -> set[str]:
    agents = [nova_id for nova_id, row in novas.items() if row[2] == AGENT]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT assignee_id FROM workflow_task WHERE status IN ('pending', 'in_progress') "  # noqa: S608
            f"AND {membership('assignee_id')} AND personal = %s AND ((status = 'pending' AND waiting_on = 0 "
            "AND (not_before IS NULL OR not_before <= %s) AND (reserved_until IS NULL OR reserved_until < %s) "
            f"AND (executor = 'agent' OR (executor = '' AND {membership('assignee_id')}))) "
            "OR (status = 'in_progress' AND claimed_open IS NOT NULL AND reserved_until < %s))",
            [members(sorted(novas)), False, now, now, members(sorted(agents)), now],
        )
        return {row[0] for row in cursor.fetchall()}


def _lapsed_kinds(now: datetime) -> list[str]:
    select, values = _lapsed("t.claimed_open = %s", [True], now)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT t.team, t.executor {select}", values)
        return [kind_of(*row) for row in cursor.fetchall()]


def _standing(nova_id: str, *, lock: bool = False) -> _Standing:
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
    return _Standing(
        nova_id, mode, why, instant(mode_since), bool(holder), team, default,
        frozenset(orjson.loads(allowed) if isinstance(allowed, str) else allowed), pattern, room,
        is_safe is None or bool(is_safe), instant(since), mechanism or "", reason or "", instant(until),
    )  # fmt: skip


def _count_held(nova_id: str, now: datetime) -> int:
    """Count what the Nova has in hand, by its agent or its executions; what its agent let go is not in hand."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM workflow_task WHERE assignee_id = %s AND status IN ('pending', 'in_progress') "
            "AND status = 'in_progress' AND (claimed_open IS NULL OR reserved_until >= %s)",
            [nova_id, now],
        )
        return int(cursor.fetchone()[0])


def _choose(claimant: _Standing, room: int, now: datetime) -> list[_Held]:
    """Find and lock what may be claimed, the Nova's own first, then by urgency; what others have in hand is passed over."""
    skip = " FOR UPDATE OF t SKIP LOCKED" if connection.vendor == "postgresql" else ""
    nova_id, executors = claimant.nova_id, members(claimant.executors)
    kinds = {kind_of(team, executor) for team in ("", claimant.team) for executor in claimant.executors}
    own = (
        "FROM workflow_task t WHERE t.assignee_id = %s AND t.status IN ('pending', 'in_progress') AND t.status = 'pending' "  # noqa: S608
        "AND t.waiting_on = 0 AND (t.not_before IS NULL OR t.not_before <= %s) AND t.personal = %s "
        f"AND (t.reserved_until IS NULL OR t.reserved_until < %s) AND {membership('t.executor')}"
    )
    reach = f"(t.assignee_id = %s OR (t.claimed_open = %s AND {membership(_KIND)}))"
    lapsed, lapsed_values = _lapsed(reach, [nova_id, True, members(sorted(kinds))], now)
    ready, ready_values = open_tasks(kinds, now)
    table, _, condition = ready.partition(" WHERE ")
    name, _, hint = table.partition(" ")
    opened = f"FROM {name} AS t {hint} WHERE {condition}"
    found: list[_Held] = []
    with connection.cursor() as cursor:
        for source, values in (
            (own, [nova_id, now, False, now, executors]),
            (lapsed, lapsed_values),
            (opened, ready_values),
        ):
            cursor.execute(f"SELECT {_COLUMNS} {source} ORDER BY t.order_at, t.id LIMIT %s{skip}", [*values, room])
            found += [_held(row) for row in cursor.fetchall()]
            if sum(held.row.assignee == nova_id for held in found) >= room:
                break
    found.sort(key=lambda held: (held.row.assignee != nova_id, held.row.order_at, held.row.id))
    hopeless = [held for held in found if _is_hopeless(held)]
    return hopeless + [held for held in found if not _is_hopeless(held)][:room]


_KIND = "t.team || ' ' || t.executor"  # as kind_of() writes it


def _lapsed(reach: str, values: Sequence[Any], now: datetime) -> tuple[str, list[Any]]:
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


def _held(values: Sequence[Any]) -> _Held:
    count = len(ROW_COLUMNS)
    row = task_row(values[:count])
    for name in ("created_at", "started_at", "blocked_at", "order_at"):
        setattr(row, name, instant(getattr(row, name)))
    row.personal = bool(row.personal)
    metadata, until, held_by, was_open, outcome = values[count:]
    return _Held(row, metadata, instant(until), held_by, None if was_open is None else bool(was_open), outcome)


def _start(tracker: TaskTracker, claimant: _Standing, held: _Held, until: datetime) -> None:
    row, nova_id = held.row, claimant.nova_id
    was_open = held.was_open if row.status == TaskStatus.IN_PROGRESS else not row.assignee
    if row.status == TaskStatus.IN_PROGRESS:
        tracker.lapse_task(row, open_again=row.assignee != nova_id)
    attempt = row.attempts + 1
    said = phrase(claimant.pattern, "take" if attempt == 1 else "retake", title=_short(row.title), attempt=attempt)
    lease = AgentLease(until, bool(was_open))
    tracker.start_task(row, nova_id=nova_id, update=said, attempt=attempt, lease=lease)


def _claimed(held: _Held, until: datetime) -> ClaimedTask:
    row = held.row
    metadata = orjson.loads(held.metadata) if isinstance(held.metadata, str) else held.metadata
    return ClaimedTask(
        row.id, row.title, row.description, row.priority, row.work_type, row.executor, row.action, row.team,
        row.estimated_duration, metadata or {}, row.attempts, row.max_attempts, row.created_at, row.cause, row.fence, until,
    )  # fmt: skip


def _is_hopeless(held: _Held) -> bool:
    return held.row.status == TaskStatus.IN_PROGRESS and held.row.attempts >= held.row.max_attempts


def _block_hopeless(tracker: TaskTracker, held: _Held) -> None:
    row = held.row
    reason = f"Its agent fell silent in attempt {row.attempts} of {row.max_attempts}."
    action = f"find out why its agents fall silent, then unblock or cancel {row.id}"
    tracker.block_task(row, owner=OPERATOR, action=action, reason=reason)
    row.changes["reserved_by"] = LAPSED


def block_hopeless(*, now: datetime) -> int:
    """Block what is out of attempts and whose last agent has fallen silent; give how many tasks that were."""
    select, values = _lapsed("t.attempts >= t.max_attempts", [], now)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT t.id {select} LIMIT 1", values)
        if cursor.fetchone() is None:
            return 0
        skip = " FOR UPDATE OF t SKIP LOCKED" if connection.vendor == "postgresql" else ""
        with TaskTracker.open(now=now) as tracker:
            cursor.execute(f"SELECT {_COLUMNS} {select} ORDER BY t.id LIMIT 100{skip}", values)
            found = [_held(row) for row in cursor.fetchall()]
            for held in found:
                _block_hopeless(tracker, held)
    return len(found)


# -- while it is held


def renew_lease(nova_id: str, task_id: str, fence: int, *, now: datetime, lease_seconds: float | None = None) -> Lease:
    """Hold a task for another lease.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with transaction.atomic():
        held = _lock_one(nova_id, task_id, fence)
        until = max(now + _lease(lease_seconds), held.until or now)
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
        held = _lock_one(nova_id, task_id, fence)
        row = held.row
        until = max(now + _lease(lease_seconds), held.until or now)
        row.keeps_fence = True
        reached = row.progress if percent is None else percent
        said = update or phrase(_standing(nova_id).pattern, "progress", title=_short(row.title), percent=reached)
        tracker.update_progress(row, said, percent)
        row.changes["reserved_until"] = until
        _note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return Lease(task_id, fence, until)


def heartbeat(nova_id: str, *, now: datetime, lease_seconds: float | None = None) -> Heartbeat:
    """Renew all that a Nova's agent holds, and tell it what stands: orders, verdict, messages. Always accepted."""
    with transaction.atomic():
        leases = _renew(nova_id, now + _lease(lease_seconds), "AND reserved_until < %s", [now + _lease(lease_seconds)])
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
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE workflow_task SET reserved_until = %s WHERE {_AGENTS_OWN} {which} RETURNING id, fence",  # noqa: S608
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
        found = _lock([completion.task_id for completion in completions])
        carrier = EffectCarrier(tracker, {held.row.id: held.row for held in found.values()}, set(), set())
        judged = [_judge(nova_id, found.get(c.task_id), c.task_id, c.fence, ending=True) for c in completions]
        accepted = [held for held in judged if isinstance(held, _Held) and not _is_repeated(held)]
        similar = _similar([held.row for held in accepted])
        standing = _standing(nova_id)
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
            elif _is_repeated(held):
                answers.append(Ended(completion.task_id, "completed", held.outcome, repeated=True))
            else:
                late = held.row.status == TaskStatus.BLOCKED or _is_late(held, standing.clock_stands_since, now)
                answer = _complete(carrier, held, completion, similar, standing.pattern, dependants, late=late)
                done[completion.task_id] = answer
                answers.append(answer)
        if done:
            newest = max((answer.celebration_level for answer in done.values()), key=LEVELS.index)
            _note_moves(nova_id, now, completed=len(done), level=newest)
        tracker.flush()
        write_statistics(carrier)
    return answers


def _complete(
    carrier: EffectCarrier,
    held: _Held,
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
    said = completion.results or phrase(pattern, "complete", title=_short(row.title))
    effects, level = recognise(facts, known, pattern, carrier.now, said[:_TEXT_LIMIT], metrics, _LATE if late else "")
    carrier.carry_reported(row.assignee, effects)
    insights = orjson.loads(row.changes["insights"]) if "insights" in row.changes else {}
    return Ended(row.id, "completed", "succeeded", late, False, level, insights)


def fail_task(nova_id: str, task_id: str, fence: int, *, error: str, now: datetime, retryable: bool = True) -> str:
    """Say that an attempt failed: it is tried again after a backoff, or blocked when it is out of attempts. Give the status.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with _reporting(now) as tracker:
        row = _lock_one(nova_id, task_id, fence).row
        reason = f"The agent reports a failure: {error}"
        if not retryable:
            action = f"correct what the error names, then unblock or cancel {row.id}"
            tracker.block_task(row, owner=OPERATOR, action=action, reason=reason)
        elif row.attempts < row.max_attempts:
            tracker.retry_task(row, not_before=now + retry_delay(row.id, row.attempts), reason=reason)
        else:
            action = f"remove the cause of the last error, then unblock or cancel {row.id}"
            tracker.block_task(row, owner=OPERATOR, action=action, reason=reason)
        _note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return row.status


def block_task(
    nova_id: str, task_id: str, fence: int, *, owner: str, action: str, reason: str, now: datetime, results: str = ""
) -> str:
    """Say that only `owner` can go on, by doing `action`. Give the status.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with _reporting(now) as tracker:
        row = _lock_one(nova_id, task_id, fence).row
        said = reason or f"{owner} must go on: {action}"
        tracker.block_task(row, owner=owner, action=action, reason=said, results=results[:_TEXT_LIMIT])
        _note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return row.status


def release_task(nova_id: str, task_id: str, fence: int, *, now: datetime, reason: str = "") -> str:
    """Give a task back, to its assignee, or to all who may take it if it was open; the attempt doesn't count.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    with _reporting(now) as tracker:
        held = _lock_one(nova_id, task_id, fence)
        tracker.release_task(held.row, reason=reason, open_again=bool(held.was_open))
        _note_moves(nova_id, now)  # before the journal: states first, then journal heads, as all writers do
        tracker.flush()
    return held.row.status


# -- details


@contextmanager
def _reporting(now: datetime) -> Iterator[TaskTracker]:
    """Give a tracker inside a transaction in which a Nova's agent acts; the loops hear of it after the commit."""
    with transaction.atomic():
        transaction.on_commit(partial(waking.knock, "loops"))
        yield TaskTracker(now=now, by_novas=True)


def _lease(seconds: float | None) -> timedelta:
    given = settings.AGENT_LEASE_SECONDS if seconds is None else seconds
    return timedelta(seconds=min(max(given, LEASE_LEAST), LEASE_MOST))


def _lock(task_ids: Sequence[str]) -> dict[str, _Held]:
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
        cursor.execute(f"SELECT {_COLUMNS} FROM workflow_task t WHERE {found}", values)  # noqa: S608
        return {row[0]: _held(row) for row in cursor.fetchall() if row[0] in wanted}


def _lock_one(nova_id: str, task_id: str, fence: int) -> _Held:
    """Give a task that a Nova's agent holds under a fence.

    :raises TaskNotFound: there is none of this Nova's. :raises TaskLeaseLost: it is not held under this fence.
    """
    held = _judge(nova_id, _lock([task_id]).get(task_id), task_id, fence)
    if isinstance(held, WorkflowError):
        raise held
    return held


def _judge(nova_id: str, held: _Held | None, task_id: str, fence: int, *, ending: bool = False) -> "_Held | WorkflowError":
    """Say whether a Nova's agent holds a task under a fence; `ending`: an end is accepted in two more cases."""
    if held is None or (held.row.assignee != nova_id and not _was_held(nova_id, task_id)) or held.row.personal:
        return TaskNotFound(f"There is no task {task_id} of Nova {nova_id}; nothing was changed.")
    row = held.row
    if row.assignee == nova_id:
        if row.status == TaskStatus.IN_PROGRESS and held.was_open is not None and row.fence == fence:
            return held
        if ending and row.fence == fence + 1:
            given_up = row.status == TaskStatus.BLOCKED and held.held_by == LAPSED
            if given_up or _is_repeated(held):
                return held
    stands = f"with {row.assignee or 'nobody'}, {row.status}"
    return TaskLeaseLost(
        f"Task {task_id} is not held under the fence {fence} any more: it is {stands}. Nothing was changed. Stop working on it "
        "and claim again."
    )


def _is_repeated(held: _Held) -> bool:
    return held.row.status == TaskStatus.COMPLETED and held.outcome == "succeeded" and held.was_open is not None


def _was_held(nova_id: str, task_id: str) -> bool:
    """Whether this Nova once worked on a task that is another's now: then it may know what became of it."""
    return AuditEntry.objects.filter(object_id=task_id, nova_id=nova_id, action=TASK_STARTED).exists()


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


def _is_late(held: _Held, stands_since: datetime | None, now: datetime) -> bool:
    return held.until is not None and held.until < (stands_since or now)


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


def _short(title: str) -> str:
    return title if len(title) <= 120 else f"{title[:117]}..."


def _note_moves(nova_id: str, now: datetime, *, completed: int = 0, level: str = "quiet", engine_off: bool = False) -> None:
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
