"""How things stand now in a scope, in a constant number of queries: Novas by derived status, open tasks, incidents, approvals.

Novas are counted in groups of those that the status function can't tell apart, so 10,000 of them cost one query and no rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import BooleanField, Case, Count, Exists, F, OuterRef, Q, QuerySet, Sum, Value, When

from reporting.roll_ups import levels
from reporting.scope import Scope
from safety.models import FleetFact, SafetyIncident, SafetyState
from workflow import derived_status as derived
from workflow.core.demonstration import TEAM
from workflow.models import Approval, Halt, Nova, NovaState, Personality, Task

WORKING = frozenset({derived.WORKING, derived.COMPLETING})
RESTING = frozenset({derived.IDLE, derived.NEW})
STOPPED = frozenset({derived.KILLED, derived.HALTED, derived.PAUSED, derived.DRAINING})
TROUBLED = frozenset({derived.QUARANTINED, derived.SAFETY_PAUSE, derived.ERROR_RECOVERY, derived.SILENT})


@dataclass(slots=True)
class Novas:
    """The Novas of a scope, archived ones left out."""

    by_status: Counter[str] = field(default_factory=Counter)
    unsafe: int = 0
    cycles: int = 0
    protocol_checks: int = 0
    protocol_passes: int = 0

    @property
    def total(self) -> int:
        return self.by_status.total()

    def among(self, statuses: frozenset[str]) -> int:
        return sum(number for status, number in self.by_status.items() if status in statuses)


def novas(scope: Scope, now: datetime, fleet: Mapping[str, FleetFact]) -> Novas:
    """Count the Novas of a scope by their derived status."""
    found = Novas()
    for status, number, row in _groups(scope, now, fleet):
        found.by_status[status] += number
        found.unsafe += number if row["unsafe"] else 0
        found.cycles += row["cycles"] or 0
        found.protocol_checks += row["checks"] or 0
        found.protocol_passes += row["passes"] or 0
    return found


def _groups(scope: Scope, now: datetime, fleet: Mapping[str, FleetFact]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    late = Q(pk__in=())
    for pace in set(Personality.objects.values_list("base_cycle_time", flat=True)):
        late |= Q(nova__personality__base_cycle_time=pace, due_at__lt=now - _patience(pace))
    unsafe = Exists(SafetyState.objects.filter(nova_id=OuterRef("pk"), is_safe=False))
    rows = (
        _of(NovaState.objects.exclude(mode=NovaState.Mode.ARCHIVED), scope, "nova__team", "pk")
        .values(
            "mode",
            "current_state",
            pace=F("nova__personality__base_cycle_time"),
            late=_flag(late),
            busy=_flag(Q(tasks_in_flight__gt=0)),
            begun=_flag(Q(total_cycles_completed__gt=0)),
            unsafe=unsafe,
        )
        .annotate(
            number=Count("pk"),
            cycles=Sum("total_cycles_completed"),
            checks=Sum("protocol_checks"),
            passes=Sum("protocol_passes"),
        )
    )
    for row in rows:
        nova = Nova(personality=Personality(base_cycle_time=row["pace"]))
        state = NovaState(
            mode=row["mode"],
            current_state=row["current_state"],
            due_at=now - _patience(row["pace"]) - timedelta(seconds=1) if row["late"] else now,
            tasks_in_flight=int(row["busy"]),
            total_cycles_completed=int(row["begun"]),
        )
        verdict = SafetyState(is_safe=not row["unsafe"])
        yield derived.derived_status(nova, state, verdict, fleet, now).status, row["number"], row


def _patience(pace: float) -> timedelta:
    return max(derived.SILENT_AFTER, timedelta(seconds=3 * pace))


def _flag(condition: Q) -> Case:
    return Case(When(condition, then=Value(True)), default=Value(False), output_field=BooleanField())


def open_tasks(scope: Scope, *, assigned_only: bool = False) -> Counter[str]:
    """Count the tasks that are not completed, by status: a Nova's exactly, others' from the roll-ups, at any size of the table.

    A team's are its Novas' and, unless `assigned_only`, what is open to the team alone.
    """
    if not scope.nova_id:
        found = Counter(levels(scope.key))
        if scope.team and not assigned_only:
            found["pending"] += Task.objects.filter(
                status="pending", assignee=None, waiting_on=0, team=scope.team, personal=False
            ).count()
        return found
    rows = Task.objects.filter(status__in=("pending", "in_progress", "blocked"), personal=False, assignee=scope.nova_id)
    return Counter(dict(rows.order_by().values_list("status").annotate(Count("pk"))))


def open_incidents(scope: Scope) -> int:
    """Count the incidents that last; the fleet's own are everybody's."""
    rows = SafetyIncident.objects.filter(ended_at=None)
    if scope.nova_id:
        return rows.filter(nova_id__in=("", scope.nova_id)).count()
    if scope.team:
        members = Nova.objects.filter(team=scope.team).values("pk")
        return rows.filter(Q(nova_id="") | Q(nova_id__in=members)).count()
    return rows.exclude(nova_id__in=Nova.objects.filter(team=TEAM).values("pk")).count()


def waiting_approvals(scope: Scope) -> int:
    """Count the approvals that wait for a person."""
    return _of(Approval.objects.filter(status=Approval.Status.PENDING), scope, "nova__team", "nova").count()


def open_halts(scope: Scope) -> int:
    """Count the orders to stop that are in force over this scope or a part of it."""
    rows = Halt.objects.filter(lifted_at=None, drill=False)
    if scope.nova_id:
        team = Nova.objects.filter(pk=scope.nova_id).values_list("team", flat=True).first() or ""
        rows = rows.filter(Q(scope="fleet") | Q(scope="team", target=team) | Q(scope="nova", target=scope.nova_id))
    elif scope.team:
        members = Nova.objects.filter(team=scope.team).values("pk")
        rows = rows.filter(Q(scope="fleet") | Q(scope="team", target=scope.team) | Q(scope="nova", target__in=members))
    return rows.count()


def _of(rows: QuerySet[Any], scope: Scope, team: str, nova: str) -> QuerySet[Any]:
    if scope.nova_id:
        return rows.filter(**{nova: scope.nova_id})
    return rows.filter(**{team: scope.team}) if scope.team else rows.exclude(**{team: TEAM})
