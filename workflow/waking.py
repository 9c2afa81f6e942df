"""Waking: make Novas due now in the ORM, and knock at the processes that wait.

The row is the truth; the knock on the wake stream only shortens the wait, so it may fail silently: every loop looks again
within a second.
"""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from django.db import connection

from safety.bulk import json_text, membership
from safety.stream_client import StreamClient, StreamError

WAKE_STREAMS = {"loops": "nova.wake.loops", "work": "nova.wake.work"}
_QUIET_AFTER_FAILURE = 1.0  # seconds without another try, so that an absent server doesn't slow every writer down


def mark_due(nova_ids: Collection[str], *, now: datetime) -> None:
    """Make the given Novas due now (inside the caller's transaction)."""
    if not nova_ids:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE workflow_novastate SET due_at = CASE WHEN due_at > %s THEN %s ELSE due_at END, wakes = wakes + 1 "  # noqa: S608
            f"WHERE {membership('nova_id')}",
            [now, now, json_text(sorted(nova_ids))],
        )


def mark_all_due(*, now: datetime) -> None:
    """Make every runnable Nova due now."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE workflow_novastate SET due_at = CASE WHEN due_at > %s THEN %s ELSE due_at END, wakes = wakes + 1 "
            "WHERE mode IN ('running', 'draining')",
            [now, now],
        )


# A Nova with a free slot that rests, of a team (empty: of any), the next to be due first.
_RESTING = (
    "UPDATE workflow_novastate SET due_at = %s, wakes = wakes + 1 WHERE nova_id IN (SELECT s.nova_id "
    "FROM workflow_novastate s JOIN workflow_nova n ON n.nova_id = s.nova_id "
    "JOIN safety_safetypolicy p ON p.slug = n.policy_id "
    "WHERE s.mode = 'running' AND s.due_at > %s AND s.tasks_in_flight < p.max_concurrent_tasks "
    "AND (n.team = %s OR %s = '') ORDER BY s.due_at LIMIT %s)"
)
# One without work whose step is under way: it may have looked a moment too early.
_STEPPING = (
    "UPDATE workflow_novastate SET wakes = wakes + 1 WHERE nova_id IN (SELECT s.nova_id "
    "FROM workflow_novastate s JOIN workflow_nova n ON n.nova_id = s.nova_id "
    "WHERE s.mode = 'running' AND s.due_at <= %s AND s.lease_until > %s AND s.tasks_in_flight = 0 "
    "AND (n.team = %s OR %s = '') ORDER BY s.due_at LIMIT %s)"
)


def mark_idle_due(teams: Sequence[str], *, now: datetime) -> None:
    """Make one Nova with room due for each open task, given by its team (empty: any Nova's)."""
    for team, count in Counter(teams).items():
        with connection.cursor() as cursor:
            cursor.execute(_RESTING, [now, now, team, team, count])
            missing = count - cursor.rowcount
            if missing > 0:
                cursor.execute(_STEPPING, [now, now, team, team, missing])


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
