"""The fleet as its page shows it: counts by derived status and a page of rows, trouble first. Few queries for any number."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Case, Count, IntegerField, Q, QuerySet, Value, When

from reporting.core.statuses import HELPLESS, LOOKS, Look
from workflow.core.demonstration import TEAM
from workflow.derived_status import derived_status, load_fleet, load_verdicts, status_expression
from workflow.models import NovaState, Personality

PAGE = 50
HELP = "help"  # a filter: whoever needs help


@dataclass(frozen=True, slots=True)
class Row:
    """A Nova in the list, and what it is doing."""

    state: NovaState
    look: Look
    reason: str
    since: datetime | None

    @property
    def nova(self) -> Any:
        return self.state.nova

    @property
    def is_demonstration(self) -> bool:
        return bool(self.nova.team == TEAM)


@dataclass(frozen=True, slots=True)
class FleetPage:
    """One page of the list, and how many there are."""

    rows: list[Row]
    counts: Mapping[str, int]  # by status, of all Novas that fit search and team, whatever status is asked for
    found: int
    number: int
    pages: int


def statuses(now: datetime, text: str = "", team: str = "") -> QuerySet[Any]:
    """Give the states of all Novas in service that fit, each with its `status`."""
    times = dict(Personality.objects.values_list("slug", "base_cycle_time"))
    states: QuerySet[Any] = NovaState.objects.exclude(mode=NovaState.Mode.ARCHIVED)
    if text:
        states = states.filter(Q(nova__nova_id__icontains=text) | Q(nova__name__icontains=text))
    if team:
        states = states.filter(nova__team=team)
    return states.annotate(status=status_expression(load_fleet(), times, now))  # type: ignore[no-any-return]


def counts_by_status(states: QuerySet[Any]) -> dict[str, int]:
    """Count them by status."""
    return dict(states.order_by().values_list("status").annotate(Count("nova_id")))


def fleet_page(*, now: datetime, text: str = "", team: str = "", status: str = "", number: int = 1) -> FleetPage:
    """Give one page of the fleet. `status`: one of the statuses, or `help`; anything else shows all."""
    fitting = statuses(now, text, team)
    counts = counts_by_status(fitting)
    wanted = HELPLESS if status == HELP else (status,) if status in LOOKS else tuple(LOOKS)
    found = sum(counts.get(one, 0) for one in wanted)
    pages = max(1, -(-found // PAGE))
    number = min(max(1, number), pages)
    ranks = Case(*(When(status=look.status, then=Value(look.rank)) for look in LOOKS.values()), output_field=IntegerField())
    chosen = fitting if wanted == tuple(LOOKS) else fitting.filter(status__in=wanted)
    made_up = Case(When(nova__team=TEAM, then=Value(1)), default=Value(0), output_field=IntegerField())
    page = chosen.order_by(made_up, ranks, "nova_id").select_related("nova", "nova__personality")[
        (number - 1) * PAGE : number * PAGE
    ]
    return FleetPage(_rows(list(page), now), counts, found, number, pages)


def row_of(nova_id: str, now: datetime) -> Row | None:
    """Give one Nova, archived or not; None if there is none."""
    found = list(NovaState.objects.filter(nova_id=nova_id).select_related("nova", "nova__personality"))
    return _rows(found, now)[0] if found else None


def _rows(states: list[NovaState], now: datetime) -> list[Row]:
    verdicts, fleet = load_verdicts([state.nova_id for state in states]), load_fleet()
    rows = []
    for state in states:
        doing = derived_status(state.nova, state, verdicts.get(state.nova_id), fleet, now)
        rows.append(Row(state, LOOKS[doing.status], doing.reason, doing.since))
    return rows
