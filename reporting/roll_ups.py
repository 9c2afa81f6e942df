"""Keeps the roll-ups: reads on in the journal and adds what the new entries say, each exactly once.

The sums and the cursor are written in one transaction, which another's turn makes void. The cost of a turn is bounded by the
new entries. Figures lag about three seconds behind the journal, and more while it grows faster than a fifth of one processor
can sum it up; the dashboard says up to where they reach. It must not know what the figures mean.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from django.db import connection, transaction
from django.db.models import Min

from reporting.core import tally as tallies
from reporting.core.buckets import BEGINNING, EVER, GRAINS, KEPT, MARGIN, QUARTER, cover, start_of
from reporting.core.metrics import Period
from reporting.core.tally import JournalLine, Sums, Tally, add, tally
from reporting.models import EnterpriseMetric, Membership, Rework, RollUp, RollUpCursor
from reporting.settled import Settled
from safety import bulk
from safety.models import AuditEntry
from workflow.core.demonstration import TEAM
from workflow.models import Nova

ENTRIES = 5_000  # summed up in one turn
REWORK_WITHIN = timedelta(days=7)
METRICS_KEPT = timedelta(days=400)
_FORGOTTEN_AT_ONCE = 5_000
_QUARTER = QUARTER * 60  # seconds
_COLUMNS = "id, created_at, nova_id, action, object_id, actor, before, after"


class JournalIsGone(Exception):
    """The roll-ups can't be made anew: the journal no longer holds what they tell of. Nothing was changed."""


@dataclass(slots=True)
class _Batch:
    """What some entries add, by scope and quarter of an hour (counted from 1970); longer buckets are made of those."""

    sums: dict[tuple[str, int], Sums] = field(default_factory=lambda: defaultdict(dict))
    teams: dict[str, str] = field(default_factory=dict)  # of all Novas of the batch, as the journal goes on
    moved: set[str] = field(default_factory=set)  # whose team is to be written
    reworks: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def count(self, at: datetime, added: Tally) -> None:
        quarter, sums = int(at.timestamp()) // _QUARTER, self.sums
        if not any(self.teams.get(nova_id) == TEAM for nova_id in added.novas):  # what is made up is no part of a real figure
            add(sums["fleet", quarter], added.fleet)
        for nova_id, own in added.novas.items():
            add(sums[f"nova:{nova_id}", quarter], own)
            if team := self.teams.get(nova_id):
                add(sums[f"team:{team}", quarter], own)

    def buckets(self, now: datetime) -> dict[tuple[str, int, datetime], Sums]:
        """Give what is added to each row, those left out that are too old to be kept."""
        found: dict[tuple[str, int, datetime], Sums] = defaultdict(dict)
        starts = {
            (quarter, grain): start
            for quarter in {quarter for _, quarter in self.sums}
            for grain in GRAINS
            if now - (start := start_of(datetime.fromtimestamp(quarter * _QUARTER, UTC), grain)) < KEPT[grain] + MARGIN
        }
        for (scope, quarter), sums in self.sums.items():
            add(found[scope, EVER, BEGINNING], sums)
            for grain in GRAINS:
                if kept := starts.get((quarter, grain)):
                    add(found[scope, grain, kept], sums)
        return found


def key_of(scope: str, grain: int, start: datetime) -> str:
    """Name a roll-up row."""
    return f"{scope}|{grain}|{int(start.timestamp())}"


class RollUpKeeper:
    """Sums up the journal, a turn at a time."""

    def __init__(self, settled: Settled) -> None:
        self._settled = settled

    def turn(self, *, now: datetime, most: int = ENTRIES) -> int:
        """Add the next entries and move the cursor on; give by how many ids (0: nothing is left that is settled).

        1. See how far the journal is settled. 2. Sum up outside any transaction. 3. Write sums and cursor, unless somebody else
        has moved the cursor meanwhile: then nothing is written.
        """
        cursor = RollUpCursor.objects.filter(id=1).first()
        if cursor is None:
            cursor = RollUpCursor.objects.get_or_create(id=1, defaults={"position": _beginning()})[0]
        until = self._settled.upto(cursor.position, most)
        if until <= cursor.position:
            return 0
        lines = _read(cursor.position, until)
        batch = _Batch(teams=_teams(lines))
        for line in lines:
            _take(batch, line)
        _find_reworks(batch, lines)
        rows, instants = _added(batch, now), [line.at for line in lines]
        with transaction.atomic():
            moved = RollUpCursor.objects.filter(id=1, position=cursor.position).update(
                position=until,
                newest_at=max((at for at in (*instants, cursor.newest_at) if at), default=None),
                first_at=min((at for at in (*instants, cursor.first_at) if at), default=None),
                first_id=cursor.first_id or (lines[0].id if lines else None),
            )
            if not moved:
                return 0
            _write(batch, rows)
        return until - cursor.position


def _beginning() -> int:
    """Give the id before the oldest entry there is: what stood below it was taken back or pruned, and is not waited for."""
    return (AuditEntry.objects.aggregate(lowest=Min("id"))["lowest"] or 1) - 1


def lowest_unread() -> int:
    """Give the first journal entry that is not summed up yet: from there on nothing may be pruned."""
    return (RollUpCursor.objects.filter(id=1).values_list("position", flat=True).first() or 0) + 1


def rebuild(*, now: datetime, settled: Settled) -> int:
    """Make all roll-ups anew from the journal; give how many ids were read.

    :raises JournalIsGone: its oldest entries were pruned, and the roll-ups would lose what they told.
    """
    first = AuditEntry.objects.order_by("id").first()
    cursor = RollUpCursor.objects.filter(id=1).first()
    if cursor and cursor.first_id is not None and (first is None or first.id > cursor.first_id):
        raise JournalIsGone(
            f"The roll-ups tell of the journal from entry {cursor.first_id} on, which was pruned since. Made anew, they would "
            "lose that time. Nothing was changed."
        )
    with transaction.atomic():
        RollUpCursor.objects.filter(id=1).update(position=_beginning(), newest_at=None, first_at=None, first_id=None)
        for model in (RollUp, Membership, Rework):
            model.objects.all().delete()
    keeper, read = RollUpKeeper(settled), 0
    while step := keeper.turn(now=now):
        read += step
    return read


def forget_old(*, now: datetime) -> int:
    """Delete short buckets and metrics that no reader asks for any more, a bounded number; give how many."""
    gone = 0
    for grain in GRAINS:
        old = RollUp.objects.filter(grain=grain, start__lt=now - KEPT[grain] - MARGIN)
        keys = list(old.values_list("key", flat=True)[:_FORGOTTEN_AT_ONCE])
        gone += RollUp.objects.filter(key__in=keys).delete()[0] if keys else 0
    old_metrics = EnterpriseMetric.objects.filter(timestamp__lt=now - METRICS_KEPT).order_by("timestamp")
    ids = list(old_metrics.values_list("id", flat=True)[:_FORGOTTEN_AT_ONCE])
    return gone + (EnterpriseMetric.objects.filter(id__in=ids).delete()[0] if ids else 0)


def data_until(*, now: datetime) -> datetime | None:
    """Say up to when the journal is in the roll-ups; None: nothing is."""
    cursor = RollUpCursor.objects.filter(id=1).first()
    newest = AuditEntry.objects.order_by("-id").values_list("id", flat=True).first()
    if newest is None or (cursor and cursor.position >= newest):
        return now
    return cursor.newest_at if cursor else None


def observed(period: Period) -> Period:
    """Cut a period to the time of which the journal tells."""
    first_at = RollUpCursor.objects.filter(id=1).values_list("first_at", flat=True).first()
    return (
        Period(min(max(period.since, first_at), period.until), period.until) if first_at else Period(period.until, period.until)
    )


def _read(position: int, until: int) -> list[JournalLine]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM safety_auditentry WHERE id > %s AND id <= %s "  # noqa: S608
            f"AND NOT personal AND {bulk.membership('action')} ORDER BY id",
            [position, until, bulk.members(tallies.READ)],
        )
        return [
            JournalLine(number, bulk.instant(at), nova_id, action, object_id, actor, _parsed(before), _parsed(after))
            for number, at, nova_id, action, object_id, actor, before, after in cursor.fetchall()
        ]


def _parsed(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value


def _teams(lines: Iterable[JournalLine]) -> dict[str, str]:
    """Give the teams of the Novas that some entries are about, as they were before the first of them."""
    names = {line.nova_id for line in lines if line.nova_id}
    for line in lines:
        if line.actor.startswith("nova:"):
            names.add(line.actor.removeprefix("nova:"))
        names.update(str(a) for a in ((line.before or {}).get("assignee"), (line.after or {}).get("assignee")) if a)
    teams = dict(Membership.objects.filter(nova_id__in=names).values_list("nova_id", "team"))
    unknown = names - teams.keys() - {line.nova_id for line in lines if line.action == tallies.NOVA_CREATED}
    teams |= dict(Nova.objects.filter(nova_id__in=unknown).values_list("nova_id", "team"))
    return teams


def _take(batch: _Batch, line: JournalLine) -> None:
    if line.action in (tallies.NOVA_CREATED, tallies.NOVA_CHANGED):
        if "team" in (line.after or {}):
            _change_team(batch, line, str((line.after or {})["team"] or ""))
        return
    if added := tally(line):
        batch.count(line.at, added)


def _change_team(batch: _Batch, line: JournalLine, team: str) -> None:
    """Let a Nova's open tasks go with it to another team."""
    scope, former = f"nova:{line.nova_id}", batch.teams.get(line.nova_id, "")
    batch.teams[line.nova_id] = team
    batch.moved.add(line.nova_id)
    if former == team or line.action == tallies.NOVA_CREATED:
        return
    held: Sums = {}
    for sums in RollUp.objects.filter(key=key_of(scope, EVER, BEGINNING)).values_list("sums", flat=True):
        add(held, sums)
    for (whose, _), sums in batch.sums.items():
        if whose == scope:
            add(held, sums)
    quarter = int(line.at.timestamp()) // _QUARTER
    for whose, sign in ((former, -1), (team, 1)):
        if whose:
            add(batch.sums[f"team:{whose}", quarter], {name: sign * held.get(name, 0) for name in tallies.OPEN})


def _find_reworks(batch: _Batch, lines: Sequence[JournalLine]) -> None:
    """Count the succeeded tasks that new ones do again, in the bucket of their success."""
    again: dict[str, list[JournalLine]] = defaultdict(list)
    for line in lines:
        if line.action == tallies.TASK_CREATED and (task_id := (line.after or {}).get("rework_of")):
            again[str(task_id)].append(line)
    if not again:
        return
    for task_id in Rework.objects.filter(task_id__in=list(again)).values_list("task_id", flat=True):
        again.pop(task_id)
    ends = AuditEntry.objects.filter(object_id__in=list(again), action=tallies.TASK_COMPLETED, personal=False)
    for end in ends.only("object_id", "created_at", "nova_id", "after", "id"):
        in_time = [one for one in again[end.object_id] if one.id > end.id and one.at - end.created_at <= REWORK_WITHIN]
        if not in_time or (end.after or {}).get("work_type") == tallies.MOMENTUM:
            continue
        batch.reworks[end.object_id] = (in_time[0].object_id, in_time[0].at)
        if end.nova_id not in batch.teams:
            batch.teams |= _teams([JournalLine(0, end.created_at, end.nova_id, "")])
        once = {tallies.REWORKED: 1}
        batch.count(end.created_at, Tally(once, {end.nova_id: once}))


def _added(batch: _Batch, now: datetime) -> list[tuple[Any, ...]]:
    """Give the rows as they are to be written: what is stored, and what the batch adds."""
    wanted = {key_of(*place): (place, sums) for place, sums in batch.buckets(now).items()}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT key, sums FROM reporting_rollup WHERE {bulk.membership('key')}",  # noqa: S608
            [bulk.members(wanted)],
        )
        stored = {key: _parsed(sums) for key, sums in cursor.fetchall()}
    rows = []
    for key, ((scope, grain, start), more) in wanted.items():
        sums = stored.get(key, {})
        add(sums, more)
        rows.append((key, scope, grain, start, bulk.json_text({name: number for name, number in sums.items() if number})))
    return rows


def _write(batch: _Batch, rows: Sequence[Sequence[Any]]) -> None:
    bulk.insert(
        RollUp,
        ("key", "scope", "grain", "start", "sums"),
        rows,
        on_conflict="(key) DO UPDATE SET sums = excluded.sums",
    )
    bulk.insert(
        Membership,
        ("nova_id", "team"),
        [(nova_id, batch.teams[nova_id]) for nova_id in sorted(batch.moved)],
        on_conflict="(nova_id) DO UPDATE SET team = excluded.team",
    )
    bulk.insert(
        Rework,
        ("task_id", "by_task_id", "at"),
        [(task_id, by, at) for task_id, (by, at) in batch.reworks.items()],
        on_conflict="(task_id) DO NOTHING",
    )


def sums_of(scope: str, periods: Sequence[Period], *, now: datetime) -> dict[Period, Sums]:
    """Give the sums of a scope over aligned periods, in one query."""
    wanted = {period: [key_of(scope, grain, start) for grain, start in cover(period, now)] for period in periods}
    keys = sorted({key for keys in wanted.values() for key in keys})
    rows = dict(RollUp.objects.filter(key__in=keys).values_list("key", "sums"))
    found: dict[Period, Sums] = {}
    for period, keys in wanted.items():
        total: Sums = {}
        for key in keys:
            add(total, rows.get(key, {}))
        found[period] = total
    return found


def levels(scope: str) -> dict[str, int]:
    """Give how many tasks of a scope are pending, in progress and blocked where the cursor is; those of a team: its Novas'."""
    row = RollUp.objects.filter(key=key_of(scope, EVER, BEGINNING)).first()
    found = {status: row.sums.get(name, 0) if row else 0 for status, name in tallies.LEVELS.items()}
    return {status: max(0, found[status]) for status in ("pending", "in_progress", "blocked")}
