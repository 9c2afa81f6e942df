"""The relay: publishes what the outbox points at, at least once, in order per Nova, and mirrors states into their hashes.

One process at a time holds the relay lease. It reads the journal and writes streams; it must not decide anything. Metrics on
`nova.enterprise.metrics` are derived here from the entries that pass.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import orjson
from django.conf import settings
from django.db import connection

from safety import bulk
from safety.models import Installation, OutboxEntry
from safety.stream_client import StreamClient
from workflow.models import NovaState
from workflow.streams import mirror

_METRICS = "nova.enterprise.metrics"
# Which journal actions count as which metric (spec section 3, `_update_enterprise_metrics`).
_COUNTED = {
    "workflow.task.created": "task_created",
    "workflow.task.started": "task_started",
    "workflow.task.progressed": "task_progress",
    "workflow.task.completed": "task_completed",
    "workflow.task.blocked": "task_blocked",
    "workflow.task.retried": "task_retried",
    "workflow.task.cancelled": "task_cancelled",
    "safety.incident.opened": "safety_violation",
}
_SHARE_MEMORY = timedelta(seconds=10)
_MIRROR_PAUSE = timedelta(seconds=0.5)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_ENTRIES = 2_000  # relayed in one round trip
_OUTBOX_ROWS = 32  # commits relayed in one round trip


class Relay:
    """Publishes one batch of the outbox at a time."""

    def __init__(self, client: StreamClient) -> None:
        self._client = client
        self._prefix = ""
        self._stale: set[str] = set()  # Novas whose hash is behind
        self._mirrored: dict[str, datetime] = {}
        self._limits: dict[str, int] = settings.STREAM_MAXLEN
        self._own_limit = ""  # of each of a Nova's streams, known before the first entry goes out
        self._shared_at = _LONG_AGO

    def relay_batch(self, *, now: datetime) -> int:
        """Publish the oldest outbox rows and forget them; give how many entries went out (0: the outbox is empty).

        1. Read pointers and entries. 2. Publish entries, metrics and state hashes in one pipeline. 3. Delete the pointers.
        A crash between 2 and 3 publishes the batch again, under the same event ids.

        :raises StreamError: nothing is forgotten; the same rows are tried again.
        """
        pointers = self._pointers()
        if not pointers:
            self._client.execute(self._mirror(set(), now, everything=True))
            return 0
        self._share_memory(now)
        entries = self._entries([entry_id for _, ids in pointers for entry_id in ids])
        commands = [self._xadd(entry) for entry in entries if entry[5]]
        commands += self._metrics(entries, now)
        commands += self._mirror({entry[1] for entry in entries if entry[1]}, now)
        self._client.execute(commands)
        with connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM safety_outboxentry WHERE {bulk.membership('id', integers=True)}",  # noqa: S608
                [bulk.members(pointer for pointer, _ in pointers)],
            )
        return len(entries)

    @staticmethod
    def _pointers() -> list[tuple[int, list[int]]]:
        """Give the oldest outbox rows, as many as fit into a batch, but one at least."""
        rows = OutboxEntry.objects.order_by("id").values_list("id", "entry_ids")[:_OUTBOX_ROWS]
        pointers: list[tuple[int, list[int]]] = []
        entries = 0
        for pointer, ids in rows:
            entries += len(ids)
            if pointers and entries > _ENTRIES:
                break
            pointers.append((pointer, ids))
        return pointers

    def _mirror(self, nova_ids: set[str], now: datetime, *, everything: bool = False) -> list[list[Any]]:
        """Give the commands for the state hashes that changed; under load each Nova's is written twice a second at most."""
        self._stale |= nova_ids
        if not self._stale:
            return []
        due = {n for n in self._stale if everything or now - self._mirrored.get(n, _LONG_AGO) >= _MIRROR_PAUSE}
        self._stale -= due
        self._mirrored.update(dict.fromkeys(due, now))
        return mirror.state_commands(due, now=now)

    def _entries(self, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, nova_id, seq, action, cause, stream, message FROM safety_auditentry "  # noqa: S608
                f"WHERE {bulk.membership('id', integers=True)} ORDER BY id",
                [bulk.members(ids)],
            )
            return list(cursor.fetchall())

    def _xadd(self, entry: tuple[Any, ...]) -> list[Any]:
        entry_id, _, seq, _, cause, stream, message = entry
        fields = orjson.loads(message) if isinstance(message, str) else message
        command: list[Any] = ["XADD", stream, "MAXLEN", "~", self._maxlen(stream), "*"]
        command += ["event_id", self.event_id(entry_id), "seq", str(seq), "cause", cause]
        command.extend(chain.from_iterable(fields.items()))
        return command

    def _metrics(self, entries: Iterable[tuple[Any, ...]], now: datetime) -> list[list[Any]]:
        """Give one EnterpriseMetric entry for each metric of this batch; where several Novas share it, `context` says who."""
        counts: dict[str, Counter[str]] = {}
        newest: dict[str, int] = {}
        for entry in entries:
            if name := _COUNTED.get(entry[3]):
                counts.setdefault(name, Counter())[entry[1]] += 1
                newest[name] = entry[0]
        stamp = now.isoformat()
        commands = []
        for name, by_nova in counts.items():
            nova_id = next(iter(by_nova)) if len(by_nova) == 1 else ""
            context = bulk.json_text({"novas": by_nova} if len(by_nova) > 1 else {})
            commands.append(
                [
                    "XADD", _METRICS, "MAXLEN", "~", self._maxlen(_METRICS), "*",
                    "event_id", f"{self.event_id(newest[name])}-{name}", "metric_name", name,
                    "metric_value", str(by_nova.total()), "metric_type", "counter", "timestamp", stamp,
                    "nova_id", nova_id, "context", context,
                ]
            )  # fmt: skip
        return commands

    def _share_memory(self, now: datetime) -> None:
        """Divide the entries that the server has room for among the Novas' own streams."""
        if now - self._shared_at < _SHARE_MEMORY:
            return
        own, novas = settings.STREAM_MAXLEN_OWN, NovaState.objects.exclude(mode="archived").count()
        self._own_limit = str(max(own["least"], min(own["most"], own["all_novas"] // max(novas, 1))))
        self._shared_at = now

    def _maxlen(self, stream: str) -> str:
        limit = self._limits.get(stream)
        return self._own_limit if limit is None else str(limit)

    def event_id(self, entry_id: int) -> str:
        """Name a journal entry to the world: `{installation}-{entry id}`."""
        if not self._prefix:
            self._prefix = Installation.objects.get().name
        return f"{self._prefix}-{entry_id}"
