"""Waking: make Novas due now in the ORM, and knock at the processes that wait.

The row is the truth; the knock on the wake stream only shortens the wait, so it may fail silently: every loop looks again
within a second.
"""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db import connection, transaction

from safety.bulk import members, membership
from safety.stream_client import StreamClient, StreamError

WAKE_STREAMS = {"loops": "nova.wake.loops", "work": "nova.wake.work"}
_QUIET_AFTER_FAILURE = 1.0  # seconds without another try, so that an absent server doesn't slow every writer down


_STATE = "workflow_novastate"
_NOW_DUE = "due_at = CASE WHEN due_at > %s THEN %s ELSE due_at END, wakes = wakes + 1"
# A Nova with a free slot that rests, of a team (empty: of any), the next to be due first.
_RESTING = (
    "SELECT s.nova_id FROM workflow_novastate s JOIN workflow_nova n ON n.nova_id = s.nova_id "
    "JOIN safety_safetypolicy p ON p.slug = n.policy_id "
    "WHERE s.mode = 'running' AND s.due_at > %s AND s.tasks_in_flight < p.max_concurrent_tasks "
    "AND (n.team = %s OR %s = '') ORDER BY s.due_at LIMIT %s"
)
# One without work whose step is under way: it may have looked a moment too early.
_STEPPING = (
    "SELECT s.nova_id FROM workflow_novastate s JOIN workflow_nova n ON n.nova_id = s.nova_id "
    "WHERE s.mode = 'running' AND s.due_at <= %s AND s.lease_until >= %s AND s.tasks_in_flight = 0 "
    "AND (n.team = %s OR %s = '') ORDER BY s.due_at LIMIT %s"
)


def mark_due(nova_ids: Collection[str], *, now: datetime) -> None:
    """Make the given Novas due now (inside the caller's transaction).

    On PostgreSQL a Nova that another writer has in hand is passed over: waiting for it, while holding others, could go in a
    circle. It is made due after the commit, when nothing is held. So it is with all wakes here.
    """
    if nova_ids:
        _wake(membership("nova_id"), [members(sorted(nova_ids))], set(nova_ids), now)


def mark_all_due(*, now: datetime) -> None:
    """Make every runnable Nova due now."""
    _wake("mode IN ('running', 'draining')", [], None, now)


def _wake(condition: str, values: list[Any], wanted: set[str] | None, now: datetime) -> None:
    """Make those due for which `condition` holds; `wanted` names them, if that is known."""
    if connection.vendor != "postgresql":
        _update(f"UPDATE {_STATE} SET {_NOW_DUE} WHERE {condition}", [now, now, *values])  # noqa: S608
        return
    select = f"SELECT nova_id FROM {_STATE} WHERE {condition}"  # noqa: S608
    with connection.cursor() as cursor:
        free = f"nova_id = ANY(ARRAY({select} FOR NO KEY UPDATE SKIP LOCKED))"
        cursor.execute(f"UPDATE {_STATE} SET {_NOW_DUE} WHERE {free} RETURNING nova_id", [now, now, *values])  # noqa: S608
        woken = {row[0] for row in cursor.fetchall()}
        if wanted is None:
            cursor.execute(select, values)
            wanted = {row[0] for row in cursor.fetchall()}
    if missing := wanted - woken:
        transaction.on_commit(partial(_wake_waiting, missing, now))


def _wake_waiting(nova_ids: Collection[str], now: datetime) -> None:
    which = _in_order(membership("nova_id"))
    _update(f"UPDATE {_STATE} SET {_NOW_DUE} WHERE {which}", [now, now, members(sorted(nova_ids))])  # noqa: S608


def mark_idle_due(teams: Sequence[str], *, now: datetime) -> None:
    """Make one Nova with room due for each open task, given by its team (empty: any Nova's)."""
    for team, count in Counter(teams).items():
        missing = count - _wake_idle(team, count, now, waiting=False)
        if missing > 0 and connection.vendor == "postgresql":
            transaction.on_commit(partial(_wake_idle, team, missing, now, waiting=True))


def _wake_idle(team: str, count: int, now: datetime, *, waiting: bool) -> int:
    """Make up to `count` Novas due, resting ones first, and give how many."""
    resting, stepping = _chosen(_RESTING, waiting=waiting), _chosen(_STEPPING, waiting=waiting)
    found = _update(f"UPDATE {_STATE} SET {_NOW_DUE} WHERE {resting}", [now, now, now, team, team, count])  # noqa: S608
    if found < count:
        values = [now, now, now, now, team, team, count - found]
        found += _update(f"UPDATE {_STATE} SET {_NOW_DUE} WHERE {stepping}", values)  # noqa: S608
    return found


def _chosen(select: str, *, waiting: bool) -> str:
    """Give the condition that a Nova is among what `select` gives."""
    if connection.vendor != "postgresql":
        return f"nova_id IN ({select})"
    if waiting:
        return _in_order(f"nova_id = ANY(ARRAY({select}))")
    return f"nova_id = ANY(ARRAY({select} FOR NO KEY UPDATE OF s SKIP LOCKED))"


def _in_order(condition: str) -> str:
    """Give `condition` in a form that makes PostgreSQL lock the rows in the order that all writers keep who wait for them."""
    return f"nova_id = ANY(ARRAY(SELECT nova_id FROM {_STATE} WHERE {condition} ORDER BY nova_id FOR NO KEY UPDATE))"  # noqa: S608


def _update(sql: str, values: Sequence[Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return int(cursor.rowcount)


def lock_states(nova_ids: Collection[str]) -> None:
    """Lock these Novas' rows, in the order that all writers keep; SQLite has one writer anyway."""
    if connection.vendor == "postgresql":
        condition = membership("nova_id")
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT 1 FROM {_STATE} WHERE {condition} ORDER BY nova_id FOR NO KEY UPDATE",  # noqa: S608
                [members(sorted(nova_ids))],
            )


class _Knocker:
    """One client a process for knocks; after a failure it keeps quiet for a while."""

    def __init__(self) -> None:
        self._client: StreamClient | None = None
        self._quiet_until = 0.0

    def knock(self, cluster: str, client: StreamClient | None = None) -> None:
        if client is None:
            if time.monotonic() < self._quiet_until:
                return
            client = self._client = self._client or StreamClient(name="novawf-knock", timeout=0.5)
        try:
            client.call("XADD", WAKE_STREAMS[cluster], "MAXLEN", "~", "100", "*", "by", "knock")
        except StreamError:
            self._quiet_until = time.monotonic() + _QUIET_AFTER_FAILURE

    def forget(self) -> None:
        self._client, self._quiet_until = None, 0.0


_knocker = _Knocker()


def knock(cluster: str, client: StreamClient | None = None) -> None:
    """Wake the processes of a cluster that wait on their wake stream: `loops` or `work`."""
    _knocker.knock(cluster, client)


def forget_client() -> None:
    """Connect anew at the next knock: the server's address has changed."""
    _knocker.forget()
