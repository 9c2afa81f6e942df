"""The journal as it grows, read once for all who listen in this process; it knows nothing of HTTP, nor who may see what.

`position` is the id up to which nothing will appear any more, so whoever has read up to it has missed nothing. On PostgreSQL an
entry may become visible after one with a higher id: what lies behind such a gap is held back until the gap is filled, or until
no transaction runs that could fill it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
import structlog
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection, connections
from django.db.models import Max, TextField
from django.db.models.functions import Cast

from safety.models import AuditEntry

POLL_SECONDS = 0.25
PAGE = 500  # entries read at once
KEPT = 2_000  # entries kept in memory; a listener that is further behind reads the database
GAP_SECONDS = 15.0  # how long a gap may hold back what lies behind it
LATE_WATCHED = 1_000  # ids in passed gaps that are still looked for

_PLAIN = (
    "id", "created_at", "nova_id", "seq", "actor", "action", "object_type", "object_id", "reason", "request_id", "cause",
    "stream",
)  # fmt: skip
_ABOUT = ("id", "nova_id", "action", "object_type", "object_id")
_JSON = ("before", "after", "message")  # read as text, and passed on as it is

_log = structlog.get_logger(__name__)
Given = TypeVar("Given")


@dataclass(slots=True)
class Seen:
    """One journal entry, with the texts it was already written as: each kind of listener's is made once."""

    id: int
    personal: bool
    row: Mapping[str, Any]
    _texts: dict[tuple[str, ...], bytes] = field(default_factory=dict)

    def text(self, columns: tuple[str, ...]) -> bytes:
        """Give the chosen columns as JSON."""
        known = self._texts.get(columns)
        if known is None:
            known = self._texts[columns] = orjson.dumps({name: self.row[name] for name in columns}, option=orjson.OPT_UTC_Z)
        return known


@dataclass(slots=True)
class _Doubt:
    """Ids up to `highest` were taken before the transaction number `ceiling`: when all below have ended, they are settled."""

    highest: int
    since: float
    ceiling: int | None = None


class Feed:
    """One process's eyes on the journal, in one event loop. It looks while somebody listens."""

    def __init__(self, watched: tuple[str, ...] = (), *, lean: bool = False) -> None:
        self.position = -1
        self._lean = lean  # its listeners want to know what an entry is about, not what it says
        self.stirred = 0  # entries seen whose action begins with one of the watched
        self._watched = watched
        self.floor = 0  # the kept entries begin behind it
        self.late: list[Seen] = []  # what appeared in a gap that had been passed; a listener knows how many it has had
        self._kept: deque[Seen] = deque()
        self._missing: set[int] = set()
        self._doubts: list[_Doubt] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        self._moved, self._ready = asyncio.Event(), asyncio.Event()
        self._looking = asyncio.create_task(self._look_on())

    async def ready(self) -> None:
        """Wait until everything up to the position is settled."""
        await self._ready.wait()

    async def close(self) -> None:
        """Stop looking, and let the thread and its connection go."""
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self.run(connections.close_all)
        self._thread.shutdown(wait=False)

    async def run(self, call: Callable[[], Given]) -> Given:
        """Run a call that needs the database, in the one thread that all listeners share."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def moved(self, seconds: float) -> bool:
        """Wait until something new is there, at most so many seconds; say whether it is."""
        if self._looking.done():
            self._looking.result()  # it never ends by itself: what broke it is told to all
        try:
            await asyncio.wait_for(self._moved.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def page(self, after: int, conditions: Mapping[str, Any]) -> tuple[list[Seen], int]:
        """Read a page of what a listener missed, from the database; give it and the id up to which it reaches."""
        until = self.position
        rows = await self.run(lambda: read(**conditions, id__gt=after, id__lte=until, personal=False))
        return rows, rows[-1].id if len(rows) == PAGE else until

    def since(self, position: int) -> list[Seen]:
        """Give the kept entries behind a position."""
        found = []
        for seen in reversed(self._kept):
            if seen.id <= position:
                break
            found.append(seen)
        return found[::-1]

    async def _look_on(self) -> None:
        more = False
        while True:
            try:
                more = await self._look()
            except DatabaseError:  # the wall of this loop: the listeners stay, and the entries wait in the journal
                _log.exception("the journal could not be read for listeners")
                await asyncio.sleep(1.0)
            await asyncio.sleep(0 if more else POLL_SECONDS)

    async def _look(self) -> bool:
        """Take in what is new; say whether there is more at once."""
        rows, settled, late = await self.run(self._read_on)
        self._kept.extend(row for row in rows if row.id <= settled and not row.personal)
        while len(self._kept) > KEPT:
            self.floor = self._kept.popleft().id
        self.late += [row for row in late if not row.personal]
        self.stirred += sum(row.row["action"].startswith(self._watched) for row in rows)
        news = settled > self.position or bool(late)
        self.position = settled
        if not self._doubts or self._doubts[0].highest > self.floor:
            self._ready.set()
        if news:
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
        return len(rows) == PAGE and rows[-1].id <= settled

    def _read_on(self) -> tuple[list[Seen], int, list[Seen]]:
        """Give what is new, the id up to which it is settled, and what appeared late. Runs in the thread, a turn at a time."""
        close_old_connections()
        disorderly = connection.vendor == "postgresql"  # elsewhere one writes at a time, and ids appear in order
        if self.position < 0:
            self.position = self.floor = AuditEntry.objects.aggregate(highest=Max("id"))["highest"] or 0
            if disorderly:
                self._doubts.append(_Doubt(self.position, time.monotonic()))
        proven = self._proven() if disorderly else 0
        rows, settled = read(lean=self._lean, id__gt=self.position), self.position
        for row in rows:
            if disorderly and row.id != settled + 1 and row.id > proven:
                break
            settled = row.id
        if rows and rows[-1].id > max([settled, *(doubt.highest for doubt in self._doubts[-1:])]):
            self._doubts.append(_Doubt(rows[-1].id, time.monotonic()))
        late = read(lean=self._lean, id__in=sorted(self._missing)) if self._missing else []
        self._missing -= {seen.id for seen in late}
        return rows, settled, late

    def _proven(self) -> int:
        """Give the id up to which no running transaction holds any; what was held back for too long is passed."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text FROM pg_current_snapshot() s")
            oldest, ceiling = map(int, cursor.fetchone())
        proven, now = 0, time.monotonic()
        for doubt in self._doubts:
            if doubt.ceiling is None:  # a turn later: a transaction takes an id a moment before it has a number itself
                doubt.ceiling = ceiling
            elif doubt.ceiling <= oldest:
                proven = max(proven, doubt.highest)
            elif now - doubt.since > GAP_SECONDS:
                self._pass(doubt.highest)
                proven = max(proven, doubt.highest)
        self._doubts = [doubt for doubt in self._doubts if doubt.highest > proven]
        return proven

    def _pass(self, highest: int) -> None:
        """Go on behind the gaps that a long transaction keeps open; its entries are told when they appear."""
        there = set(AuditEntry.objects.filter(id__gt=self.position, id__lte=highest).values_list("id", flat=True))
        gaps = set(range(self.position + 1, highest)) - there
        self._missing = set(sorted(self._missing | gaps)[-LATE_WATCHED:])
        _log.warning("journal entries of a long transaction are waited for no longer", entries=len(gaps))


def read(*, lean: bool = False, **conditions: Any) -> list[Seen]:
    """Read a page of the journal, oldest first; `lean`: what each entry is about, and no more."""
    if lean:
        found = AuditEntry.objects.filter(**conditions).order_by("id").values("personal", *_ABOUT)
        return [Seen(row["id"], row.pop("personal"), row) for row in found[:PAGE]]
    texts = {f"{name}_text": Cast(name, TextField()) for name in _JSON}
    rows = AuditEntry.objects.filter(**conditions).order_by("id").annotate(**texts)
    return [_seen(row) for row in rows.values("personal", *_PLAIN, *texts)[:PAGE]]


def _seen(row: dict[str, Any]) -> Seen:
    for name in _JSON:
        text = row.pop(f"{name}_text")
        row[name] = None if text is None else orjson.Fragment(text)
    return Seen(row["id"], row.pop("personal"), row)
