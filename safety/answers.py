"""Answers to requests with an idempotency key: looked up, kept in the transaction of what they tell of, forgotten after a day.

This room knows callers by the journal's name for them, and requests by their fingerprints. HTTP is not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
from django.db import connection

from safety import bulk
from safety.models import StoredAnswer

KEPT = timedelta(hours=24)
GIVEN_UP = timedelta(minutes=2)  # a request that is worked on for so long has died with its process
_FORGOTTEN_AT_ONCE = 1000  # rows: other writers come in between
_COLUMNS = ("caller", "key", "fingerprint", "status", "headers", "body", "created_at")
_TABLE = StoredAnswer._meta.db_table
# in every request's way, so without the ORM's making of statements
_FIND = (
    f"SELECT fingerprint, status, CAST(headers AS text), body FROM {_TABLE} "  # noqa: S608 - a table's name
    "WHERE caller = %s AND key = %s AND created_at > %s AND (status <> 0 OR created_at > %s)"
)
_AGAIN = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])


class AnswerError(Exception):
    """The request can't be answered under this key; nothing was changed."""


class KeyReused(AnswerError):
    """The key was used before, for another request."""


class StillInFlight(AnswerError):
    """The first request of this key is still being worked on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: str


def find(caller: str, key: str, fingerprint: str, *, now: datetime) -> Answer | None:
    """Give what the same request was answered in the last day; None if it is new.

    :raises KeyReused: another request had this key. :raises StillInFlight: its answer is not known yet.
    """
    with connection.cursor() as cursor:
        cursor.execute(_FIND, [caller, key, now - KEPT, now - GIVEN_UP])
        row = cursor.fetchone()
    if row is None:
        return None
    known, status, headers, body = row
    if known != fingerprint:
        raise KeyReused("This Idempotency-Key belongs to another request; nothing was changed. Use a new key.")
    if status == 0:
        raise StillInFlight("The first request with this Idempotency-Key is still being worked on. Ask again in a moment.")
    return Answer(status, orjson.loads(headers), body)


def hold(caller: str, key: str) -> bool:
    """Hold a key until the transaction ends; False if another transaction has it. On SQLite there is one at a time anyway."""
    if connection.vendor != "postgresql":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"{caller} {key}"])
        return bool(cursor.fetchone()[0])


def keep(caller: str, key: str, fingerprint: str, answer: Answer, *, now: datetime) -> bool:
    """Keep an answer, in the transaction of its effect; False if another request was first: then take the effect back."""
    return _put(caller, key, fingerprint, answer, now)


def begin(caller: str, key: str, fingerprint: str, *, now: datetime) -> bool:
    """Say that a request is being worked on whose effect can't be one transaction with its answer; False: another was first."""
    return _put(caller, key, fingerprint, Answer(0, {}, ""), now)


def finish(caller: str, key: str, fingerprint: str, answer: Answer | None) -> None:
    """Keep the answer of a request that was begun; None: it came to nothing, and the key is free again."""
    rows = StoredAnswer.objects.filter(caller=caller, key=key, fingerprint=fingerprint, status=0)
    if answer is None:
        rows.delete()
    else:
        rows.update(status=answer.status, headers=dict(answer.headers), body=answer.body)


def forget_old(*, now: datetime) -> int:
    """Delete answers that are older than a day; give how many went."""
    gone = 0
    while True:
        old = list(
            StoredAnswer.objects.filter(created_at__lte=now - KEPT)
            .order_by("created_at")
            .values_list("pk", flat=True)[:_FORGOTTEN_AT_ONCE]
        )
        gone += StoredAnswer.objects.filter(pk__in=old).delete()[0]
        if len(old) < _FORGOTTEN_AT_ONCE:
            return gone


def _put(caller: str, key: str, fingerprint: str, answer: Answer, now: datetime) -> bool:
    """Insert a row, or take the place of one that is too old to count; False if there is one that counts."""
    row = (caller, key, fingerprint, answer.status, bulk.json_text(answer.headers), answer.body, now)
    stale = f"{_TABLE}.created_at <= %s OR ({_TABLE}.status = 0 AND {_TABLE}.created_at <= %s)"
    found = bulk.insert(
        StoredAnswer,
        _COLUMNS,
        [row],
        on_conflict=f"(caller, key) DO UPDATE SET {_AGAIN} WHERE {stale}",
        conflict_values=[now - KEPT, now - GIVEN_UP],
        returning="id",
    )
    return bool(found)
