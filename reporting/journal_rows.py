"""The journal as its page shows it: filtered, page by page by id, each query served by an index however long the journal is.

The journal has indexes by id, by Nova and by object. Other filters (actor, action, request) look at a stretch of ids at a time
and say where they stopped. Times become ids by bisection: ids and times rise together, but for transactions that took long.
What is personal is not there. No text is read for those who may not read texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db.models import Count, Max, Min, Q, QuerySet

from safety import seals
from safety.core import seals as core
from safety.models import AuditEntry, AuditSeal

PAGE = 50
STRETCH = 100_000  # ids that one page looks at where no index serves the filter
VERBS_AMONG = 5_000  # newest entries that fit, whose actions are counted
VERBS_SHOWN = 14
NEWER_MOST = 99  # newer entries are counted up to here
SLACK = timedelta(minutes=2)  # a transaction that writes entries ends that long after it began, at most
_OPEN = ("id", "created_at", "action", "object_type", "nova_id")  # what everybody may see


@dataclass(frozen=True, slots=True)
class JournalFilter:
    """What is asked for; empty: all. `action` is the beginning of it."""

    actor: str = ""
    action: str = ""
    object_type: str = ""
    object_id: str = ""
    nova_id: str = ""
    request_id: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def condition(self) -> Q:
        """Give what an entry must meet."""
        found = Q(personal=False)
        for name in ("actor", "object_type", "object_id", "nova_id", "request_id"):
            if value := getattr(self, name):
                found &= Q(**{name: value})
        if self.action:
            found &= Q(action__startswith=self.action)
        if self.since:
            found &= Q(created_at__gte=self.since)
        if self.until:
            found &= Q(created_at__lt=self.until)
        return found

    @property
    def needs_stretches(self) -> bool:
        """Tell whether no index leads to what fits."""
        others = self.actor or self.action or self.request_id
        return bool(others or (self.object_type and not self.object_id))

    def without_people(self) -> "JournalFilter":
        """Give it without what only those may ask who see who did what: it could be guessed otherwise."""
        return replace(self, actor="", request_id="", object_id="")


@dataclass(frozen=True, slots=True)
class JournalPage:
    """Entries, newest first, and where the pages before and after begin. `stopped_at`: ids below were not looked at."""

    rows: Sequence[AuditEntry]
    newer: int | None  # id: entries above it
    older: int | None  # id: entries below it
    stopped_at: int | None


@dataclass(frozen=True, slots=True)
class Proof:
    """An entry's digest under the seal of its range, and whether it is what was sealed; no seal: it is not sealed yet."""

    digest: str
    seal: int | None
    head: str
    fits: bool


def bounds(asked: JournalFilter) -> tuple[int, int]:
    """Give the lowest and the highest id that may fit, by time; empty: (1, 0)."""
    ends = AuditEntry.objects.aggregate(low=Min("id"), high=Max("id"))
    if ends["high"] is None:
        return 1, 0
    low, high = int(ends["low"]), int(ends["high"])
    if asked.since:
        low = _first_from(asked.since - SLACK, low, high)
    if asked.until:
        high = _first_from(asked.until + SLACK, low, high + 1) - 1
    return low, high


def _first_from(at: datetime, low: int, high: int) -> int:
    """Give the first id from `low` to `high` whose entry, or the next one there is, was written at or after an instant."""
    while low < high:
        middle = (low + high) // 2
        row = AuditEntry.objects.filter(id__gte=middle).order_by("id").values_list("id", "created_at").first()
        if row is None or row[1] >= at:
            high = middle
        else:
            low = row[0] + 1
    return low


def journal_page(
    asked: JournalFilter, ends: tuple[int, int] | None = None, *, before: int | None = None, after: int | None = None,
    in_full: bool,
) -> JournalPage:  # fmt: skip
    """Give one page: the newest, those below `before`, or the first above `after`. `ends`: its `bounds`, if they are known."""
    low, high = ends or bounds(asked)
    if after is not None:
        return _page_above(asked, max(low, after + 1), high, in_full)
    top = min(high, before - 1) if before is not None else high
    floor = max(low, top - STRETCH + 1) if asked.needs_stretches else low
    rows = list(_rows(asked, floor, top, in_full).order_by("-id")[: PAGE + 1])
    more, rows = len(rows) > PAGE, rows[:PAGE]
    stopped = None if more or floor <= low else floor
    older = rows[-1].id if more else stopped
    return JournalPage(rows, rows[0].id if rows and before is not None else None, older, stopped)


def _page_above(asked: JournalFilter, floor: int, high: int, in_full: bool) -> JournalPage:
    top = min(high, floor + STRETCH - 1) if asked.needs_stretches else high
    rows = list(_rows(asked, floor, top, in_full).order_by("id")[: PAGE + 1])
    more, rows = len(rows) > PAGE, rows[:PAGE][::-1]
    if not rows and top >= high:  # nothing is newer: the newest page
        return journal_page(asked, in_full=in_full)
    newer = rows[0].id if more else None if top >= high else top
    return JournalPage(rows, newer, rows[-1].id if rows else floor, None)


def _rows(asked: JournalFilter, low: int, high: int, in_full: bool) -> QuerySet[AuditEntry]:
    found = AuditEntry.objects.filter(asked.condition, id__gte=low, id__lte=high)
    return found.defer("message", "before", "after", "cause") if in_full else found.only(*_OPEN)


def verbs(asked: JournalFilter, ends: tuple[int, int] | None = None) -> tuple[list[tuple[str, int]], int]:
    """Give the commonest actions among the newest entries that fit, and among how many they were counted."""
    low, high = ends or bounds(asked)
    floor = max(low, high - STRETCH + 1) if asked.needs_stretches else low
    newest = AuditEntry.objects.filter(asked.condition, id__gte=floor, id__lte=high).order_by("-id").values("id")
    rows = AuditEntry.objects.filter(id__in=newest[:VERBS_AMONG]).order_by().values_list("action").annotate(number=Count("id"))
    found = sorted(rows, key=lambda row: (-row[1], row[0]))
    return found[:VERBS_SHOWN], sum(number for _, number in found)


def newer_than(asked: JournalFilter, entry_id: int) -> int:
    """Count entries that fit and came after one, up to NEWER_MOST and one more."""
    if asked.until:
        return 0
    highest = AuditEntry.objects.aggregate(highest=Max("id"))["highest"] or 0
    floor = max(entry_id + 1, highest - STRETCH // 10)
    return AuditEntry.objects.filter(asked.condition, id__gte=floor).order_by("id").values("id")[: NEWER_MOST + 1].count()


def prove(entry: AuditEntry) -> Proof:
    """Give the digest of an entry, and whether it is the one that was sealed."""
    row = AuditSeal.objects.filter(last_id__gte=entry.id).order_by("last_id").first()
    if row is None:
        return Proof("", None, "", True)
    (stored,) = seals.read_rows(entry.id, entry.id, 1)
    digest = core.digest_of(stored, bytes.fromhex(row.salt))
    kept = core.read_leaves(bytes(row.leaves)).get(entry.id)
    return Proof(digest.hex(), row.number, row.head, kept == digest[: core.LEAF_BYTES])
