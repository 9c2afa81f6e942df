"""The sealer: closes ranges of the journal behind the writers, digests and signs them. Writers take no lock and never wait.

A range may be closed when nobody can write into it any more. On SQLite that is everything committed, since one writes at a
time. On PostgreSQL an entry's id is taken before its transaction ends: what is visible now is closed once all who hold the
table's write lock now have let it go. Anchors and files are not known here.
"""

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Max

from safety import seal_keys
from safety.core import seals as core
from safety.core.seals import GENESIS, Seal
from safety.models import AuditEntry, AuditSeal, SealCandidate

RANGE = 2_000  # entries of one seal at most
_TABLE = AuditEntry._meta.db_table
_WRITERS = (
    "SELECT virtualtransaction FROM pg_locks WHERE relation = to_regclass(%s) AND mode = 'RowExclusiveLock' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_SEAL_COLUMNS = (
    "number", "first_id", "last_id", "count", "digest", "leaves", "previous", "salt", "sealed_at", "key_id", "format",
)  # fmt: skip


def seal(*, now: datetime, go_on: Callable[[], bool] = lambda: True) -> int:
    """Seal what may be closed, range by range while `go_on` says so; give how many were made.

    Each seal is a transaction of its own; of two sealers that run at once one finds its place taken, and stops.

    :raises NoSealKey: there is no key; nothing was sealed.
    """
    public = seal_keys.public_key()
    if not public:
        seal_keys.sign(b"")  # says what to do
    closed = closed_up_to(now=now)
    made = 0
    last = AuditSeal.objects.defer("leaves").order_by("-number").first()
    while go_on():
        following = _next(last, closed, public, now)
        if following is None:
            break
        try:
            with transaction.atomic():
                following.save(force_insert=True)
        except IntegrityError:  # another sealer was first
            break
        last, made = following, made + 1
    return made


def closed_up_to(*, now: datetime) -> int:
    """Give the id up to which the journal is closed: no entry can appear there any more."""
    if connection.vendor != "postgresql":
        return _highest()
    candidate = SealCandidate.objects.first()
    server, writers = _writers()
    closed = 0
    if candidate and not (server == candidate.server and set(writers) & set(candidate.writers)):
        closed, candidate = candidate.highest_id, None
    if candidate is None:
        # first the highest id, then who is writing: who took a lower one holds the lock, or has ended
        highest = _highest()
        server, writers = _writers()
        if not writers:
            return highest
        SealCandidate.objects.update_or_create(
            id=1, defaults={"highest_id": highest, "writers": writers, "server": server, "noted_at": now}
        )
    return closed


def _highest() -> int:
    return AuditEntry.objects.aggregate(highest=Max("id"))["highest"] or 0


def _writers() -> tuple[str, list[str]]:
    """Give when the database server was started, and which virtual transactions may be writing the journal."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()::text")
        started = str(cursor.fetchone()[0])
        cursor.execute(f"{_WRITERS} AND pid <> pg_backend_pid()", [_TABLE])
        return started, sorted(str(row[0]) for row in cursor.fetchall())


def _next(last: AuditSeal | None, closed: int, public: str, now: datetime) -> AuditSeal | None:
    """Make the seal that follows, not yet saved; None: nothing is there to be sealed."""
    first_id = last.last_id + 1 if last else 1
    rows = _read_behind(first_id, closed)
    rows = [row for row in rows if core.fits(rows[0][0], row[0])]
    if not rows:
        return None
    salt = secrets.token_bytes(32)
    entries = [(int(row[0]), core.digest_of(row, salt)) for row in rows]
    leaves = core.leaves_of(entries)
    made = Seal(
        number=last.number + 1 if last else 1,
        first_id=first_id,
        last_id=entries[-1][0],
        count=len(entries),
        digest=core.range_digest(digest for _, digest in entries),
        leaves=sha256(leaves).hexdigest(),
        previous=last.head if last else GENESIS,
        salt=salt.hex(),
        sealed_at=instant_text(now),
        key_id=seal_keys.key_id(public),
    )
    signature = seal_keys.sign(made.text)
    values = {name: getattr(made, name) for name in _SEAL_COLUMNS} | {"leaves": leaves, "sealed_at": now}
    return AuditSeal(head=made.head, public_key=public, signature=signature, **values)


def _read_behind(first_id: int, closed: int) -> list[tuple[Any, ...]]:
    """Read the next range's entries, through a window that grows where ids are missing.

    Without an upper bound near by, PostgreSQL may sort all that is left for each range (until it has statistics).
    """
    width = 2 * RANGE
    while True:
        last_id = min(first_id + width - 1, closed)
        rows = read_rows(first_id, last_id, RANGE)
        if len(rows) * 2 >= RANGE or last_id >= closed:
            return rows
        width *= 8


def sealed(row: AuditSeal) -> Seal:
    """Give a stored seal as what was signed."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _SEAL_COLUMNS}
    values["leaves"] = sha256(bytes(row.leaves)).hexdigest()
    values["sealed_at"] = instant_text(row.sealed_at)
    return Seal(**values)


def instant_text(at: datetime) -> str:
    """Write an instant as seals and exports have it: UTC, with microseconds."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _columns() -> str:
    """Give what is read of an entry, in the order of core.seals.Row, as exact texts."""
    if connection.vendor == "postgresql":
        created = "to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    else:
        created = "CAST(created_at AS text)"
    texts = {name: f"coalesce({name}, '')" for name in core.CLOSED_FIELDS}
    texts |= {name: f"coalesce(CAST({name} AS text), '')" for name in ("before", "after", "message")}
    return ", ".join(["id", created, "seq", "action", "object_type", "personal", *texts.values()])


def read_rows(first_id: int, last_id: int, most: int) -> list[tuple[Any, ...]]:
    """Read entries of a range in order of id, as they are digested."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_columns()} FROM {_TABLE} WHERE id >= %s AND id <= %s ORDER BY id LIMIT %s",  # noqa: S608
            [first_id, last_id, most],
        )
        rows = list(cursor.fetchall())
    if connection.vendor == "postgresql":
        return rows
    return [(row[0], _instant_of(row[1]), *row[2:]) for row in rows]


def _instant_of(stored: str) -> str:
    """Write an instant that SQLite keeps as `2026-11-26 03:02:23[.123456]`, in UTC, as PostgreSQL gives it."""
    text = stored.replace(" ", "T", 1)
    return f"{text}.000000Z" if len(text) == 19 else f"{text}Z"


def ranges(first: int, last: int | None = None, chunk: int = 200) -> Iterator[AuditSeal]:
    """Give seals in order of their numbers, a few at a time."""
    at = first
    while True:
        rows = AuditSeal.objects.filter(number__gte=at)
        if last is not None:
            rows = rows.filter(number__lte=last)
        found = list(rows.order_by("number")[:chunk])
        yield from found
        if len(found) < chunk:
            return
        at = found[-1].number + 1
