"""The journal's only door: `record()` writes entries, their order and their outbox pointer in the caller's transaction.

Design sections 2 and 6. This room must not know what the actions mean: their constants stand beside the code that writes them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.dispatch import Signal

from safety import bulk
from safety.models import AuditEntry, JournalHead, OutboxEntry

# Sent after the commit of anything journalled, so that the relay is woken and upper floors hear of it.
journal_committed = Signal()

_actor: ContextVar[str] = ContextVar("actor", default="system")
_request_id: ContextVar[str] = ContextVar("request_id", default="")


@dataclass(slots=True)
class Entry:
    """One thing that happened. `message` holds the fields of the stream entry on `stream`, all text, without the envelope."""

    action: str
    nova_id: str = ""
    object_type: str = ""
    object_id: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str = ""
    cause: str = ""
    stream: str = ""
    message: Mapping[str, str] | None = None
    personal: bool = False
    actor: str = ""
    counted: bool = False  # the relay must see it although it goes on no stream: it counts as a metric


@contextmanager
def acting(actor: str, request_id: str = "") -> Iterator[None]:
    """Name who acts, and by which request, for every entry written inside."""
    tokens = _actor.set(actor), _request_id.set(request_id)
    try:
        yield
    finally:
        _actor.reset(tokens[0])
        _request_id.reset(tokens[1])


def current_actor() -> str:
    """Give the name that entries written now would carry."""
    return _actor.get()


_COLUMNS = (
    "created_at",
    "nova_id",
    "seq",
    "actor",
    "action",
    "object_type",
    "object_id",
    "before",
    "after",
    "reason",
    "request_id",
    "cause",
    "stream",
    "message",
    "personal",
)


def record(entries: Sequence[Entry], *, now: datetime, announce: bool = True) -> list[int]:
    """Write entries in the order given and give their ids.

    1. Take each Nova's next `seq` under its row lock, so that its commit order is its `seq` order.
    2. Insert the entries. 3. Insert one outbox row that points at those with a stream.

    `announce=False`: the caller wakes the relay itself.

    :raises RuntimeError: outside a transaction: the change and its entry must stand or fall together.
    """
    if not entries:
        return []
    if not connection.in_atomic_block:
        raise RuntimeError("record() needs the transaction of the change it records; nothing was written.")
    seqs = _take_seqs(entries)
    actor, request_id = _actor.get(), _request_id.get()
    rows = []
    dumps = bulk.json_text
    for entry in entries:
        seq = 0
        if entry.nova_id:
            seq = seqs[entry.nova_id] = seqs[entry.nova_id] + 1
        rows.append(
            (
                now,
                entry.nova_id,
                seq,
                entry.actor or actor,
                entry.action,
                entry.object_type,
                entry.object_id,
                None if entry.before is None else dumps(entry.before),
                None if entry.after is None else dumps(entry.after),
                entry.reason,
                request_id,
                entry.cause,
                entry.stream,
                None if entry.message is None else dumps(entry.message),
                entry.personal,
            )
        )
    ids = bulk.insert_numbered(AuditEntry, _COLUMNS, rows)
    published = [entry_id for entry_id, entry in zip(ids, entries, strict=True) if entry.stream or entry.counted]
    if published:
        bulk.insert(OutboxEntry, ("created_at", "entry_ids"), [(now, bulk.json_text(published))])
    if announce:
        transaction.on_commit(_announce)
    return ids


def _announce() -> None:
    journal_committed.send(sender=AuditEntry)


def _take_seqs(entries: Sequence[Entry]) -> dict[str, int]:
    """Reserve a run of numbers per Nova; give the number before each run's first."""
    counts = Counter(entry.nova_id for entry in entries if entry.nova_id)
    rows = sorted(counts.items())  # one order for all, so that two writers can't wait for each other in a circle
    heads = bulk.insert(
        JournalHead,
        ("nova_id", "seq"),
        rows,
        on_conflict="(nova_id) DO UPDATE SET seq = safety_journalhead.seq + excluded.seq",
        returning="nova_id, seq",
    )
    return {nova_id: seq - counts[nova_id] for nova_id, seq in heads}
