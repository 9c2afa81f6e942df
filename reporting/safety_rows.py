"""Safety as its page shows it: the matrix of Novas and mechanisms, trouble first, and what guards them; few queries.

What each judge says of each Nova is told by the verdict in force and by the incidents that last: every objection has one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, Count, Exists, IntegerField, OuterRef, Q, QuerySet, Sum, Value, When

from reporting.core.safety_looks import GRAVEST, LEVELS, MECHANISMS, SAFE, UNCHECKED, WATCHED, Sign
from reporting.core.statuses import LOOKS, Look
from safety.core.mechanisms import STREAM_MONITOR
from safety.limits import Limit, limits_in_force
from safety.models import FleetFact, ProviderAccount, SafetyIncident, SafetyPolicy, SafetyState
from workflow.core.demonstration import TEAM
from workflow.derived_status import STREAM_REACHABLE, derived_status, load_fleet, load_verdicts
from workflow.models import Halt, HaltConfirmation, NovaState

PAGE = 25
POLICIES_SHOWN = 4
ORDERS_SHOWN = 5
WAITING_SHOWN = 12  # Novas of an order that are named
_UNSTEPPED = frozenset({"new", "silent", "paused", "halted", "killed", "quarantined"})  # so nobody judges them now


@dataclass(frozen=True, slots=True)
class Cell:
    """What one mechanism says of one Nova; `incident`: the open one's id."""

    mechanism: str
    title: str
    sign: Sign
    until: datetime | None = None
    incident: int | None = None


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """A Nova, what it is doing, and what each mechanism says of it."""

    nova_id: str
    look: Look
    is_demonstration: bool
    cells: list[Cell]

    @property
    def is_trouble(self) -> bool:
        return any(cell.sign is not SAFE and cell.sign is not UNCHECKED for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One page of the matrix, and how many rows there are."""

    rows: list[MatrixRow]
    found: int
    number: int
    pages: int


@dataclass(frozen=True, slots=True)
class Order:
    """A standing order to stop: how many confirmed it, and who has not."""

    halt: Halt
    confirmed: int
    total: int
    unreachable: int
    waiting: list[tuple[str, str]]  # nova_id, how far it has come


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit under each of the policies shown."""

    limit: Limit
    values: list[tuple[str, bool]]  # in words, and whether it differs from the preset


def novas_in_service(text: str = "") -> QuerySet[Any]:
    """Give the states of the Novas in service, each with `stopped`: an unsafe verdict is in force."""
    states: QuerySet[Any] = NovaState.objects.exclude(mode=NovaState.Mode.ARCHIVED)
    if text:
        states = states.filter(Q(nova__nova_id__icontains=text) | Q(nova__name__icontains=text))
    stopped: QuerySet[Any] = states.annotate(stopped=_verdict())
    return stopped


def matrix(now: datetime, text: str = "", *, only_trouble: bool = False, number: int = 1) -> Matrix:
    """Give one page of the matrix, the gravest trouble first."""
    lasting = Exists(SafetyIncident.objects.filter(nova_id=OuterRef("nova_id"), ended_at=None))
    states = novas_in_service(text).annotate(lasting=lasting, grave=_verdict(GRAVEST))
    if only_trouble:
        states = states.filter(Q(stopped=True) | Q(lasting=True))
    found = states.count()
    pages = max(1, -(-found // PAGE))
    number = min(max(1, number), pages)
    rank = Case(
        When(nova__team=TEAM, then=Value(9)),
        When(grave=True, then=Value(0)),
        When(stopped=True, then=Value(1)),
        When(lasting=True, then=Value(2)),
        default=Value(3),
        output_field=IntegerField(),
    )
    names = list(states.order_by(rank, "nova_id").values_list("nova_id", flat=True)[(number - 1) * PAGE : number * PAGE])
    page = NovaState.objects.filter(nova__in=names).select_related("nova", "nova__personality")
    return Matrix(_rows(sorted(page, key=lambda state: names.index(state.nova_id)), now), found, number, pages)


def _verdict(levels: Sequence[str] = ()) -> Exists:
    unsafe = SafetyState.objects.filter(nova_id=OuterRef("nova_id"), is_safe=False)
    return Exists(unsafe.filter(safety_level__in=levels) if levels else unsafe)


def _rows(states: list[Any], now: datetime) -> list[MatrixRow]:
    names = [state.nova_id for state in states]
    verdicts, fleet = load_verdicts(names), load_fleet()
    incidents: dict[tuple[str, str], SafetyIncident] = {
        (incident.nova_id, incident.mechanism): incident
        for incident in SafetyIncident.objects.filter(nova_id__in=["", *names], ended_at=None).defer("evidence")
    }
    rows = []
    for state in states:
        verdict = verdicts.get(state.nova_id)
        doing = derived_status(state.nova, state, verdict, fleet, now)
        unjudged = doing.status in _UNSTEPPED
        cells = [_cell(name, state.nova_id, verdict, incidents, fleet, unjudged=unjudged) for name in MECHANISMS]
        rows.append(MatrixRow(state.nova_id, LOOKS[doing.status], state.nova.team == TEAM, cells))
    return rows


def _cell(
    mechanism: str,
    nova_id: str,
    verdict: SafetyState | None,
    incidents: Mapping[tuple[str, str], SafetyIncident],
    fleet: Mapping[str, FleetFact],
    *,
    unjudged: bool,
) -> Cell:
    title = MECHANISMS[mechanism][0]
    found = incidents.get((nova_id, mechanism)) or (incidents.get(("", mechanism)) if mechanism == STREAM_MONITOR else None)
    number = found.pk if found else None
    if verdict is not None and not verdict.is_safe and verdict.mechanism == mechanism:
        return Cell(mechanism, title, LEVELS.get(verdict.safety_level, WATCHED), verdict.until, number)
    if found is not None:
        sign = LEVELS.get(found.safety_level, WATCHED)
        return Cell(mechanism, title, WATCHED if sign is SAFE else sign, None, number)
    stream = fleet.get(STREAM_REACHABLE)
    if mechanism == STREAM_MONITOR and stream is not None and stream.value is False:
        return Cell(mechanism, title, LEVELS["cooldown"])
    return Cell(mechanism, title, UNCHECKED if unjudged else SAFE)


def cycles_checked() -> int:
    """Count the cycles of all Novas since they were made: before each of them the judges are asked."""
    real = NovaState.objects.exclude(nova__team=TEAM)
    return int(real.aggregate(cycles=Sum("total_cycles_completed"))["cycles"] or 0)


def objections() -> dict[str, int]:
    """Count the incidents that last, by mechanism."""
    return dict(SafetyIncident.objects.filter(ended_at=None).order_by().values_list("mechanism").annotate(Count("id")))


def breakers(now: datetime) -> list[ProviderAccount]:
    """Give the provider accounts in use, those with an open breaker first, each with the number of its `users`."""
    shut = Case(When(breaker="open", then=Value(0)), When(breaker="half_open", then=Value(1)), default=Value(2))
    accounts = ProviderAccount.objects.filter(archived_at=None).annotate(users=Count("novas"), shut=shut)
    return list(accounts.order_by("shut", "slug")[:50])


def policies_in_use() -> tuple[list[Any], list[LimitRow]]:
    """Give the policies that most Novas live under, each with the number of its `users`, and every limit under each."""
    used = SafetyPolicy.objects.annotate(users=Count("nova", filter=Q(nova__archived_at=None))).filter(users__gt=0)
    policies = list(used.order_by("-users", "slug")[:POLICIES_SHOWN])
    columns = [limits_in_force(policy) for policy in policies]
    rows = [LimitRow(row[0], [(one.in_words(one.value), one.differs) for one in row]) for row in zip(*columns, strict=True)]
    return policies, rows


def standing_orders() -> list[Order]:
    """Give the newest orders that stand, with who has confirmed and who has not."""
    halts = list(Halt.objects.filter(lifted_at=None, drill=False).order_by("-id")[:ORDERS_SHOWN])
    counts: dict[int, dict[str, int]] = {halt.pk: {} for halt in halts}
    waiting: dict[int, list[tuple[str, str]]] = {halt.pk: [] for halt in halts}
    confirmations = HaltConfirmation.objects.filter(halt__in=halts)
    for pk, status, number in confirmations.order_by().values_list("halt", "status").annotate(Count("id")):
        counts[pk][status] = number
    late = confirmations.exclude(status=HaltConfirmation.Status.CONFIRMED).order_by("-halt", "id")
    for pk, nova_id, status in late.values_list("halt", "nova", "status")[:200]:
        if len(waiting[pk]) < WAITING_SHOWN:
            waiting[pk].append((nova_id, status))
    return [
        Order(
            halt,
            counts[halt.pk].get("confirmed", 0),
            sum(counts[halt.pk].values()),
            counts[halt.pk].get("unreachable", 0),
            waiting[halt.pk],
        )
        for halt in halts
    ]


@dataclass(frozen=True, slots=True)
class Drill:
    """The newest drill, and how long the slowest Nova took to answer (None: not all have)."""

    halt: Halt
    confirmed: int
    total: int
    slowest: timedelta | None


def last_drill() -> Drill | None:
    """Give the newest drill of the whole fleet; None if there was none."""
    halt = Halt.objects.filter(drill=True, scope=Halt.Scope.FLEET).order_by("-id").first()
    if halt is None:
        return None
    newest = halt.confirmations.order_by("-confirmed_at").exclude(confirmed_at=None)
    confirmed, total = newest.count(), halt.confirmations.count()
    last = newest.values_list("confirmed_at", flat=True).first()
    return Drill(halt, confirmed, total, last - halt.requested_at if last and confirmed == total else None)
