"""How many Novas are in which mode, state and derived status, by one grouped query: the cost hardly grows with the fleet.

The status itself is told by workflow.derived_status, of one Nova that stands for each group.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import BooleanField, Case, Count, Exists, OuterRef, Q, Value, When

from safety.models import FleetFact, SafetyState
from workflow.derived_status import SILENT_AFTER, derived_status, load_fleet
from workflow.models import Nova, NovaState, Personality

_LONG = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """Novas by mode, by state of the workflow, and by derived status."""

    modes: Counter[str]
    states: Counter[str]
    statuses: Counter[str]


def count_fleet(*, now: datetime, fleet: dict[str, FleetFact] | None = None) -> FleetCounts:
    """Count the whole fleet, archived Novas too. `fleet`: what load_fleet() gave, if it was asked already."""
    fleet = load_fleet() if fleet is None else fleet
    counts = FleetCounts(Counter(), Counter(), Counter())
    for group in _groups(now):
        number = group["number"]
        counts.modes[group["mode"]] += number
        counts.states[group["current_state"]] += number
        counts.statuses[_status(group, fleet, now)] += number
    return counts


def _groups(now: datetime) -> Any:
    """Give the groups of Novas that no derived status can tell apart, with their sizes."""
    late = [
        When(nova__personality=slug, due_at__lt=now - max(SILENT_AFTER, timedelta(seconds=3 * cycle)), then=True)
        for slug, cycle in Personality.objects.values_list("slug", "base_cycle_time")
    ]
    unsafe = SafetyState.objects.filter(nova_id=OuterRef("nova_id"), is_safe=False)
    return (
        NovaState.objects.annotate(
            unsafe=Exists(unsafe),
            late=Case(*late, default=False, output_field=BooleanField()) if late else Value(False),
            flying=_flag(Q(tasks_in_flight__gt=0)),
            stepped=_flag(Q(total_cycles_completed__gt=0)),
        )
        .values("mode", "current_state", "unsafe", "late", "flying", "stepped")
        .annotate(number=Count("pk"))
        .order_by()
    )


def _flag(condition: Q) -> Case:
    return Case(When(condition, then=True), default=False, output_field=BooleanField())


def _status(group: dict[str, Any], fleet: dict[str, FleetFact], now: datetime) -> str:
    nova = Nova(nova_id="one", personality=Personality(slug="one", base_cycle_time=1.0))
    state = NovaState(
        mode=group["mode"],
        current_state=group["current_state"],
        due_at=now - _LONG if group["late"] else now,
        tasks_in_flight=int(group["flying"]),
        total_cycles_completed=int(group["stepped"]),
        state_entered_at=now,
        session_start_time=now,
    )
    verdict = SafetyState(nova_id="one", is_safe=False) if group["unsafe"] else None
    return derived_status(nova, state, verdict, fleet, now).status
