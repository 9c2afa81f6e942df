"""Claims: tasks come into the hands of agents, one to one, and out of those of agents that fell silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import orjson
from django.db import connection, transaction

from safety.bulk import members, membership
from workflow import waking
from workflow.agent_holds import (
    COLUMNS,
    LAPSED,
    Held,
    Standing,
    held_row,
    lapsed,
    lease_for,
    note_moves,
    short_title,
    standing_of,
)
from workflow.core.personality import phrase
from workflow.core.tending import OPERATOR
from workflow.core.work import AGENT, TaskStatus
from workflow.gathering import kind_of, open_tasks
from workflow.models import Nova
from workflow.task_tracker import AgentLease, TaskTracker

CLAIM_LIMIT = 100  # tasks in one claim, and in one batch of completions
_KIND = "t.team || ' ' || t.executor"  # as kind_of() writes it


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


def claim_tasks(nova_id: str, *, limit: int, now: datetime, lease_seconds: float | None = None) -> list[ClaimedTask]:
    """Take up to `limit` tasks for a Nova's agent, each under a lease; as many as its policy leaves room for.

    1. Its own tasks, those first whose agent let the lease end. 2. Open work of its team or the fleet, and what other agents
    that fell silent took of that. No two claims ever get the same task; what is out of attempts is blocked instead.

    :raises NovaStopped: it is stopped or unsafe. :raises ClaimRefused: it may not use the executor `agent`.
    """
    with transaction.atomic():
        claimant = standing_of(nova_id, lock=True)  # so that its claims come one after another
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
        until = now + lease_for(lease_seconds)
        for held in chosen:
            _start(tracker, claimant, held, until)
        if chosen:
            note_moves(nova_id, now, engine_off=claimant.engine_holds and claimant.default_executor != AGENT)
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
    select, values = lapsed("t.claimed_open = %s", [True], now)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT t.team, t.executor {select}", values)
        return [kind_of(*row) for row in cursor.fetchall()]


def _count_held(nova_id: str, now: datetime) -> int:
    """Count what the Nova has in hand, by its agent or its executions; what its agent let go is not in hand."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM workflow_task WHERE assignee_id = %s AND status IN ('pending', 'in_progress') "
            "AND status = 'in_progress' AND (claimed_open IS NULL OR reserved_until >= %s)",
            [nova_id, now],
        )
        return int(cursor.fetchone()[0])


def _choose(claimant: Standing, room: int, now: datetime) -> list[Held]:
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
    silent, silent_values = lapsed(reach, [nova_id, True, members(sorted(kinds))], now)
    ready, ready_values = open_tasks(kinds, now)
    table, _, condition = ready.partition(" WHERE ")
    name, _, hint = table.partition(" ")
    opened = f"FROM {name} AS t {hint} WHERE {condition}"
    found: list[Held] = []
    with connection.cursor() as cursor:
        for source, values in (
            (own, [nova_id, now, False, now, executors]),
            (silent, silent_values),
            (opened, ready_values),
        ):
            cursor.execute(f"SELECT {COLUMNS} {source} ORDER BY t.order_at, t.id LIMIT %s{skip}", [*values, room])
            found += [held_row(row) for row in cursor.fetchall()]
            if sum(held.row.assignee == nova_id for held in found) >= room:
                break
    found.sort(key=lambda held: (held.row.assignee != nova_id, held.row.order_at, held.row.id))
    hopeless = [held for held in found if _is_hopeless(held)]
    return hopeless + [held for held in found if not _is_hopeless(held)][:room]


def _start(tracker: TaskTracker, claimant: Standing, held: Held, until: datetime) -> None:
    row, nova_id = held.row, claimant.nova_id
    was_open = held.was_open if row.status == TaskStatus.IN_PROGRESS else not row.assignee
    if row.status == TaskStatus.IN_PROGRESS:
        tracker.lapse_task(row, open_again=row.assignee != nova_id)
    attempt = row.attempts + 1
    said = phrase(claimant.pattern, "take" if attempt == 1 else "retake", title=short_title(row.title), attempt=attempt)
    lease = AgentLease(until, bool(was_open))
    tracker.start_task(row, nova_id=nova_id, update=said, attempt=attempt, lease=lease)


def _claimed(held: Held, until: datetime) -> ClaimedTask:
    row = held.row
    metadata = orjson.loads(held.metadata) if isinstance(held.metadata, str) else held.metadata
    return ClaimedTask(
        row.id, row.title, row.description, row.priority, row.work_type, row.executor, row.action, row.team,
        row.estimated_duration, metadata or {}, row.attempts, row.max_attempts, row.created_at, row.cause, row.fence, until,
    )  # fmt: skip


def _is_hopeless(held: Held) -> bool:
    return held.row.status == TaskStatus.IN_PROGRESS and held.row.attempts >= held.row.max_attempts


def _block_hopeless(tracker: TaskTracker, held: Held) -> None:
    row = held.row
    reason = f"Its agent fell silent in attempt {row.attempts} of {row.max_attempts}."
    action = f"find out why its agents fall silent, then unblock or cancel {row.id}"
    tracker.block_task(row, owner=OPERATOR, action=action, reason=reason)
    row.changes["reserved_by"] = LAPSED


def block_hopeless(*, now: datetime) -> int:
    """Block what is out of attempts and whose last agent has fallen silent; give how many tasks that were."""
    select, values = lapsed("t.attempts >= t.max_attempts", [], now)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT t.id {select} LIMIT 1", values)
        if cursor.fetchone() is None:
            return 0
        skip = " FOR UPDATE OF t SKIP LOCKED" if connection.vendor == "postgresql" else ""
        with TaskTracker.open(now=now) as tracker:
            cursor.execute(f"SELECT {COLUMNS} {select} ORDER BY t.id LIMIT 100{skip}", values)
            found = [held_row(row) for row in cursor.fetchall()]
            for held in found:
                _block_hopeless(tracker, held)
    return len(found)
